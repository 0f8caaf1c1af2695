"""Marking on tensors of whatever device: candidates are selected there, and only they come to the processor.

Tensors are duck-typed (torch's methods; nothing is imported), so that a server of marks and a reader of marks install
the same package. `transformers_adapter.py` and `vllm_adapter.py` are two ways of being called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError
from stillproof.watermark.keys import Scheme
from stillproof.watermark.marking import Ids, Marker, green_bias
from stillproof.watermark.prf import Lanes, window_code

Tensor = Any


def step_tensor(
    marker: Marker,
    logits: Tensor,
    contexts: Sequence[Sequence[int]],
    used: Sequence[set[int]],
    accounts: Sequence[str] | None = None,
) -> Ids:
    """`Marker.step` on a tensor [batch, vocab]: the same tokens, where no two logits tie at the last candidate's place.

    In the processor's memory the tensor is read as it lies; elsewhere the candidates, their logits and one sum a row
    are copied here. Raises as `Marker.step`.
    """
    if logits.ndim != 2:
        raise InputError(f"logits of shape {tuple(logits.shape)}", remedy="give one row a request")
    values = logits.detach().float()
    if values.device.type == "cpu":
        return marker.step(values.numpy(), contexts, used, accounts)
    return step_on_device(marker, values, contexts, used, accounts)


def step_on_device(
    marker: Marker,
    logits: Tensor,
    contexts: Sequence[Sequence[int]],
    used: Sequence[set[int]],
    accounts: Sequence[str] | None = None,
) -> Ids:
    """`step_tensor` for float32 logits that stay on their device."""
    m = min(marker.key.scheme.top, logits.shape[1])
    ids = logits.topk(m, dim=1).indices.sort(dim=1).values
    top = logits.gather(1, ids)
    weights = ((logits - top.amax(dim=1, keepdim=True)) / marker.temperature).exp().scatter(1, ids, 0.0)
    host: tuple[Ids, NDArray[np.float32], NDArray[np.float64]] = (
        ids.cpu().numpy(),
        top.cpu().numpy(),
        weights.sum(dim=1).cpu().numpy().astype(np.float64),
    )
    chosen, past = marker.choose(*host, contexts, used, accounts)
    for i in np.flatnonzero(chosen < 0).tolist():
        row = weights[i].cpu().numpy()
        at = int(np.searchsorted(np.cumsum(row, dtype=np.float64), past[i], side="right"))
        chosen[i] = min(at, int(np.flatnonzero(row)[-1]))
    return chosen


def one_hot(logits: Tensor, rows: Sequence[int], ids: Ids) -> Tensor:
    """Logits where each of `rows` can only be its token: 0 there, minus infinity elsewhere; other rows as they were."""
    forced = logits.clone()
    for row, token in zip(rows, ids.tolist(), strict=True):
        forced[row] = float("-inf")
        forced[row, token] = 0.0
    return forced


def add_green(logits: Tensor, row: int, windows: tuple[Lanes, Sequence[int]], scheme: Scheme, scale: float) -> None:
    """Add scale * delta to the green ones of a row's candidates, in place. `windows`: the lane, and the window."""
    lane, window = windows
    ids = logits[row].topk(min(scheme.top, logits.shape[1])).indices
    code = np.array([window_code(window)], dtype=np.uint64)
    green = green_bias(lane, code, ids.cpu().numpy()[None], scheme)[0] > 0
    if green.any():
        logits[row, ids[green.nonzero()[0].tolist()]] += scale * scheme.delta
