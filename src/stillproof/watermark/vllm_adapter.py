"""Marks in vLLM: a custom logits processor of its V1 engine, by the interface that its documentation describes.

    STILLPROOF_MARK_KEY=key.json vllm serve MODEL --logits-processors stillproof.watermark.vllm_adapter:MarkProcessor

The class must be a subclass of vLLM's own, so it is made when it is first asked for, and this module imports no vLLM
before. Each request that carries `vllm_xargs: {"stillproof_mark": 1}` is marked; others pass untouched. Where the
scheme has sub-keys, `stillproof_account` names the account's pseudonym: let a gateway set both, never the client.

A marked request's token is drawn here, as `Marker` draws it, and is the only one left possible. So the request's own
temperature is read here and applied once; top_p, top_k, min_p and the penalties would come after the draw, too late,
and such requests are refused. At temperature 0 there is nothing to mark. vLLM gives custom processors no speculative
decoding. `Marks`, which does the work, knows nothing of vLLM: it is tested against a fake of the interface.
It has not been run inside vLLM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillproof.errors import ConfigError, InputError, MissingExtraError
from stillproof.watermark.keys import MarkKey
from stillproof.watermark.marking import Marker, prompt_windows
from stillproof.watermark.tensors import Tensor, one_hot, step_tensor

KEY_ENV = "STILLPROOF_MARK_KEY"
MARK_ARG, ACCOUNT_ARG = "stillproof_mark", "stillproof_account"

_NEUTRAL = (
    ("top_p", (1, None)),
    ("top_k", (0, -1, None)),
    ("min_p", (0, None)),
    ("presence_penalty", (0, None)),
    ("frequency_penalty", (0, None)),
    ("repetition_penalty", (1, None)),
)
_MOST_BYTES = 65_536


@dataclass(slots=True)
class _Request:
    marker: Marker
    output: list[int]
    """vLLM's own list, which grows as tokens are served."""
    used: set[int]
    account: str | None


class Marks:
    """The marked requests of a batch, by row: what `update_state` and `apply` of a logits processor do."""

    def __init__(self, key: MarkKey) -> None:
        self._key = key
        self._rows: dict[int, _Request] = {}

    def update(self, change: Any) -> None:
        """A batch's change, in vLLM's order: removed, added, moved. `change` is vLLM's BatchUpdate, or None."""
        if change is None:
            return
        for index in change.removed:
            self._rows.pop(index, None)
        for index, params, prompt, output in change.added:
            # A row may be taken by another request without having been removed.
            self._rows.pop(index, None)
            request = self._request(params, prompt or [], output)
            if request is not None:
                self._rows[index] = request
        for source, target, direction in change.moved:
            one, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if one is not None:
                self._rows[target] = one
            if other is not None and direction.name == "SWAP":
                self._rows[source] = other

    def apply(self, logits: Tensor) -> Tensor:
        """[rows, vocab] -> the same, where each marked row can only be the token drawn."""
        if not self._rows:
            return logits
        rows = sorted(self._rows)
        ids = [self._draw(logits[row : row + 1], self._rows[row]) for row in rows]
        return one_hot(logits, rows, np.array(ids, dtype=np.int64))

    def _draw(self, logits: Tensor, request: _Request) -> int:
        accounts = None if request.account is None else [request.account]
        return int(step_tensor(request.marker, logits, [request.output], [request.used], accounts)[0])

    def _request(self, params: Any, prompt: list[int], output: list[int]) -> _Request | None:
        if not asked(params) or not params.temperature > 0:
            return None
        seed = params.seed
        rng = np.random.Generator(np.random.Philox() if seed is None else np.random.Philox(seed))
        marker = Marker(self._key, rng, temperature=float(params.temperature))
        used = prompt_windows(prompt, self._key.scheme.k)
        account = account_of(params) if self._key.scheme.account_share else None
        return _Request(marker, output, used, account)


def asked(params: Any) -> bool:
    """Whether a request's SamplingParams ask for a mark."""
    return bool((params.extra_args or {}).get(MARK_ARG))


def account_of(params: Any) -> str:
    """The account that a request is of. Raises InputError (a ValueError) where it names none."""
    account = (params.extra_args or {}).get(ACCOUNT_ARG)
    if not isinstance(account, str) or not account:
        raise InputError(f"{ACCOUNT_ARG} is missing", remedy="let the gateway give the account's pseudonym")
    return account


def check_params(params: Any, key: MarkKey) -> None:
    """Raises InputError (a ValueError, which vLLM answers with status 400) for a request that cannot be marked."""
    for name, neutral in _NEUTRAL:
        value = getattr(params, name, None)
        if value not in neutral:
            raise InputError(f"a marked request with {name} {value}", name, "marked tokens are drawn before it applies")
    if not params.temperature > 0:
        raise InputError("a marked request at temperature 0", remedy="ask for a temperature above 0")
    if key.scheme.account_share:
        account_of(params)


def key_of(environment: Mapping[str, str]) -> MarkKey:
    """The key whose file STILLPROOF_MARK_KEY names. Raises ConfigError, InputError or CustodyError."""
    name = environment.get(KEY_ENV, "")
    if not name:
        raise ConfigError(f"{KEY_ENV} is not set", KEY_ENV, "set it to the key file that `stillproof trace key` wrote")
    path = Path(name)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the key: {error.strerror}", name, "see to its path and rights") from error
    if len(raw) > _MOST_BYTES:
        raise InputError("too large for a key file", name, "name the file that `stillproof trace key` wrote")
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError("not a key file", name, "name the file that `stillproof trace key` wrote") from None
    return MarkKey.from_json(row)


def processor_class(base: type) -> type:
    """A logits processor class for vLLM, derived from its `LogitsProcessor`."""

    class MarkProcessor(base):
        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            if asked(sampling_params):
                check_params(sampling_params, key_of(os.environ))

        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            # Installed beside vLLM and not asked to mark anything, this must not stop a server.
            self._marks = Marks(key_of(os.environ)) if os.environ.get(KEY_ENV) else None

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            if self._marks is not None:
                self._marks.update(batch_update)

        def apply(self, logits: Tensor) -> Tensor:
            return logits if self._marks is None else self._marks.apply(logits)

    MarkProcessor.__module__, MarkProcessor.__qualname__ = __name__, "MarkProcessor"
    return MarkProcessor


def __getattr__(name: str) -> Any:
    if name != "MarkProcessor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from vllm.v1.sample.logits_processor import LogitsProcessor  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise MissingExtraError(
            "marks in vLLM need vLLM", "vllm", "pip install vllm, on the machine that serves"
        ) from error
    made = processor_class(LogitsProcessor)
    globals()[name] = made
    return made
