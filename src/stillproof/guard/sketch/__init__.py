"""Exchanges as integers: the only code of guard that touches text.

    sketch_log       the files of a log, in a pool of processes, resumable           files.py
    sketch_batch     one record batch, row by row the same bytes everywhere          rows.py
    similarity       MinHash estimate of the Jaccard similarity of two prompts       shingles.py

    keys.py          salted tables, the polynomial hash and its finaliser
    normalise.py     what counts as the same text: case, width, spaces, invisible characters
    words.py         words and hashes of sequences of them
    phrases.py       wordings that extraction uses, from data/guard/phrases.toml

Two sketches can be compared if their version and their salt are equal. A sketch gives no text back, but whoever has the
salt can test whether a guessed text is in it: keep the salt as a secret.
"""

from stillproof.guard.sketch.files import SketchCounts, sketch_counts, sketch_log
from stillproof.guard.sketch.keys import SKETCH_VERSION, salt_digest
from stillproof.guard.sketch.rows import account_numbers, compact, sketch_batch, sketch_schema
from stillproof.guard.sketch.shingles import merge_minhash, merge_projection, similarity

__all__ = [
    "SKETCH_VERSION",
    "SketchCounts",
    "account_numbers",
    "compact",
    "merge_minhash",
    "merge_projection",
    "salt_digest",
    "similarity",
    "sketch_batch",
    "sketch_counts",
    "sketch_log",
    "sketch_schema",
]
