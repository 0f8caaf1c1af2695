"""A causal language model of transformers as training and scoring use it: hidden states, and the head apart.

Apart, because the logits of all positions at once would be the largest thing in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillproof.errors import MismatchError

if TYPE_CHECKING:
    from torch import Tensor

    from stillproof.distill.pack import Rows

CHUNK_POSITIONS = 256


def head_weight(model: Any) -> Tensor:
    """The output embeddings [rows of the vocabulary, h]. Raises MismatchError for a model without."""
    head = model.get_output_embeddings()
    if head is None:
        raise MismatchError(
            "the model has no language-model head", type(model).__name__, "give a causal language model"
        )
    if getattr(head, "bias", None) is not None:
        raise MismatchError("the head has a bias", type(model).__name__, "use a model whose head is a plain product")
    return head.weight


def check_plain_head(model: Any) -> None:
    """Raise MismatchError for a model whose logits are more than hidden states times head (soft-capping, scaling)."""
    ids = torch.arange(8, device=model.device)[None]
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        expected, plain = model(input_ids=ids, use_cache=False).logits.float(), (hidden @ head_weight(model).T).float()
    if not torch.allclose(expected, plain, rtol=1e-3, atol=1e-3):
        raise MismatchError(
            "the head does more than a matrix product (soft-capping or scaling), which the losses here do not know",
            type(model).__name__,
            "use another model of this size",
        )


def hidden_states(model: Any, rows: Rows) -> Tensor:
    """The last hidden states [n, h] of the learned positions of some rows, in row-major order."""

    def on_device(column: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(column).to(model.device, dtype=torch.int64)

    hidden = model.get_decoder()(
        input_ids=on_device(rows.input_ids), position_ids=on_device(rows.position_ids), use_cache=False
    ).last_hidden_state
    return hidden[torch.from_numpy(rows.targets_mask).to(hidden.device)]


def labels(rows: Rows, device: torch.device) -> Tensor:
    """The ids [n] that the learned positions predict, in the order of `hidden_states`."""
    row, position = np.nonzero(rows.targets_mask)
    return torch.from_numpy(rows.input_ids[row, position + 1]).to(device, dtype=torch.int64)


def full_logits(model: Any, rows: Rows, n_vocab: int, dtype: str) -> Iterator[Tensor]:
    """Yield float32 logits [c, n_vocab] of the learned positions, in row-major order, a chunk of positions at a time.

    Rows of the head above `n_vocab` are padding of the vocabulary and are left out: masked to minus infinity.
    """
    # No `yield` inside these contexts: they would hold in the caller's code too, until the generator ends.
    with torch.inference_mode(), arithmetic(model.device.type, dtype):
        hidden = hidden_states(model, rows)
        half = torch.bfloat16 if dtype == "bf16" else hidden.dtype
        hidden, head = hidden.to(half), head_weight(model)[:n_vocab].to(half)
    for start in range(0, len(hidden), CHUNK_POSITIONS):
        with torch.inference_mode():
            logits = (hidden[start : start + CHUNK_POSITIONS] @ head.T).float().cpu()
        yield logits


def arithmetic(device: str, dtype: str) -> AbstractContextManager[object]:
    """The autocast context of 'bf16', or of plain float32."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16")
