"""stillproof: model distillation with proof.

Two nouns flow through everything: an `Exchange` goes in (one prompt and the response a model gave to it), a
`Finding` comes out (a claim with its null hypothesis, test, statistic and sample size).

    stillproof.exchange   Exchange, Message, Sampling, ResponseTokens: the record
    stillproof.store      exchanges on disk, crash-safe
    stillproof.teacher    anything that answers a prompt: local weights, an API, a replay
    stillproof.serve      the recorder around a teacher, and the sealed ledger of its coins
    stillproof.terms      may this teacher be distilled, and what does the student then owe?
    stillproof.distill    put a teacher into a smaller model, and measure what was kept and lost
    stillproof.finding    claims with their evidence
    stillproof.report     results for a terminal
    stillproof.config     one typed config per command

The names below are loaded when they are first used: importing this package loads neither torch nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillproof.config import DistillConfig as DistillConfig
    from stillproof.errors import StillproofError as StillproofError
    from stillproof.exchange import Exchange as Exchange
    from stillproof.exchange import Message as Message
    from stillproof.exchange import ResponseTokens as ResponseTokens
    from stillproof.exchange import Sampling as Sampling
    from stillproof.finding import Finding as Finding
    from stillproof.store import Store as Store
    from stillproof.teacher import Request as Request
    from stillproof.teacher import Teacher as Teacher
    from stillproof.teacher import open_teacher as open_teacher
    from stillproof.teacher.fake import FakeTeacher as FakeTeacher

__version__ = "0.1.0"

_HOME = {
    "DistillConfig": "config",
    "Exchange": "exchange",
    "FakeTeacher": "teacher.fake",
    "Finding": "finding",
    "Message": "exchange",
    "Request": "teacher",
    "ResponseTokens": "exchange",
    "Sampling": "exchange",
    "StillproofError": "errors",
    "Store": "store",
    "Teacher": "teacher",
    "open_teacher": "teacher",
}

__all__ = [
    "DistillConfig",
    "Exchange",
    "FakeTeacher",
    "Finding",
    "Message",
    "Request",
    "ResponseTokens",
    "Sampling",
    "StillproofError",
    "Store",
    "Teacher",
    "__version__",
    "open_teacher",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'stillproof' has no attribute {name!r}")
    value = getattr(import_module(f"stillproof.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
