"""trace weights: what is found between related models and what is not between strangers, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests import weight_files as wf
from typer.testing import CliRunner

from stillproof.cli import app
from stillproof.errors import InputError, SchemaError
from stillproof.finding import Finding
from stillproof.trace.weights import compare
from stillproof.trace.weights.reference import COLUMNS, read_reference, to_json

A = wf.weights(1)
PROMISED = {"test", "kind", "log10_p", "layers", "direction", "decision", "checks"}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wf.write(tmp_path_factory.mktemp("parent") / "a", A)


def layers_found(said: dict) -> dict[int, int]:
    return {row["layer_b"]: row["layer_a"] for row in said["layers"] if row["by"]}


def test_a_fine_tuned_child_is_found_by_its_unit_labels(parent: Path, tmp_path: Path) -> None:
    said = compare(parent, wf.write(tmp_path / "b", wf.tuned(A))).to_json()
    assert (said["decision"], said["test"], said["kind"]) == ("found", "unit_labels", "design_based")
    assert said["log10_p"] < -100
    assert layers_found(said) == {0: 0, 1: 1, 2: 2}
    assert said["direction"] == "unknown"


def test_strangers_of_one_shape_are_not_found(parent: Path, tmp_path: Path) -> None:
    for seed in range(2, 12):
        found = compare(parent, wf.write(tmp_path / str(seed), wf.weights(seed)))
        assert found.decision == "not_found", found.to_json()
        assert layers_found(found.to_json()) == {}


def test_dropped_layers_are_located_and_point_at_the_child(parent: Path, tmp_path: Path) -> None:
    said = compare(parent, wf.write(tmp_path / "b", wf.kept(wf.tuned(A), [0, 2]))).to_json()
    assert said["decision"] == "found" and said["log10_p"] < -50
    assert layers_found(said) == {0: 0, 1: 2}
    assert said["direction"] == "a_to_b"


def test_the_direction_turns_with_the_arguments(parent: Path, tmp_path: Path) -> None:
    child = wf.write(tmp_path / "b", wf.kept(A, [0, 2]))
    assert compare(child, parent).to_json()["direction"] == "b_to_a"


def test_layers_of_two_parents_are_told_apart(parent: Path, tmp_path: Path) -> None:
    other = wf.weights(2)
    mixed = dict(wf.tuned(A)) | {name: value for name, value in other.items() if ".layers.1." in name}
    child = wf.write(tmp_path / "b", mixed)
    of_a = compare(parent, child).to_json()
    of_other = compare(wf.write(tmp_path / "other", other), child).to_json()
    assert layers_found(of_a) == {0: 0, 2: 2}
    assert layers_found(of_other) == {1: 1}


def test_relabelled_units_leave_only_the_reference_based_tests(parent: Path, tmp_path: Path) -> None:
    said = compare(parent, wf.write(tmp_path / "b", wf.relabelled(wf.tuned(A), 3))).to_json()
    assert said["decision"] == "found" and said["kind"] == "reference_based"
    exact = [f for f in said["findings"] if f["kind"] == "design_based"]
    assert {f["decision"] for f in exact} == {"not_found"}
    assert layers_found(said) == {0: 0, 1: 1, 2: 2}


def test_a_rotated_relabelled_and_rescaled_copy_is_found(parent: Path, tmp_path: Path) -> None:
    said = compare(parent, wf.write(tmp_path / "b", wf.relabelled(wf.rotated(wf.tuned(A, size=0.1), 4), 5))).to_json()
    agreement = next(f for f in said["findings"] if f["test"] == "unit_agreement")
    assert said["decision"] == "found" and said["kind"] == "reference_based"
    assert agreement["decision"] == "found" and agreement["statistic"] > 0.9


def test_units_cut_in_order_are_found_by_their_order(parent: Path, tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(6))
    orders = [np.sort(rng.permutation(wf.UNITS)[:40]) for _ in range(wf.LAYERS)]
    said = compare(parent, wf.write(tmp_path / "b", wf.reordered(wf.tuned(A), orders))).to_json()
    order = next(f for f in said["findings"] if f["test"] == "unit_order")
    assert order["decision"] == "found" and order["log10_p"] < -10
    assert said["direction"] == "a_to_b"


def test_pruning_leaves_zeros_that_tell_the_direction(parent: Path, tmp_path: Path) -> None:
    pruned = {n: np.where(np.abs(v) < 0.6, 0, v) if v.ndim == 2 else v for n, v in A.items()}
    said = compare(parent, wf.write(tmp_path / "b", pruned)).to_json()
    assert said["decision"] == "found" and said["direction"] == "a_to_b"
    assert [hint["name"] for hint in said["hints"]] == ["zeros"]


def test_another_vocabulary_does_not_hide_the_layers(parent: Path, tmp_path: Path) -> None:
    child = wf.tuned(A) | {"model.embed_tokens.weight": wf.weights(8)["model.embed_tokens.weight"][:100]}
    said = compare(parent, wf.write(tmp_path / "b", child)).to_json()
    assert said["decision"] == "found" and said["test"] == "unit_labels"


def test_tokens_are_paired_by_their_strings_where_both_are_known(parent: Path, tmp_path: Path) -> None:
    order = np.random.Generator(np.random.Philox(7)).permutation(wf.VOCABULARY)
    shuffled = A | {"model.embed_tokens.weight": A["model.embed_tokens.weight"][order]}
    for folder, arrays, ids in (("a", A, np.arange(wf.VOCABULARY)), ("b", shuffled, np.argsort(order))):
        wf.write(tmp_path / folder, arrays)
        vocabulary = {f"token {i}": int(place) for i, place in enumerate(ids)}
        (tmp_path / folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    found = {f.test: f for f in compare(tmp_path / "a", tmp_path / "b").findings}
    assert found["embedding_rotation"].statistic == pytest.approx(1, abs=1e-5)
    assert found["embedding_cka"].statistic == pytest.approx(1, abs=1e-5)


def test_an_untied_head_changes_nothing(parent: Path, tmp_path: Path) -> None:
    child = wf.tuned(A) | {"lm_head.weight": wf.weights(8)["model.embed_tokens.weight"]}
    assert compare(parent, wf.write(tmp_path / "b", child)).to_json()["log10_p"] < -100


@pytest.mark.parametrize(
    "other",
    [
        wf.weights(1, hidden=48),
        {n: v for n, v in A.items() if "gate" not in n},
        {"model.embed_tokens.weight": A["model.embed_tokens.weight"]},
        {n.replace(".mlp.", ".mlp.experts.0."): v for n, v in A.items()},
        {n: v * np.float32("nan") for n, v in A.items()},
    ],
    ids=["another hidden size", "no gate", "no layers", "experts", "all NaN"],
)
def test_what_cannot_be_compared_is_inconclusive_and_says_why(parent: Path, tmp_path: Path, other: wf.Arrays) -> None:
    found = compare(parent, wf.write(tmp_path / "b", other))
    said = found.to_json()
    assert said["decision"] == "inconclusive" and said["log10_p"] is None
    assert any(check["passed"] is False for check in said["checks"])


def test_a_layer_with_nan_is_left_out_and_the_rest_is_tested(parent: Path, tmp_path: Path) -> None:
    child = wf.tuned(A)
    child["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    said = compare(parent, wf.write(tmp_path / "b", child)).to_json()
    assert said["decision"] == "found" and layers_found(said) == {0: 0, 2: 2}
    assert any("layers [1] hold NaN" in check["detail"] for check in said["checks"])


def test_each_finding_is_a_sound_finding_and_pays_for_its_family(parent: Path, tmp_path: Path) -> None:
    found = compare(parent, wf.write(tmp_path / "b", wf.tuned(A)), alpha=0.02)
    assert [f.test for f in found.findings] == [
        "unit_labels",
        "unit_order",
        "unit_agreement",
        "embedding_rotation",
        "embedding_cka",
    ]
    for finding in found.findings:
        assert Finding.from_json(finding.to_json()) == finding
        assert finding.alpha == 0.01
        assert finding.family_n == (2 if finding.kind == "design_based" else 3)


def test_a_reference_too_small_for_the_level_decides_nothing(parent: Path, tmp_path: Path) -> None:
    table = tmp_path / "reference.json"
    table.write_text(to_json([[0.0] * len(COLUMNS)] * 10, 5, "ten pairs"))
    found = compare(parent, wf.write(tmp_path / "b", wf.relabelled(A, 3)), reference=table)
    assert {f.decision for f in found.findings if f.kind == "reference_based"} == {"inconclusive"}


def test_a_reference_that_is_none_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "reference.json"
    for text in ("", "[]", '{"schema": "weights-reference/1"}', "[" * 100_000):
        table.write_text(text)
        with pytest.raises(InputError, match="not a table of references"):
            read_reference(table)
    table.write_text(to_json([[0.0] * len(COLUMNS)], 2, "x").replace("reference/1", "reference/9"))
    with pytest.raises(SchemaError, match="reference/9"):
        read_reference(table)


def test_the_shipped_reference_is_of_the_pairs_of_46_models() -> None:
    table = read_reference(None)
    assert len(table.rows) == 46 * 45 // 2 and table.models == 46


def test_the_command_prints_what_was_promised_and_its_exit_codes(parent: Path, tmp_path: Path) -> None:
    children = {3: wf.tuned(A), 0: wf.weights(2), 4: wf.weights(1, hidden=48)}
    for code, arrays in children.items():
        b = wf.write(tmp_path / str(code), arrays)
        result = CliRunner().invoke(app, ["trace", "weights", str(parent), str(b), "--json"])
        assert result.exit_code == code, result.output
        assert json.loads(result.stdout).keys() >= PROMISED
    result = CliRunner().invoke(app, ["trace", "weights", str(parent), str(tmp_path / "nothing"), "--json"])
    assert result.exit_code == 1 and "no weights here" in result.output


def test_the_command_is_readable_without_json(parent: Path, tmp_path: Path) -> None:
    b = wf.write(tmp_path / "b", wf.kept(A, [0, 2]))
    result = CliRunner().invoke(app, ["trace", "weights", str(parent), str(b)])
    assert result.exit_code == 3
    assert "layers of B that come from A: 0 from 0, 1 from 2; direction a_to_b" in result.stderr
