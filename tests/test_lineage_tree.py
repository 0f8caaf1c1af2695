import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.errors import InputError
from stillproof.finding import Decision, Finding
from stillproof.lineage import claims, declared, grow
from stillproof.lineage.gguf_head import read_gguf_head
from stillproof.trace.lineage_check import check_lineage, findings_as_test


def model(folder: Path, front: str, title: str = "A model") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{front}\n---\n# {title}\n", encoding="utf-8")
    return folder


def gguf(path: Path, pairs: dict[str, str | int | list[str]]) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    body = b""
    for key, value in pairs.items():
        if isinstance(value, list):
            body += text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        elif isinstance(value, int):
            body += text(key) + struct.pack("<II", 4, value)
        else:
            body += text(key) + struct.pack("<I", 8) + text(value)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    return path


def weight_test(decision: Decision, log10_p: float | None) -> Finding:
    return Finding(
        claim="the weights are not independent", verb="trace", test="weights", kind="design_based", null="independent",
        statistic=1.0, n=10, n_unit="units", decision=decision, alpha=0.01, log10_p=log10_p,
    )  # fmt: skip


def parents_of(folder: Path) -> set[tuple[str, str]]:
    return {(claim.parent, claim.tie) for claim in claims(folder)}


def test_each_kind_of_file_names_its_parents(tmp_path: Path) -> None:
    model(tmp_path, 'base_model: acme/base\nbase_model_relation: finetune\ndistilled_from: [{"model": "acme/teacher"}]')
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/lora-base", "revision": "abc"}')
    (tmp_path / "mergekit_config.yml").write_text(
        "models:\n  - model: acme/left+acme/lora\n    parameters: {weight: 1}\n  - model: acme/right # second\n"
        "merge_method: ties\nbase_model: acme/root\n"
    )
    url = "https://huggingface.co/acme/from-gguf"
    gguf(tmp_path / "m.gguf", {"general.base_model.count": 1, "general.base_model.0.repo_url": url})
    assert parents_of(tmp_path) == {
        ("acme/base", "finetune"),
        ("acme/teacher", "distilled_from"),
        ("acme/lora-base", "adapter"),
        ("acme/left", "merge"),
        ("acme/lora", "merge"),
        ("acme/right", "merge"),
        ("acme/root", "merge"),
        ("acme/from-gguf", "derived_from"),
    }


def test_a_gguf_file_alone_declares_its_licence_behind_long_arrays(tmp_path: Path) -> None:
    tokens = ["a"] * 1000
    path = gguf(tmp_path / "m.gguf", {"tokenizer.tokens": tokens, "general.license": "apache-2.0"})
    assert declared(path)["licence"] == "apache-2.0"
    assert declared(path)["declared_by"] == "GGUF metadata"
    assert read_gguf_head(path)["tokenizer.tokens"] is None


@given(st.integers(0, 400), st.binary(max_size=300))
def test_no_gguf_head_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, cut: int, tail: bytes) -> None:
    folder = tmp_path_factory.mktemp("g")
    whole = gguf(folder / "m.gguf", {"general.license": "mit", "list": ["a", "b"], "n": 3}).read_bytes()
    (folder / "m.gguf").write_bytes(whole[:cut] + tail)
    faults: list[str] = []
    assert isinstance(claims(folder, faults), list)
    try:
        head: dict[str, Any] = read_gguf_head(folder / "m.gguf")
    except InputError:
        assert len(faults) == 1
    else:
        assert faults == [] and len(head) <= 100_000


def test_a_path_that_a_file_names_is_never_opened(tmp_path: Path) -> None:
    inside = model(tmp_path / "inside", "license: mit\nbase_model: secret")
    model(tmp_path / "inside" / "secret", "license: llama2\nbase_model: acme/deep")
    grown = grow(inside)
    assert grown.nodes["secret"].licence is None
    assert "acme/deep" not in grown.nodes


@pytest.mark.parametrize(
    ("decision", "log10_p", "state"),
    [("found", -12.0, "tested"), ("not_found", -0.2, "contradicted"), ("inconclusive", None, "declared")],
)
def test_a_weight_test_changes_what_is_said_of_an_edge(
    tmp_path: Path, decision: Decision, log10_p: float | None, state: str
) -> None:
    base = model(tmp_path / "base", "license: mit")
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base")
    test = findings_as_test({base: weight_test(decision, log10_p)})
    (edge,) = grow(child, {"acme/base": base}, test).edges
    assert edge.state == state
    result = check_lineage(child, known={"acme/base": base}, test=test)
    assert (result["decision"] == "unknown") == (state == "contradicted")
    assert (f"p=1e{log10_p}" in result["tree"][1]) == (state != "declared")


