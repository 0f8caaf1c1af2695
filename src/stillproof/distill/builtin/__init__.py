"""Training text that every user has at hand, so that a first distillation needs no download.

- `python_docs`: the language reference and the docstrings of the standard library, read from the sources of the
  Python installation in use. The text is under PSF-2.0; it is read where it lies and never shipped. It differs a
  little between Python versions, so a manifest names `corpus_digest` of what was read.
- `intents`: messages to the front desk of an invented library with a workshop, each with the request it makes.
  Written for this project (`data/intents.toml`, Apache-2.0). The splits share no wording: a model that does well
  on `test` has understood messages worded in ways that it never saw.
- `prompts`: requests to a general small assistant, for a teacher to answer. Written for this project
  (`data/prompts.toml`, Apache-2.0).
- `word_problems`: arithmetic word problems with worked solutions, in splits for training and test and one of new
  situations. Written for this project (`data/word_problems.toml`, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterable

from stillproof.distill.builtin.intents import INTENT_SIZES, intent_labels, intents, intents_gold
from stillproof.distill.builtin.prompts import prompts
from stillproof.distill.builtin.python_docs import python_docs
from stillproof.distill.builtin.word_problems import WORD_PROBLEM_SIZES, word_problems
from stillproof.exchange import Exchange, sha256_of

__all__ = [
    "INTENTS_LICENCE",
    "INTENT_SIZES",
    "PROMPTS_LICENCE",
    "PYTHON_DOCS_LICENCE",
    "WORD_PROBLEMS_LICENCE",
    "WORD_PROBLEM_SIZES",
    "corpus_digest",
    "intent_labels",
    "intents",
    "intents_gold",
    "prompts",
    "python_docs",
    "word_problems",
]

PYTHON_DOCS_LICENCE = "PSF-2.0"
INTENTS_LICENCE = "Apache-2.0"
PROMPTS_LICENCE = "Apache-2.0"
WORD_PROBLEMS_LICENCE = "Apache-2.0"


def corpus_digest(exchanges: Iterable[Exchange]) -> str:
    """SHA-256 (hex) over the sorted ids. Ids are content hashes here, so it changes whenever any text does."""
    return sha256_of(sorted(exchange.id for exchange in exchanges))
