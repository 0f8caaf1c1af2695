"""The secret behind a watermark, its public commitment, sub-keys of accounts, and decoys that never marked anything.

One secret is for one scheme: every lane (the 128 bits that the pseudo-random function takes) is HMAC-SHA-256, under the
secret, of the scheme's parameters and a label, so a commitment to both fixes all of them, those of accounts included.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError, CustodyError, MismatchError
from stillproof.watermark.prf import NO_TOKEN, Lanes, Stream, philox, prf_words

Kind = Literal["green", "gumbel"]

SECRET_BYTES = 32
MAX_WINDOW = 8

_COMMITMENT = b"stillproof watermark commitment 1\0"
_LANE = b"stillproof watermark lane 1\0"


@dataclass(frozen=True, slots=True)
class Scheme:
    """What is public of a watermark. Raises ConfigError for parameters out of range."""

    kind: Kind
    k: int
    """Tokens of context in a window. Fewer are easier for a student to learn, and easier to see."""
    gamma: float = 0.25
    """Green list: share of the vocabulary that is green after each window, rounded to 2^-32."""
    delta: float = 2.0
    """Green list: added to the logits of green tokens, nats."""
    second_share: float = 0.1
    """Gumbel: share of tokens drawn under the second key, so that one prompt has more than one answer. Scores read the
    first key alone: the second would add (share / (1 - share))^2 of the information, 1% at .1."""
    account_share: float = 0.0
    """Share of windows that carry the account's sub-key in place of the global one."""
    top: int = 64
    """Candidates a token that are marked, the most likely ones."""

    def __post_init__(self) -> None:
        for name in ("gamma", "delta", "second_share", "account_share"):
            # 2 and 2.0 are one parameter, and must be committed to alike.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, fine in (
            ("kind", self.kind in get_args(Kind)),
            ("k", type(self.k) is int and 1 <= self.k <= MAX_WINDOW),
            ("gamma", 0.01 <= self.gamma <= 0.99),
            ("delta", 0 < self.delta <= 20),
            ("second_share", 0 <= self.second_share <= 0.5),
            ("account_share", 0 <= self.account_share <= 0.9),
            ("top", type(self.top) is int and 2 <= self.top <= 4096),
        ):
            if not fine:
                raise ConfigError(f"a watermark's {name} cannot be {getattr(self, name)!r}", name)

    @property
    def green_below(self) -> int:
        """A word below this is green."""
        return round(self.gamma * 2**32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, repr=False, eq=False)
class MarkKey:
    """A secret and its scheme. `repr` shows the commitment, never the secret."""

    scheme: Scheme
    secret: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != SECRET_BYTES:
            raise CustodyError(f"a watermark's secret is {SECRET_BYTES} bytes", remedy="make it with MarkKey.generate")

    def __repr__(self) -> str:
        return f"MarkKey({self.scheme!r}, commitment={self.commitment!r})"

    @classmethod
    def generate(cls, scheme: Scheme) -> MarkKey:
        """A new key from the system's source of secrets."""
        return cls(scheme, secrets.token_bytes(SECRET_BYTES))

    @cached_property
    def commitment(self) -> str:
        """SHA-256 of the secret and the parameters, in hex: publish it before an audit, so that no key is shopped for.

        256 random bits hide the secret; to find another secret with this commitment is to break SHA-256.
        """
        return hashlib.sha256(_COMMITMENT + self._parameters + b"\0" + self.secret).hexdigest()

    @cached_property
    def lane(self) -> Lanes:
        """Four words, shape [4]: the global key."""
        return self._lane("global")

    def account_lane(self, account: str) -> Lanes:
        """Four words, shape [4]: the sub-key of an account, named by its pseudonym."""
        if not account:
            raise CustodyError("a sub-key without an account", remedy="give the account's pseudonym")
        return self._lane(f"account:{account}")

    def for_account(self, windows: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which window codes carry the account's sub-key, whichever account it is; any shape.

        The coin of a window is of a stream of its own: it tells nothing about which tokens the window favours.
        """
        if self.scheme.account_share == 0:
            return np.zeros(np.shape(windows), dtype=np.bool_)
        return prf_words(self.lane, windows, NO_TOKEN, Stream.SHARE) < self.account_below

    @property
    def account_below(self) -> int:
        return round(self.scheme.account_share * 2**32)

    def to_json(self) -> dict[str, Any]:
        """The whole key, secret included: for a sealed ledger, never for a log."""
        return {"scheme": self.scheme.to_json(), "secret": self.secret.hex(), "commitment": self.commitment}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> MarkKey:
        """The inverse of `to_json`. Raises CustodyError for another shape, MismatchError where the commitment is not
        that of the key."""
        known = {field.name for field in fields(Scheme)}
        try:
            parameters = dict(row["scheme"])
            if set(parameters) != known:
                raise CustodyError("a key of another version's scheme", remedy="read it with the version that wrote it")
            key = cls(Scheme(**parameters), bytes.fromhex(row["secret"]))
            commitment = str(row["commitment"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # The cause is not chained: its text may quote the secret.
            raise CustodyError(
                f"not a watermark key ({type(error).__name__})", remedy="write it with to_json"
            ) from None
        verify_commitment(key, commitment)
        return key

    @cached_property
    def _parameters(self) -> bytes:
        return json.dumps(self.scheme.to_json(), sort_keys=True, separators=(",", ":")).encode()

    def _lane(self, label: str) -> Lanes:
        name = label.encode()
        message = b"".join(len(part).to_bytes(4, "big") + part for part in (self._parameters, name))
        digest = hmac.digest(self.secret, _LANE + message, "sha256")
        return np.frombuffer(digest[:16], dtype="<u4").astype(np.uint64)


def verify_commitment(key: MarkKey, commitment: str) -> None:
    """Raises MismatchError unless the commitment is that of the key and its parameters."""
    if not hmac.compare_digest(key.commitment.encode(), commitment.strip().lower().encode()):
        remedy = "audit with the key and the parameters that were committed to"
        raise MismatchError("the key is not the one committed to", commitment[:64], remedy)


def decoy_lanes(n: int, seed: int) -> Lanes:
    """Lanes of `n` keys that never marked anything, shape [n, 4], uniform; the same for one seed on every platform."""
    if n < 0 or not 0 <= seed < 2**64:
        raise ConfigError(f"{n} decoy keys with seed {seed}", remedy="give a count and a seed of 0 or more")
    index = np.arange(n, dtype=np.uint64)
    words = philox((index & 0xFFFFFFFF, index >> 32, 0, int(Stream.DECOY)), (seed & 0xFFFFFFFF, seed >> 32))
    return np.ascontiguousarray(words.T).astype(np.uint64)