def test_distilled_from_is_not_put_to_a_weight_test(tmp_path: Path) -> None:
    teacher = model(tmp_path / "teacher", "license: mit")
    child = model(tmp_path / "child", 'license: mit\ndistilled_from: ["acme/teacher"]')
    (edge,) = grow(child, {"acme/teacher": teacher}, findings_as_test({teacher: weight_test("not_found", -0.1)})).edges
    assert (edge.tie, edge.state, edge.finding) == ("distilled_from", "declared", None)


def test_a_lineage_that_goes_round_is_named_and_unknown(tmp_path: Path) -> None:
    a = model(tmp_path / "a", "license: mit\nbase_model: b")
    b = model(tmp_path / "b", "license: mit\nbase_model: a")
    assert grow(a, {"b": b}).cycles == (("a", "b", "a"),)
    result = check_lineage(a, known={"b": b})
    assert result["decision"] == "unknown"
    assert "goes round: a -> b -> a" in result["gate"]


def test_a_card_that_promises_more_than_its_ancestors_let_it_is_a_conflict(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama2")
    child = model(tmp_path / "child", 'license: apache-2.0\ndistilled_from: ["acme/base"]')
    result = check_lineage(child, known={"acme/base": base})
    assert result["decision"] == "deny"
    assert "'apache-2.0' (allow)" in result["licence_conflict"]


def test_each_duty_goes_from_unmet_to_met_by_the_artefact_it_asks_for(tmp_path: Path) -> None:
    from stillproof import terms

    child = model(tmp_path / "child", 'license: llama3.3\ndistilled_from: ["acme/t"]', "Student")
    known = {"acme/t": model(tmp_path / "t", "license: llama3.3")}
    before = {duty["duty"]: duty["state"] for duty in check_lineage(child, known=known)["duties"]}
    assert before == {
        "name_prefix": "unmet",
        "attribution": "unmet",
        "agreement_copy": "unmet",
        "use_restrictions": "unmet",
        "user_limit": "open",
    }
    policy = "https://www.llama.com/llama3_3/use-policy"
    card = f'---\nlicense: llama3.3\ndistilled_from: ["acme/t"]\n---\n# Llama-student\nBuilt with Llama. See {policy}.'
    (child / "README.md").write_text(card)
    (child / "LICENSE").write_text(terms.read_licence("llama-3.3.txt"))
    after = check_lineage(child, known=known, monthly_users=10)
    assert {duty["state"] for duty in after["duties"]} == {"met"}
    assert after["gate"] is None
    assert check_lineage(child, known=known, monthly_users=800_000_000)["gate"] is not None


def test_a_fine_tune_of_llama_3_may_be_under_its_name_and_may_teach_no_other_model(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama3")
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base\nbase_model_relation: finetune", "Tuned")
    found = check_lineage(child, known={"acme/base": base})
    assert (found["decision"], found["as_teacher"]["decision"]) == ("allow_with_duties", "deny")
    name = next(duty for duty in found["duties"] if duty["kind"] == "name_prefix")
    assert (name["state"], name["text"][-9:-2]) == ("unmet", "Llama 3")


def test_a_notice_of_a_parent_at_hand_is_carried_on_or_missed(tmp_path: Path) -> None:
    child = model(tmp_path / "child", "license: apache-2.0\nbase_model: acme/base")
    parent = model(tmp_path / "base", "license: apache-2.0")
    (parent / "NOTICE").write_text("Acme made this.")

    def state() -> str:
        duties = check_lineage(child, known={"acme/base": parent})["duties"]
        return next(duty["state"] for duty in duties if duty["kind"] == "keep_notices")

    assert state() == "unmet"
    (child / "NOTICE").write_text("Ours. Acme made  this.")
    assert state() == "met"


def test_one_changed_letter_in_an_agreement_is_no_copy_of_it(tmp_path: Path) -> None:
    from stillproof import terms

    child = model(tmp_path / "child", "license: mit\nbase_model: acme/t")
    (child / "LICENSE").write_text(terms.read_licence("mit.txt").replace("WARRANTY", "WARRANTEE", 1))
    known = {"acme/t": model(tmp_path / "t", "license: mit")}
    states = {duty["duty"]: duty["state"] for duty in check_lineage(child, known=known)["duties"]}
    assert states["agreement_copy"] == "unmet"


def test_the_result_is_json_and_says_that_it_is_no_legal_advice(tmp_path: Path) -> None:
    result = check_lineage(model(tmp_path / "m", "license: mit\nbase_model: acme/x"))
    assert "not legal advice" in json.loads(json.dumps(result))["disclaimer"]


def test_nothing_declared_is_unknown_and_a_missing_folder_an_error(tmp_path: Path) -> None:
    assert check_lineage(model(tmp_path / "m", "license: mit"))["decision"] == "unknown"
    with pytest.raises(InputError, match="no such folder"):
        check_lineage(tmp_path / "none")
