"""One pass over held-out rows: every model beside the teacher, position by position, summed per document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError, MismatchError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from stillproof.distill.pack import Rows

TEACHER = "teacher"

CHUNK_POSITIONS = 256
"""At most this many positions x vocabulary are held at once, in four matrices."""

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Sums over the scored positions of each document, arrays of shape [n_documents]; in nats where not counts.

    A document without scored positions has zeros. The keys of the mappings are the models' names.
    """

    n_positions: NDArray[np.int64]
    nll_nats: Mapping[str, Sums]
    """Negative log-likelihood of the token that follows, teacher included."""
    kl_nats: Mapping[str, Sums]
    """KL(teacher || model) over the whole common vocabulary."""
    agreements: Mapping[str, Sums]
    """At how many positions the model's likeliest token is the teacher's (first of equals)."""
    n_bytes: Sums | None = None
    """UTF-8 bytes of the scored tokens."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models measured against the teacher."""
        return tuple(self.kl_nats)


def score(
    models: Mapping[str, Any],
    rows: Rows,
    *,
    n_vocab: int,
    n_bytes: ArrayLike | None = None,
    batch_rows: int = 8,
    dtype: Literal["fp32", "bf16"] = "fp32",
) -> Scores:
    """Measure every model against `models["teacher"]` on the same rows, in one pass over them.

    `models`: transformers causal language models; all stay loaded. `n_vocab` is the tokenizer's true size: heads are
    cut to it, so the padded ids of a family's larger members take no part, as if masked to minus infinity.
    `n_bytes`: bytes of each document's scored tokens, shape [n_documents], for bits per byte. `dtype` is that of the
    backbone's arithmetic; head, softmax and sums are fp32 (a bf16 head alone would put noise of 1e-3 nats on KL).
    Memory beside the models: batch_rows rows of hidden states, and four matrices of CHUNK_POSITIONS x n_vocab fp32.

    Before scoring, each model's own logits for a document alone are compared with those used here, in its row. So a
    model whose head does more than a product (soft-capping, say), or that lets packed documents see each other, is
    refused with MismatchError instead of being measured wrongly. Raises InputError for rows without scored positions,
    TrainingError for a model whose probabilities are not finite.
    """
    import torch

    if TEACHER not in models:
        raise InputError("no model is named 'teacher'", ", ".join(models), "name the reference of all others so")
    if not rows.targets_mask.any():
        raise InputError("no scored position in the held-out rows", remedy="hold out more, or longer, documents")
    heads = {name: _Head.of(model, name, n_vocab) for name, model in models.items()}
    _check_ids(rows, n_vocab)
    totals = _Totals.empty(models, n_documents=_n_documents(rows, n_bytes))
    were_training = {name: model.training for name, model in models.items()}
    try:
        with torch.no_grad():
            for name, model in models.items():
                model.eval()
                _check_logits(name, model, heads[name], rows)
            for start in range(0, len(rows.input_ids), batch_rows):
                batch = slice(start, start + batch_rows)
                hidden = {n: _hidden(m, rows, batch, dtype) for n, m in models.items()}
                _score_batch(heads, hidden, rows, batch, totals)
    finally:
        for name, model in models.items():
            model.train(were_training[name])
    _check_finite(totals.nll_nats)
    return totals.scores(n_bytes)


@dataclass(frozen=True, slots=True)
class _Head:
    weight: Tensor
    """[n_vocab, hidden], fp32"""
    bias: Tensor | None

    @classmethod
    def of(cls, model: Any, name: str, n_vocab: int) -> _Head:
        head = model.get_output_embeddings()
        if head is None or not hasattr(model, "model"):
            raise MismatchError("is not a causal language model with a head", name, "give one of transformers' own")
        if head.weight.shape[0] < n_vocab:
            raise MismatchError(
                f"has {head.weight.shape[0]} output rows for a vocabulary of {n_vocab}",
                name,
                "compare models of one tokenizer; a padded vocabulary may be larger, never smaller",
            )
        bias = getattr(head, "bias", None)
        # fp32 once, not for each chunk; a view where the parameters are fp32 already.
        return cls(head.weight[:n_vocab].float(), None if bias is None else bias[:n_vocab].float())

    def logits(self, hidden: Tensor) -> Tensor:
        """[positions, hidden] -> [positions, n_vocab] fp32."""
        logits = hidden.float() @ self.weight.T
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True, slots=True)
class _Totals:
    """The sums of Scores while they grow."""

    n_positions: NDArray[np.int64]
    nll_nats: dict[str, Sums]
    kl_nats: dict[str, Sums]
    agreements: dict[str, Sums]

    @classmethod
    def empty(cls, models: Mapping[str, Any], n_documents: int) -> _Totals:
        def zeros(names: list[str]) -> dict[str, Sums]:
            return {name: np.zeros(n_documents) for name in names}

        students = [name for name in models if name != TEACHER]
        return cls(np.zeros(n_documents, dtype=np.int64), zeros(list(models)), zeros(students), zeros(students))

    def scores(self, n_bytes: ArrayLike | None) -> Scores:
        given = None if n_bytes is None else np.asarray(n_bytes, dtype=np.float64)
        return Scores(self.n_positions, self.nll_nats, self.kl_nats, self.agreements, given)


