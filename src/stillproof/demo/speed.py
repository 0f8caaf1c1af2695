"""How fast this machine reads and trains, from a few rows through the second act's models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stillproof.demo.budget import Speeds

if TYPE_CHECKING:
    from stillproof.distill.pack import Rows

_ROWS, _ROW_TOKENS = 4, 256
_TOP_K = 32
_STUDENT_LAYERS = 12


def measure() -> Speeds:
    """A few rows read as the cache reads them, and learned as a step learns them. Takes seconds, most of it loading."""
    from stillproof.device import best_device, native_bf16
    from stillproof.distill.losses import release_buffers
    from stillproof.distill.student import choose_layers, drop_layers
    from stillproof.teacher.weights import load_weights

    loaded: Any = load_weights("smollm2")[0]
    model = loaded.to(best_device())
    dtype = "bf16" if native_bf16(model.device.type) else "fp32"
    read_s = _seconds_a_token(lambda rows: _read(model, rows, dtype))
    student = drop_layers(model, choose_layers(int(model.config.num_hidden_layers), _STUDENT_LAYERS))
    train_s = _seconds_a_token(lambda rows: _learn(student, rows, dtype))
    release_buffers()
    return Speeds(train_s, read_s)


def _seconds_a_token(work: Callable[[Rows], None]) -> float:
    """Once to warm up, then measured."""
    work(_rows(1))
    started = time.monotonic()
    work(_rows(_ROWS))
    return (time.monotonic() - started) / (_ROWS * _ROW_TOKENS)


def _read(model: Any, rows: Rows, dtype: str) -> None:
    from stillproof.distill.forward import full_logits

    for logits in full_logits(model, rows, int(model.config.vocab_size), dtype):
        logits.topk(_TOP_K, dim=1)


def _learn(model: Any, rows: Rows, dtype: str) -> None:
    from stillproof.distill.forward import arithmetic, head_weight, hidden_states, labels
    from stillproof.distill.losses import find_loss

    with arithmetic(model.device.type, dtype):
        hidden = hidden_states(model, rows)
        loss = find_loss("cross_entropy")(hidden, head_weight(model), labels(rows, hidden.device), None, 0.0)
    loss.backward()
    model.zero_grad(set_to_none=True)


def _rows(n: int) -> Rows:
    """Arbitrary tokens, one document a row."""
    import numpy as np

    from stillproof.distill.pack import Rows

    shape = (n, _ROW_TOKENS)
    ids = np.random.Generator(np.random.Philox(1)).integers(100, 20_000, shape).astype(np.int32)
    place = np.broadcast_to(np.arange(_ROW_TOKENS, dtype=np.int32), shape).copy()
    document = np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], shape).copy()
    return Rows(ids, place, place < _ROW_TOKENS - 1, document)
