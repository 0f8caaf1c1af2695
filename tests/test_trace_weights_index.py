"""trace index and trace lineage --index: known models sketched, a suspect matched, and what it does not declare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import weight_files as wf
from typer.testing import CliRunner, Result

from stillproof.cli import app
from stillproof.errors import InputError
from stillproof.finding import Finding
from stillproof.progress import Event
from stillproof.trace.weights import compare, index
from stillproof.trace.weights.candidates import candidates

FAMILIES = 6


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["trace", *map(str, words)])


def told(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for seed in range(FAMILIES):
        model = wf.write(folder / "models" / str(seed), wf.weights(seed))
        assert run("index", "add", folder / "index", model, "--name", f"acme/family-{seed}").exit_code == 0
    return folder / "index"


def card(folder: Path, front: str) -> None:
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")


# --- the commands ---------------------------------------------------------------------------------------------


def test_add_says_what_it_wrote_and_where(tmp_path: Path) -> None:
    model = wf.write(tmp_path / "m", wf.weights(1))
    said = told(run("index", "add", tmp_path / "i", model, "--name", "ours 1.0", "--json"))
    assert Path(said["sketch"]).parent == tmp_path / "i"
    assert said["bytes"] == Path(said["sketch"]).stat().st_size
    assert (said["name"], said["layers"], said["hidden"], said["units"]) == ("ours 1.0", wf.LAYERS, wf.HIDDEN, wf.UNITS)
    assert [path.suffix for path in (tmp_path / "i").iterdir()] == [".npz"]


def test_a_name_that_is_taken_is_refused_before_the_model_is_read(known: Path, tmp_path: Path) -> None:
    result = run("index", "add", known, tmp_path / "absent", "--name", "acme/family-1")
    assert result.exit_code != 0 and "the index knows" in result.output


@pytest.mark.parametrize("name", ["", " ", "x" * 201])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    model = wf.write(tmp_path / "m", wf.weights(1))
    assert run("index", "add", tmp_path / "i", model, "--name", name).exit_code == 1
    assert not (tmp_path / "i").exists()


def test_list_names_the_known_models_in_order(known: Path) -> None:
    said = told(run("index", "list", known, "--json"))
    assert [row["name"] for row in said["models"]] == [f"acme/family-{n}" for n in range(FAMILIES)]


@pytest.mark.parametrize(
    ("make", "code", "names"),
    [
        (lambda: wf.kept(wf.tuned(wf.weights(3)), [0, 2]), 3, ["acme/family-3"]),
        (lambda: wf.weights(99), 0, []),
        (lambda: wf.weights(1, hidden=48), 4, []),
        (lambda: {n: v for n, v in wf.weights(1).items() if "gate" not in n}, 4, []),
    ],
    ids=["a child of one", "a stranger", "another width", "no gate"],
)
def test_match_names_the_family_and_ends_with_its_exit_code(
    known: Path, tmp_path: Path, make: Any, code: int, names: list[str]
) -> None:
    suspect = wf.write(tmp_path / "s", make())
    result = run("index", "match", known, suspect, "--json")
    said = told(result)
    assert result.exit_code == code, result.output
    assert [row["name"] for row in said["matches"] if row["decision"] == "found"] == names
    assert said["sketches"] == FAMILIES and said["compared"] == (0 if code == 4 else FAMILIES)
    assert said.keys() >= {"test", "kind", "log10_p", "decision", "checks", "null", "alpha"}
    added = ("suspect", "index", "sketches", "compared", "matches")
    assert Finding.from_json({name: value for name, value in said.items() if name not in added}).alpha == 1e-6


def test_match_says_which_layers_came_from_where(known: Path, tmp_path: Path) -> None:
    suspect = wf.write(tmp_path / "s", wf.kept(wf.tuned(wf.weights(3)), [0, 2]))
    found = told(run("index", "match", known, suspect, "--json"))["matches"][0]
    assert [(row["layer_suspect"], row["layer_known"]) for row in found["layers"]] == [(0, 0), (1, 2)]
    assert all(row["log10_p"] < -10 for row in found["layers"])


def test_match_is_readable_without_json(known: Path, tmp_path: Path) -> None:
    result = run("index", "match", known, wf.write(tmp_path / "s", wf.tuned(wf.weights(2))))
    assert result.exit_code == 3
    assert "matched: acme/family-2, of 6 known models" in result.stderr


def test_an_index_that_is_none_is_an_error(tmp_path: Path) -> None:
    suspect = wf.write(tmp_path / "s", wf.weights(1))
    (tmp_path / "empty").mkdir()
    for folder, why in ((tmp_path / "absent", "no index here"), (tmp_path / "empty", "without sketches")):
        result = run("index", "match", folder, suspect, "--json")
        assert result.exit_code == 1 and why in result.output


# --- the law --------------------------------------------------------------------------------------------------


def test_models_beyond_the_most_alike_get_p_1_and_the_family_is_still_paid_for(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MATCHED", 2)
    matches = index.match(wf.write(tmp_path / "s", wf.tuned(wf.weights(4))), index.read_index(known))
    assert matches[0].name == "acme/family-4" and matches[0].finding.decision == "found"
    assert [bool(one.placed) for one in matches].count(True) == 2
    assert [one.finding.log10_p for one in matches[2:]] == [0.0] * (FAMILIES - 2)
    assert {one.finding.family_n for one in matches} == {FAMILIES}


def test_the_choice_of_the_most_alike_does_not_show_in_the_p_values(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest p of the chosen, times the family, is valid though they were chosen by likeness."""
    monkeypatch.setattr(index, "MATCHED", 2)
    rng = np.random.Generator(np.random.Philox(7))
    sketches, stranger, n = index.read_index(known), wf.weights(50), 60
    ps = np.empty(n)
    for i in range(n):
        relabelled = wf.reordered(stranger, [rng.permutation(wf.UNITS) for _ in range(wf.LAYERS)])
        matches = index.match(wf.write(tmp_path / str(i), relabelled), sketches, alpha=0.01, seed=i)
        ps[i] = 10 ** float(matches[0].finding.log10_p_adjusted or 0)
    for a in (0.01, 0.05, 0.2):
        assert (ps <= a).mean() <= a + 3 * np.sqrt(a * (1 - a) / n)


