"""Weights as they come: other types and layouts, files that are cut, altered or hostile."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import weight_files as wf

from stillproof.errors import InputError, StillproofError
from stillproof.trace.weights import compare
from stillproof.trace.weights.layers import model_of
from stillproof.trace.weights.reading import read_model

A = wf.weights(1)
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wf.write(tmp_path_factory.mktemp("parent") / "a", A)


def test_values_are_those_that_were_written(parent: Path, tmp_path: Path) -> None:
    for dtype in (np.float64, np.float32, np.float16):
        folder = wf.write(tmp_path / np.dtype(dtype).name, {n: v.astype(dtype) for n, v in A.items()})
        assert np.allclose(read_model(folder).tensors[UP].load(), A[UP], rtol=1e-3)


def test_bf16_is_the_upper_half_of_fp32(tmp_path: Path) -> None:
    values = read_model(wf.write_bf16(tmp_path / "b", A)).tensors[UP].load()
    assert np.allclose(values, A[UP], rtol=2**-7)
    assert (values == (A[UP].view(np.uint32) & 0xFFFF0000).view(np.float32)).all()


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_a_gguf_of_the_parent_is_found(parent: Path, tmp_path: Path, kind: str) -> None:
    said = compare(parent, wf.write_gguf(tmp_path / "b.gguf", A, kind)).to_json()
    assert said["decision"] == "found" and said["log10_p"] < -100
    assert said["direction"] == ("a_to_b" if kind == "Q4_0" else "unknown") or kind == "Q8_0"


def test_int8_with_scales_beside_it_is_read_as_what_it_means(parent: Path, tmp_path: Path) -> None:
    stored: wf.Arrays = {}
    for name, value in A.items():
        if value.ndim == 2 and "layers" in name:
            scale = np.abs(value).max(axis=1, keepdims=True) / 127
            stored |= {name: np.round(value / scale).astype(np.int8), name + "_scale": scale}
        else:
            stored[name] = value
    folder = wf.write(tmp_path / "b", stored)
    assert np.allclose(
        model_of(read_model(folder)).units(0).down, A["model.layers.0.mlp.down_proj.weight"].T, atol=0.02
    )
    assert compare(parent, folder).to_json()["log10_p"] < -100


def test_shards_are_one_model(parent: Path, tmp_path: Path) -> None:
    assert compare(parent, wf.write_shards(tmp_path / "b", A)).to_json()["log10_p"] < -100


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = wf.write_shards(tmp_path / "b", A)
    (folder / "two.safetensors").unlink()
    with pytest.raises(InputError, match=r"shard two\.safetensors is missing"):
        read_model(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c:\\x"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = wf.write_shards(tmp_path / "b", A)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {UP: name}}))
    with pytest.raises(InputError, match="not a file of its folder"):
        read_model(folder)


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match="pickle"):
            read_model(path)
    assert not Path("sprung").exists()


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adapter without its base"):
        read_model(wf.write(tmp_path / "b", A, "adapter_model.safetensors"))


def test_nothing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(InputError):
            read_model(path)


def test_scalars_and_unknown_tensors_are_passed_over(parent: Path, tmp_path: Path) -> None:
    child = wf.tuned(A) | {"step": np.array(3.0, np.float32), "model.layers.0.odd": np.array(1, np.int64)}
    assert compare(parent, wf.write(tmp_path / "b", child)).decision == "found"


def test_a_weight_that_is_a_scalar_is_refused(parent: Path, tmp_path: Path) -> None:
    folder = wf.write(tmp_path / "b", A | {UP: np.array(1.0, np.float32)})
    with pytest.raises(InputError, match="has shape"):
        compare(parent, folder)


def test_parts_that_do_not_fit_together_are_refused(parent: Path, tmp_path: Path) -> None:
    folder = wf.write(tmp_path / "b", A | {UP: A[UP][:50]})
    with pytest.raises(InputError, match="units of shapes"):
        compare(parent, folder)


def test_fused_gate_and_up_and_turned_weights_are_the_same_layers(tmp_path: Path) -> None:
    at = "model.layers.0.mlp."
    fused = np.concatenate([A[f"{at}gate_proj.weight"], A[UP]])
    folder = wf.write(
        tmp_path / "phi", {f"{at}gate_up_proj.weight": fused, f"{at}down_proj.weight": A[f"{at}down_proj.weight"]}
    )
    units = model_of(read_model(folder)).units(0)
    assert (units.up == A[UP]).all() and units.gate is not None and (units.gate == A[f"{at}gate_proj.weight"]).all()
    turned = {"h.0.mlp.c_fc.weight": A[UP].T, "h.0.mlp.c_proj.weight": A[f"{at}down_proj.weight"].T}
    units = model_of(read_model(wf.write(tmp_path / "gpt2", turned))).units(0)
    assert (units.up == A[UP]).all() and units.gate is None
    assert (units.down == A[f"{at}down_proj.weight"].T).all()


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_of_a_header_is_an_error_or_the_same_kind_of_answer(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("altered")
    raw = bytearray((wf.write(folder, {UP: A[UP]}) / "model.safetensors").read_bytes())
    raw[at % 160] = byte
    (folder / "model.safetensors").write_bytes(raw)
    try:
        tensors = read_model(folder).tensors
        shapes = [tensor.load().shape for tensor in tensors.values()]
    except StillproofError:
        return
    assert shapes == [tensor.shape for tensor in tensors.values()]


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_truncated_file_is_an_input_error(tmp_path: Path, kind: str, share: float) -> None:
    whole = wf.write_gguf(tmp_path / "b.gguf", A, "Q8_0") if kind == "gguf" else wf.write(tmp_path / "b", A)
    file = whole if kind == "gguf" else whole / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError):
        model = model_of(read_model(whole))
        [model.units(n) for n in model.numbers]


@given(st.integers(0, 3_000), st.integers(0, 255))
def test_a_changed_byte_of_a_gguf_raises_nothing_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    path = wf.write_gguf(tmp_path_factory.mktemp("g") / "b.gguf", {"model.embed_tokens.weight": A[UP]}, "Q8_0")
    raw = bytearray(path.read_bytes())
    raw[at % 400] = byte
    path.write_bytes(raw)
    try:
        shapes = {tensor.load().shape for tensor in read_model(path).tensors.values()}
    except StillproofError:
        return
    assert len(shapes) <= 1
