"""What the student kept of the teacher, and what it lost: measured on held-out data, beside two honest references.

Fidelity (KL to the teacher, top-1 agreement) and quality (perplexity, bits per byte on the text itself) are two axes:
a student trained on plain text can win the second and lose the first. So both are always given, for the student, the
same student before training (init) and a control that took as many steps under plain cross-entropy.

    scoring.py     score(models, rows, ...)    -> Scores   one pass, sums per document
    estimates.py   retention(scores, ...)      -> dict     estimates with intervals over documents, and one Finding
    answers.py     answer_prompts, exact_match -> dict     for tasks that have an answer
"""

from stillproof.distill.retention.answers import answer_prompts, exact_match
from stillproof.distill.retention.estimates import retention
from stillproof.distill.retention.scoring import CHUNK_POSITIONS, TEACHER, Scores, score

__all__ = ["CHUNK_POSITIONS", "TEACHER", "Scores", "answer_prompts", "exact_match", "retention", "score"]