def test_layers_of_two_widths_are_refused(tmp_path: Path) -> None:
    mixed = wf.weights(1) | {n: v for n, v in wf.weights(1, hidden=48).items() if ".layers.1." in n}
    with pytest.raises(InputError, match="different hidden sizes"):
        index.sketch_model(wf.write(tmp_path / "m", mixed), "x")


def test_progress_counts_layers_then_models_and_ends_full(known: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    candidates(wf.write(tmp_path / "s", wf.weights(1)), known, on_event=events.append)
    assert [(e.stage, e.done, e.total) for e in events if e.done == e.total] == [
        ("sketch", wf.LAYERS, wf.LAYERS),
        ("match", FAMILIES, FAMILIES),
    ]


def test_comparing_two_models_tells_its_layers_and_the_time_left(tmp_path: Path) -> None:
    events: list[Event] = []
    compare(wf.write(tmp_path / "a", wf.weights(1)), wf.write(tmp_path / "b", wf.weights(2)), on_event=events.append)
    assert [e.stage for e in events if e.done == e.total] == ["sketch A", "sketch B", "match"]
    assert all((e.eta_s is not None) == (0 < e.done < (e.total or 0)) for e in events)


# --- lineage --------------------------------------------------------------------------------------------------


def test_a_declared_parent_that_is_in_the_index_is_tested(known: Path, tmp_path: Path) -> None:
    child = wf.write(tmp_path / "child", wf.tuned(wf.weights(2)))
    card(child, "license: mit\nbase_model: acme/family-2\nbase_model_relation: finetune")
    said = told(run("lineage", child, "--index", known, "--json"))
    (edge,) = said["lineage"]["edges"]
    assert (edge["state"], edge["test"]) == ("tested", "unit_labels_sketched") and edge["log10_p"] < -10
    assert said["index"]["undeclared"] == [] and said["index"]["sketches"] == FAMILIES


def test_an_origin_that_is_not_declared_is_shown_and_makes_the_terms_unknown(known: Path, tmp_path: Path) -> None:
    child = wf.write(tmp_path / "child", wf.tuned(wf.weights(2)))
    card(child, "license: mit\nbase_model: acme/family-1\nbase_model_relation: finetune")
    result = run("lineage", child, "--index", known, "--check", "--json")
    said = told(result)
    assert said["index"]["undeclared"] == ["acme/family-2"]
    assert [row["name"] for row in said["index"]["found"]] == ["acme/family-2"]
    assert any("common origin with acme/family-2" in line for line in said["tree"])
    assert said["decision"] == "unknown" and "does not declare: acme/family-2" in said["gate"]
    assert result.exit_code == 3


def test_an_index_never_contradicts_a_declared_parent(known: Path, tmp_path: Path) -> None:
    """A relabelled child is not matched by sketches, which is no evidence against its card."""
    child = wf.write(tmp_path / "child", wf.relabelled(wf.weights(2), 3))
    card(child, "license: mit\nbase_model: acme/family-2")
    said = told(run("lineage", child, "--index", known, "--json"))
    assert [edge["state"] for edge in said["lineage"]["edges"]] == ["declared"]
    assert said["index"]["decision"] == "not_found" and said["index"]["undeclared"] == []


def test_a_student_of_outputs_is_not_tested_by_weights(known: Path, tmp_path: Path) -> None:
    child = wf.write(tmp_path / "child", wf.tuned(wf.weights(2)))
    card(child, 'license: mit\ndistilled_from: ["acme/family-2"]')
    said = told(run("lineage", child, "--index", known, "--json"))
    assert [edge["state"] for edge in said["lineage"]["edges"]] == ["declared"]
    assert said["index"]["undeclared"] == []


def test_lineage_without_an_index_says_nothing_of_one(tmp_path: Path) -> None:
    child = wf.write(tmp_path / "child", wf.weights(2))
    card(child, "license: mit\nbase_model: acme/family-2")
    assert "index" not in told(run("lineage", child, "--json"))
