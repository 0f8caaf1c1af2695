"""What a group of accounts sends, in columns, before it has pseudonyms: the interface of every group builder.

A builder is a function `(size, window, rng, arrivals, pools, settings) -> (Stream, AccountFacts)`; it numbers its
accounts 0..size-1 and knows nothing of other groups. `Stream.of` fills every column that a builder does not name.
Builders import Stream, AccountFacts, Window, Times, Arrivals and Pools from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.guard.traffic.arrivals import DAY_US, HOUR_US, Arrivals, Times, Window
from stillproof.guard.traffic.pools import Pools

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DAY_US",
    "HOUR_US",
    "AccountFacts",
    "Arrivals",
    "Builder",
    "Pools",
    "Stream",
    "Times",
    "Window",
]

ARRAYS = {
    "account": np.int32,
    "time_us": np.int64,
    "turn": np.int32,
    "prompt_tokens": np.int64,
    "response_tokens": np.int64,
    "reasoning_tokens": np.int64,
    "status": np.int32,
    "network": np.int64,
    "is_campaign": np.bool_,
}
DEFAULTS: dict[str, Any] = {
    "turn": 1,
    "prompt_tokens": 0,
    "response_tokens": 0,
    "reasoning_tokens": 0,
    "status": 200,
    "network": -1,
    "is_campaign": False,
    "model": "large-1",
    "client": "sdk-python/1.9",
}


@dataclass
class Stream:
    """Exchanges of one group, parallel columns of equal length n; None stands for an absent value.

    `account` is local (0..n_accounts-1). `conversation`, `blob` and `blob_issued` are local names, made pseudonyms on
    writing. `network` is a local network number of the group, or negative: the account's own network, -1 its first, -2
    its second. `model` is a name, or '@newest' or '@previous' for the newest release (the one before) at that time.
    `prompt_tokens` 0 is filled from the lengths of system and prompt; `response_tokens` 0 from the arrivals' lengths.
    `is_campaign` is False for camouflage and for everything honest.
    """

    account: NDArray[np.int32]
    time_us: NDArray[np.int64]
    prompt: list[str]
    system: list[str | None]
    turn: NDArray[np.int32]
    conversation: list[str | None]
    model: list[str]
    tools: list[str | None]
    temperature: list[float | None]
    top_p: list[float | None]
    max_tokens: list[int | None]
    n_samples: list[int | None]
    top_logprobs: list[int | None]
    prompt_tokens: NDArray[np.int64]
    response_tokens: NDArray[np.int64]
    reasoning_tokens: NDArray[np.int64]
    status: NDArray[np.int32]
    blob: list[str | None]
    blob_issued: list[str | None]
    client: list[str]
    network: NDArray[np.int64]
    is_campaign: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time_us)

    @classmethod
    def of(
        cls, account: NDArray[np.int32], time_us: NDArray[np.int64], prompt: Sequence[str], **columns: Any
    ) -> Stream:
        """A stream from its columns by name; a scalar (a str counts as one) holds for every exchange."""
        n = len(time_us)
        unknown = set(columns) - {field.name for field in fields(cls)}
        if unknown:
            raise TypeError(f"a Stream has no column {min(unknown)!r}")
        values: dict[str, Any] = {"account": account, "time_us": time_us, "prompt": prompt}
        made: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name, columns.get(field.name, DEFAULTS.get(field.name)))
            single = not isinstance(value, (list, tuple, np.ndarray))
            if field.name in ARRAYS:
                made[field.name] = (
                    np.full(n, value, ARRAYS[field.name]) if single else np.asarray(value, ARRAYS[field.name])
                )
            else:
                made[field.name] = [value] * n if single else list(value)
            if len(made[field.name]) != n:
                raise ValueError(f"column {field.name!r} has {len(made[field.name])} entries, not {n}")
        return cls(**made)

    def take(self, rows: NDArray[Any]) -> Stream:
        """The exchanges of an index array or boolean mask."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        places = index.tolist()
        made: dict[str, Any] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            made[field.name] = column[index] if field.name in ARRAYS else [column[place] for place in places]
        return Stream(**made)

    @staticmethod
    def concat(streams: Sequence[Stream]) -> Stream:
        """One stream of several over the same accounts; times need not be sorted."""
        made: dict[str, Any] = {}
        for field in fields(Stream):
            columns = [getattr(stream, field.name) for stream in streams]
            if field.name in ARRAYS:
                made[field.name] = np.concatenate([*columns, np.zeros(0, ARRAYS[field.name])]).astype(
                    ARRAYS[field.name]
                )
            else:
                made[field.name] = [value for column in columns for value in column]
        return Stream(**made)


@dataclass
class AccountFacts:
    """What the operator knows of the accounts of one group; entry i is local account i.

    `payment` and `organisation` are local numbers (equal number: the same instrument or declared customer); None: no
    payment (a free plan), no declared customer. A negative or absent payment number is never shared.
    """

    signup_us: NDArray[np.int64]
    plan: list[str]
    payment: list[int | None]
    organisation: list[int | None]
    tz_offset_h: NDArray[np.float64]

    @classmethod
    def of(cls, signup_us: NDArray[np.int64], **columns: Any) -> AccountFacts:
        """Facts by name; a scalar holds for all. Defaults: plan 'pro', each its own payment, no organisation, UTC."""
        n = len(signup_us)
        values: dict[str, Any] = {
            "plan": "pro",
            "payment": range(n),
            "organisation": None,
            "tz_offset_h": 0.0,
        } | columns

        def spread(name: str) -> list[Any]:
            value = values[name]
            return list(value) if isinstance(value, (list, tuple, range, np.ndarray)) else [value] * n

        zones = np.asarray(spread("tz_offset_h"), np.float64)
        return cls(np.asarray(signup_us, np.int64), spread("plan"), spread("payment"), spread("organisation"), zones)


Builder = Callable[
    [int, Window, np.random.Generator, Arrivals, Pools, dict[str, Any]],
    tuple[Stream, AccountFacts],
]