def _n_documents(rows: Rows, n_bytes: ArrayLike | None) -> int:
    needed = int(rows.document[rows.targets_mask].max()) + 1
    if n_bytes is None:
        return needed
    given = len(np.asarray(n_bytes))
    if given < needed:
        raise MismatchError(f"bytes of {given} documents for {needed} scored ones", remedy="give one number a document")
    return given


def _check_ids(rows: Rows, n_vocab: int) -> None:
    largest = int(rows.input_ids[rows.document >= 0].max())
    if largest >= n_vocab:
        raise MismatchError(
            f"token id {largest} in rows for a vocabulary of {n_vocab}", remedy="pack with the teacher's tokenizer"
        )


def _check_finite(nll_nats: Mapping[str, Sums]) -> None:
    for name, sums in nll_nats.items():
        if not np.isfinite(sums).all():
            raise _diverged(name)


def _diverged(name: str) -> TrainingError:
    return TrainingError(
        "gives probabilities that are not finite", name, "its training diverged: lower the learning rate"
    )


def _tensor(values: NDArray[Any], model: Any) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(next(model.parameters()).device)


def _hidden(model: Any, rows: Rows, batch: slice, dtype: str) -> Tensor:
    """Last hidden states, [rows of the batch, row_tokens, hidden]."""
    import torch

    ids, positions = _tensor(rows.input_ids[batch], model), _tensor(rows.position_ids[batch], model)
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=dtype == "bf16"):
        return model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state


def _score_batch(
    heads: Mapping[str, _Head], hidden: Mapping[str, Tensor], rows: Rows, batch: slice, totals: _Totals
) -> None:
    row, position = np.nonzero(rows.targets_mask[batch])
    gold = rows.input_ids[batch][row, position + 1].astype(np.int64)
    document = rows.document[batch][row, position]
    np.add.at(totals.n_positions, document, 1)
    for start in range(0, row.size, CHUNK_POSITIONS):
        chunk = slice(start, start + CHUNK_POSITIONS)
        at = (row[chunk], position[chunk])
        for name, measured in _score_chunk(heads, {n: h[at] for n, h in hidden.items()}, gold[chunk]):
            for column, values in measured.items():
                sums: dict[str, Sums] = getattr(totals, column)
                # To the CPU first: Apple's MPS has no float64.
                np.add.at(sums[name], document[chunk], values.cpu().double().numpy())


def _score_chunk(
    heads: Mapping[str, _Head], hidden: Mapping[str, Tensor], gold_ids: NDArray[np.int64]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each model its measures at the n positions of a chunk, teacher first; hidden states are [n, hidden].

    KL(teacher || model) = sum_v p_v (log p_v - log q_v), p the teacher's, q the model's probabilities.
    """
    import torch

    teacher = torch.log_softmax(heads[TEACHER].logits(hidden[TEACHER]), dim=-1)
    gold = torch.from_numpy(gold_ids).to(teacher.device)[:, None]
    probability, choice = teacher.exp(), teacher.argmax(dim=-1)
    yield TEACHER, {"nll_nats": -teacher.gather(1, gold)[:, 0]}
    for name in heads:
        if name == TEACHER:
            continue
        model = torch.log_softmax(heads[name].logits(hidden[name]).to(teacher.device), dim=-1)
        yield (
            name,
            {
                "nll_nats": -model.gather(1, gold)[:, 0],
                "agreements": model.argmax(dim=-1) == choice,
                "kl_nats": (teacher - model).mul_(probability).sum(dim=-1),
            },
        )


def _check_logits(name: str, model: Any, head: _Head, rows: Rows) -> None:
    """A document's logits when it stands alone, by the model's own forward, must be those used here, in its row."""
    row, start = _a_later_document(rows)
    length = min(8, _run_length(rows.document[row], start))
    span = slice(start, start + length)
    packed = model.model(
        input_ids=_tensor(rows.input_ids[row : row + 1, : span.stop], model),
        position_ids=_tensor(rows.position_ids[row : row + 1, : span.stop], model),
        use_cache=False,
    ).last_hidden_state[0, start:]
    alone = model(
        input_ids=_tensor(rows.input_ids[row : row + 1, span], model),
        position_ids=_tensor(rows.position_ids[row : row + 1, span], model),
        use_cache=False,
    ).logits[0, :, : head.weight.shape[0]]
    ours, own = head.logits(packed), alone.float()
    if not own.isfinite().all():
        raise _diverged(name)
    gap = float((ours - own).abs().max())
    # Arithmetic may differ in the last bits of the parameters' type; soft-capping or a leak differs by far more.
    allowed = (2e-2 if packed.dtype.itemsize < 4 else 1e-3) * (1 + float(own.abs().max()))
    if gap > allowed:
        raise MismatchError(
            f"its own logits for a document alone differ by {gap:.3g} from those of the packed row",
            name,
            "its head does more than a product, or its attention does not keep packed documents apart: pack one "
            "document a row, or use a model of another kind",
        )


def _a_later_document(rows: Rows) -> tuple[int, int]:
    """Row and start of a document that does not stand first in its row, where there is one; else the first."""
    starts = np.diff(rows.document, axis=1) != 0
    later = np.argwhere(starts & (rows.document[:, 1:] >= 0))
    if later.size:
        return int(later[0, 0]), int(later[0, 1]) + 1
    return int(np.argmax(rows.document[:, 0] >= 0)), 0


def _run_length(documents: NDArray[Any], start: int) -> int:
    others = np.nonzero(documents[start:] != documents[start])[0]
    return int(others[0]) if others.size else documents.size - start
