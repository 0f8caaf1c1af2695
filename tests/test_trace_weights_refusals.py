"""What the commands say to weights that are cut, altered, hostile or of a kind not read: an error, no traceback."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests import weight_files as wf
from typer.testing import CliRunner

from stillproof.cli import app
from stillproof.trace.weights import compare

A = wf.weights(1)
UP = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def cut(path: Path, share: float) -> Path:
    file = path if path.is_file() else path / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(share * len(raw))])
    return path


def garbled(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"\xff" * 500)
    return folder


def without_a_shard(folder: Path) -> Path:
    wf.write_shards(folder, A)
    (folder / "two.safetensors").unlink()
    return folder


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("sprung"),))


def pickled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    return folder


def of_type(folder: Path, dtype: str) -> Path:
    """The parent, with one weight said to be of another type of the same size."""
    raw = (wf.write(folder, A | {UP: (A[UP] * 100).astype(np.int8)}) / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw.replace(b'"I8"', f'"{dtype}"'.encode().ljust(4), 1))
    return folder


def with_scalar(folder: Path, name: str) -> Path:
    """Written here: `weight_files.write` makes a row of one of it."""
    from safetensors.numpy import save_file

    folder.mkdir()
    arrays = {key: np.ascontiguousarray(value) for key, value in wf.tuned(A).items()}
    save_file(arrays | {name: np.array(1.0, np.float32)}, folder / "model.safetensors")
    return folder


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda at: at / "absent", "no weights here"),
    "garbled safetensors": (lambda at: garbled(wf.write(at / "b", A)), "a header of"),
    "truncated safetensors": (lambda at: cut(wf.write(at / "b", A), 0.7), "truncated"),
    "truncated GGUF": (lambda at: cut(wf.write_gguf(at / "b.gguf", A, "F16"), 0.7), "GGUF"),
    "no GGUF": (lambda at: cut(wf.write_gguf(at / "b.gguf", A, "F16"), 0.0), "not a GGUF file"),
    "missing shard": (lambda at: without_a_shard(at / "b"), "two.safetensors is missing"),
    "pickle": (lambda at: pickled(at / "b"), "pickle"),
    "scalar weight": (lambda at: with_scalar(at / "b", UP), "has shape ()"),
    "packed 4-bit": (lambda at: of_type(at / "b", "U8"), "packed 4-bit"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["weights", "index add", "index match", "lineage --index"])
def test_bad_weights_are_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, why = BAD[name]
    bad, good, index = make(tmp_path), wf.write(tmp_path / "good", A), tmp_path / "index"
    added = CliRunner().invoke(app, ["trace", "index", "add", str(index), str(good), "--name", "good"])
    words = {
        "weights": ["weights", str(good), str(bad)],
        "index add": ["index", "add", str(index), str(bad), "--name", "bad"],
        "index match": ["index", "match", str(index), str(bad)],
        "lineage --index": ["lineage", str(bad), "--index", str(index)],
    }[command]
    result = CliRunner().invoke(app, ["trace", *words, "--json"])
    assert added.exit_code == 0
    assert result.exit_code == 1, result.output
    assert why in json.dumps(json.loads(result.stdout), ensure_ascii=False)
    assert isinstance(result.exception, SystemExit)
    assert not Path("sprung").exists()
    assert len(list(index.iterdir())) == 1


@pytest.mark.parametrize(
    "embedding",
    [None, np.full((256, 32), np.nan, np.float32), np.zeros((0, 32), np.float32)],
    ids=["0-d", "NaN", "empty"],
)
def test_an_embedding_that_holds_nothing_leaves_the_layers_to_be_tested(
    tmp_path: Path, embedding: np.ndarray | None
) -> None:
    scalar = embedding is None
    arrays = {} if scalar else wf.tuned(A) | {EMBEDDING: embedding}
    child = with_scalar(tmp_path / "b", EMBEDDING) if scalar else wf.write(tmp_path / "b", arrays)
    said = compare(wf.write(tmp_path / "a", A), child).to_json()
    assert (said["decision"], said["test"]) == ("found", "unit_labels")
    assert {check["name"]: check["passed"] for check in said["checks"]}["embeddings"] is not True


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_a_tied_parent_and_either_child_have_a_common_origin(tmp_path: Path, head: str) -> None:
    child = wf.tuned(A) | ({} if head == "tied" else {"lm_head.weight": A[EMBEDDING] * 2})
    said = compare(wf.write(tmp_path / "a", A), wf.write(tmp_path / "b", child)).to_json()
    assert said["decision"] == "found" and said["log10_p"] < -100


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_another_type_of_number_changes_no_verdict(tmp_path: Path, dtype: type) -> None:
    child = {name: value.astype(dtype) for name, value in wf.tuned(A).items()}
    said = compare(wf.write(tmp_path / "a", A), wf.write(tmp_path / "b", child)).to_json()
    assert said["decision"] == "found" and said["log10_p"] < -100
