"""The student's start: the teacher with layers left out, or weights that were given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillproof.errors import ConfigError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Layers at both ends change the representation most (Men et al. 2024, ShortGPT, figure 2), so they all stay.
_KEPT_AT_EACH_END = 3


def choose_layers(n_teacher: int, n_student: int) -> tuple[int, ...]:
    """Which of `n_teacher` layers to keep: up to three at each end, the rest spread evenly between them.

    Raises ConfigError where there are not so many, or none is asked for.
    """
    if not 1 <= n_student <= n_teacher:
        raise ConfigError(
            f"cannot keep {n_student} of {n_teacher} layers", "student.n_layers", f"choose 1 to {n_teacher}"
        )
    ends = min(_KEPT_AT_EACH_END, n_student // 3)
    n_middle = n_student - 2 * ends
    first, last = ends, n_teacher - ends
    step = (last - first) / n_middle
    middle = [first + int(step * (i + 0.5)) for i in range(n_middle)]
    return (*range(ends), *middle, *range(last, n_teacher))


def drop_layers(model: Any, layers: Sequence[int]) -> Any:
    """The same model, in place, with only the decoder layers named, in that order; its config says so.

    Raises ConfigError for a layer that is not there, MismatchError for a model without a plain list of layers.
    """
    import torch

    backbone: Any = model.get_decoder()
    stack = getattr(backbone, "layers", None)
    if not isinstance(stack, torch.nn.ModuleList):
        raise MismatchError(
            "cannot drop layers of this architecture", type(model).__name__, "give student.model instead"
        )
    absent = [layer for layer in layers if not 0 <= layer < len(stack)]
    if absent or not layers:
        raise ConfigError(
            f"no layer {absent} among {len(stack)}", "student.layers", f"name layers 0 to {len(stack) - 1}"
        )
    kept: list[Any] = [stack[layer] for layer in layers]
    for position, layer in enumerate(kept):
        # The key-value cache of generation is indexed by these.
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = position
    backbone.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    per_layer = getattr(model.config, "layer_types", None)
    if per_layer is not None:
        model.config.layer_types = [per_layer[layer] for layer in layers]
    return model


def common_vocabulary(tokenizer_size: int, teacher_rows: int, student_rows: int) -> int:
    """How many ids teacher and student share: the tokenizer's. Rows above it are padding and are masked in both.

    Models of one family pad their vocabulary differently (151,936 and 152,064 rows for one tokenizer of 151,665);
    those pairs work. Raises MismatchError where the tokenizer has ids that a model has no row for.
    """
    for name, rows in (("teacher", teacher_rows), ("student", student_rows)):
        if rows < tokenizer_size:
            raise MismatchError(
                f"the tokenizer has {tokenizer_size} ids and the {name} has rows for {rows}",
                name,
                "use a student of the teacher's family, or resize its embeddings to the tokenizer first",
            )
    return tokenizer_size
