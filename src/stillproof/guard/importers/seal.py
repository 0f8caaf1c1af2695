"""From the raw columns of a foreign row to a row of our log: coerced, pseudonymised, with an id.

Raw names of accounts, organisations, conversations, addresses, payments and the reasoning blocks stop here.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stillproof.guard.importers.fields import Malformed, real, text, when, whole
from stillproof.store import pseudonym

_TEXTS = ("model", "system", "prompt", "tools")
_WHOLES = (
    "turn", "max_tokens", "n_samples", "top_logprobs", "prompt_tokens", "response_tokens", "reasoning_tokens", "status"
)  # fmt: skip
_REALS = ("temperature", "top_p", "latency_s")
_HASHED = ("organisation", "conversation", "blob", "blob_issued")
_FACTS = ("signup", "plan", "payment")
_CONTENT = (
    "model",
    "system",
    "prompt",
    "tools",
    "turn",
    "temperature",
    "top_p",
    "max_tokens",
    "n_samples",
    "top_logprobs",
)
_MAX_NAME = 256
"""Characters of an id or a client's name that are kept."""


class Sealer:
    """Makes rows under one key, and knows which it has seen.

    A row with an id of its own is a duplicate where id, account and time are all the same: a client that may choose its
    request id cannot hide later exchanges by using one id again. A row without gets a keyed hash of its content and an
    occurrence index, by the rule of `exchange.with_ids`: k identical samples stay k rows.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hash_key = hashlib.sha256(b"stillproof.guard.import" + key).digest()
        self._name: Callable[[str], str] = lru_cache(maxsize=1 << 17)(lambda raw: pseudonym(key, raw))
        self._network: Callable[[str], str | None] = lru_cache(maxsize=1 << 17)(self._prefix)
        self._seen: set[int] = set()
        self._occurrences: dict[int, int] = {}
        self.facts: dict[str, list[Any]] = {}
        """organisation, signup (us), plan, payment of each account, the first value that was logged of each."""
        self.blanked: Counter[str] = Counter()
        """Values that did not fit their column and became null."""

    def row(self, raw: dict[str, Any]) -> dict[str, Any] | None:
        """The row; None for a duplicate. Raises Malformed where time or account is missing or cannot be read."""
        account = text(raw.get("account"))
        if account is None or not account.strip():
            raise Malformed("no account")
        if raw.get("time") is None:
            raise Malformed("no time")
        time = when(raw["time"])
        if time is None:
            raise Malformed("time cannot be read")
        row: dict[str, Any] = {"time": time, "account": self._name(account)}
        self._fill(row, raw)
        return row if self._identify(row, text(raw.get("id"))) else None

    def _fill(self, row: dict[str, Any], raw: dict[str, Any]) -> None:
        if raw.get("latency_s") is None and raw.get("latency_ms") is not None:
            millis = real(raw["latency_ms"])
            raw["latency_s"] = None if millis is None else millis / 1000
        for names, coerce in ((_TEXTS, text), (_WHOLES, whole), (_REALS, real)):
            for name in names:
                value = raw.get(name)
                if value is not None:
                    row[name] = value = coerce(value)
                    if value is None:
                        self.blanked[name] += 1
        for name in _HASHED:
            value = text(raw.get(name))
            row[name] = None if value is None else self._name(value)
        address = text(raw.get("network"))
        if address is not None:
            row["network"] = self._network(address[:_MAX_NAME])
            if row["network"] is None:
                self.blanked["network"] += 1
        client = text(raw.get("client"))
        row["client"] = None if client is None else client[:_MAX_NAME]
        self._note(row, raw)

    def _note(self, row: dict[str, Any], raw: dict[str, Any]) -> None:
        """Account facts, which stand in a table of their own."""
        if row["organisation"] is None and not any(raw.get(name) for name in _FACTS):
            return
        payment = text(raw.get("payment"))
        found = (row["organisation"], when(raw.get("signup")), text(raw.get("plan")), payment and self._name(payment))
        known = self.facts.setdefault(row["account"], [None] * 4)
        for index, value in enumerate(found):
            if known[index] is None:
                known[index] = value

    def _identify(self, row: dict[str, Any], given: str | None) -> bool:
        if given is None:
            digest = hashlib.blake2b(key=self._hash_key, digest_size=20)
            for name in _CONTENT:
                value = row.get(name)
                digest.update(b"\0" if value is None else b"\1%b\0" % str(value).encode())
            number = int.from_bytes(digest.digest()[:8], "big")
            occurrence = self._occurrences.get(number, 0)
            self._occurrences[number] = occurrence + 1
            row["id"] = f"{digest.hexdigest()}-{occurrence}"
            return True
        # A name too long to keep is known by its hash.
        row["id"] = given if len(given) <= _MAX_NAME else hashlib.sha256(given.encode()).hexdigest()
        told = f"{given}\0{row['account']}\0{row['time']}".encode()
        number = int.from_bytes(hashlib.blake2b(told, key=self._hash_key, digest_size=8).digest(), "big")
        if number in self._seen:
            return False
        self._seen.add(number)
        return True

    def _prefix(self, raw: str) -> str | None:
        """The pseudonym of the /24 or /48 that the address lies in; None where it is no address."""
        first = raw.split(",", maxsplit=1)[0].strip()
        if first.startswith("["):
            first = first[1:].partition("]")[0]
        elif first.count(":") == 1:
            first = first.partition(":")[0]
        try:
            address = ipaddress.ip_address(first.partition("/")[0])
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        length = 24 if address.version == 4 else 48
        # Of the number, not of the text: a scope id is no part of a network.
        network = ipaddress.ip_network((int(address), address.max_prefixlen)).supernet(new_prefix=length)
        return pseudonym(self._key, str(network))
