"""`stillproof trace lineage`, `signing-key`, `sign` and `verify`: what they print, and with which code they end."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from bench.lineage.mutations import shipped
from typer.testing import CliRunner, Result

from stillproof.cli import app
from stillproof.errors import CustodyError, OutputExistsError
from stillproof.finding import Decision, Finding

LINEAGE_KEYS = {
    "model", "licence", "decision", "why", "tree", "lineage", "terms", "duties", "licence_conflict", "as_teacher",
    "gate", "disclaimer", "checked",
}  # fmt: skip
VERIFY_KEYS = {
    "model", "whole", "differences", "signature", "signed_by", "key_pinned", "faults", "files", "exchanges", "gate",
}  # fmt: skip


def trace_command(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, ["trace", *(str(word) for word in words)])


def as_json(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)


def model(folder: Path, front: str, title: str = "A model") -> Path:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{front}\n---\n# {title}\n", encoding="utf-8")
    return folder


def weight_test(path: Path, decision: Decision, log10_p: float | None) -> Path:
    finding = Finding(
        claim="the weights are not independent", verb="trace", test="unit_labels", kind="design_based",
        null="independent", statistic=1.0, n=10, n_unit="units", decision=decision, alpha=0.01, log10_p=log10_p,
    )  # fmt: skip
    path.write_text(json.dumps(finding.to_json()))
    return path


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("signed")
    assert trace_command("signing-key", "--out", work / "signer.pem").exit_code == 0
    return shipped(work, work / "signer.pem"), work / "signer.pem.pub"


@pytest.mark.parametrize("command", ["lineage", "signing-key", "sign", "verify"])
def test_every_command_of_lineage_explains_itself_in_a_sentence(command: str) -> None:
    result = trace_command(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.split("\n\n")[1].strip().endswith(".")
    assert "--json" in result.stdout


# --- lineage --------------------------------------------------------------------------------------------------


def test_a_lineage_is_shown_with_the_keys_it_promises(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: mit")
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base")
    result = trace_command("lineage", child, "--parent", f"acme/base={base}", "--json")
    assert result.exit_code == 0, result.output
    row = as_json(result)
    assert set(row) == LINEAGE_KEYS
    assert row["decision"] == "allow_with_duties"
    assert row["tree"][1].startswith("  <- derived_from acme/base (declared by model card")
    assert row["lineage"]["edges"][0]["state"] == "declared"
    assert "not legal advice" in row["disclaimer"]


def test_an_unmet_duty_ends_a_check_with_3_and_nothing_else_does(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: mit")
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base")
    words = ("lineage", child, "--parent", f"acme/base={base}", "--json")
    shown, checked = trace_command(*words), trace_command(*words, "--check")
    assert (shown.exit_code, checked.exit_code) == (0, 3)
    assert "agreement_copy" in as_json(checked)["gate"]
    from stillproof import terms

    (child / "LICENSE").write_text(terms.read_licence("mit.txt"))
    met = trace_command(*words, "--check")
    assert met.exit_code == 0, met.output
    assert {duty["state"] for duty in as_json(met)["duties"]} == {"met"}


def test_users_answer_the_duty_that_binds_from_a_number_on(tmp_path: Path) -> None:
    child = model(tmp_path / "child", 'license: llama3.3\ndistilled_from: ["acme/t"]', "Llama-child")
    words = ("lineage", child, "--parent", f"acme/t={model(tmp_path / 't', 'license: llama3.3')}", "--json")
    states = {
        users: next(d["state"] for d in as_json(trace_command(*words, *users))["duties"] if d["kind"] == "user_limit")
        for users in ((), ("--users", "1000"), ("--users", "800000000"))
    }
    assert list(states.values()) == ["open", "met", "unmet"]


@pytest.mark.parametrize("licence", ["somebody's own", "other", "apache-2.0 WITH an-exception", None])
def test_an_unknown_licence_is_no_yes(tmp_path: Path, licence: str | None) -> None:
    base = model(tmp_path / "base", f"license: {licence}" if licence else "tags: [x]")
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base")
    result = trace_command("lineage", child, "--parent", f"acme/base={base}", "--check", "--json")
    assert result.exit_code == 3
    assert as_json(result)["decision"] == "unknown"


def test_a_lineage_that_goes_round_is_said_and_no_yes(tmp_path: Path) -> None:
    a = model(tmp_path / "a", "license: mit\nbase_model: b")
    b = model(tmp_path / "b", "license: mit\nbase_model: a")
    result = trace_command("lineage", a, "--parent", f"b={b}", "--check", "--json")
    assert result.exit_code == 3
    assert as_json(result)["lineage"]["cycles"] == [["a", "b", "a"]]
    assert "goes round: a -> b -> a" in as_json(result)["gate"]


def test_a_card_that_the_weights_contradict_is_no_yes_and_one_that_they_confirm_is_one(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: cc0-1.0")
    child = model(tmp_path / "child", "license: cc0-1.0\nbase_model: acme/base")
    words = ("lineage", child, "--parent", f"acme/base={base}", "--check", "--json", "--finding")
    against = trace_command(*words, f"acme/base={weight_test(tmp_path / 'no.json', 'not_found', -0.2)}")
    assert against.exit_code == 3
    assert as_json(against)["lineage"]["edges"][0]["state"] == "contradicted"
    assert "contradict that child comes from acme/base" in as_json(against)["gate"]
    confirmed = trace_command(*words, f"acme/base={weight_test(tmp_path / 'yes.json', 'found', -12.0)}")
    assert confirmed.exit_code == 0, confirmed.output
    assert "tested p=1e-12.0" in as_json(confirmed)["tree"][1]


@pytest.mark.parametrize(
    "words",
    [
        ["--parent", "no-path"],
        ["--parent", "=x"],
        ["--finding", "acme/base=f.json"],
        ["--users", "-1"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_a_lineage_asked_for_wrongly_ends_with_2(tmp_path: Path, words: list[str]) -> None:
    child = model(tmp_path / "child", "license: mit\nbase_model: acme/base")
    weight_test(tmp_path / "f.json", "found", -3.0)
    words = [word.replace("f.json", str(tmp_path / "f.json")) for word in words]
    assert trace_command("lineage", child, *words).exit_code == 2


def test_a_folder_that_is_not_there_ends_with_1_and_says_which(tmp_path: Path) -> None:
    result = trace_command("lineage", tmp_path / "none", "--json")
    assert result.exit_code == 1
    error = as_json(result)
    assert (error["error"], error["which"]) == ("InputError", str(tmp_path / "none"))
    assert "Traceback" not in result.output


def test_control_characters_of_a_card_reach_no_terminal(tmp_path: Path) -> None:
    child = model(tmp_path / "child", 'license: "\\e[31mmit"\ndistilled_from: ["acme/\\e]0;owned"]')
    result = trace_command("lineage", child)
    assert result.exit_code == 0
    assert "\x1b" not in result.output


# --- signatures -----------------------------------------------------------------------------------------------


def test_a_signing_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    result = trace_command("signing-key", "--out", tmp_path / "k.pem", "--json")
    assert result.exit_code == 0, result.output
    row = as_json(result)
    assert set(row) == {"key", "public_key", "signed_by"}
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    assert (tmp_path / "k.pem").read_text() not in result.output
    before = (tmp_path / "k.pem").read_bytes()
    assert trace_command("signing-key", "--out", tmp_path / "k.pem").exit_code == OutputExistsError.exit_code == 2
    assert (tmp_path / "k.pem").read_bytes() == before


def test_a_signed_folder_verifies_by_its_key_and_signing_again_is_refused(tmp_path: Path) -> None:
    named = as_json(trace_command("signing-key", "--out", tmp_path / "k.pem", "--json"))["signed_by"]
    folder = model(tmp_path / "m", "license: mit")
    result = trace_command("sign", folder, "--key", tmp_path / "k.pem", "--json")
    assert result.exit_code == 0, result.output
    assert as_json(result) == {"model": str(folder), "signature": "model.sig", "signed_by": named}
    verified = trace_command("verify", folder, "--key", tmp_path / "k.pem.pub", "--json")
    # Signed without having been shipped: every byte is covered, and that there is no manifest is said.
    assert verified.exit_code == 3
    assert as_json(verified)["signature"] == "valid"
    assert "no manifest" in as_json(verified)["gate"]
    assert trace_command("sign", folder, "--key", tmp_path / "k.pem").exit_code == 2


def test_a_whole_folder_verifies_with_the_keys_it_promises(signed: tuple[Path, Path]) -> None:
    folder, key = signed
    result = trace_command("verify", folder, "--key", key, "--json")
    assert result.exit_code == 0, result.output
    row = as_json(result)
    assert set(row) == VERIFY_KEYS
    assert (row["whole"], row["signature"], row["key_pinned"], row["gate"]) == (True, "valid", True, None)
    unpinned = as_json(trace_command("verify", folder, "--json"))
    assert (unpinned["signature"], unpinned["key_pinned"]) == ("valid", False)


@pytest.mark.parametrize("file", ["model.safetensors", "README.md", "LICENSE", "bom.cdx.json", "stillproof.json"])
def test_a_tampered_folder_ends_with_3_and_names_the_file(signed: tuple[Path, Path], file: str) -> None:
    folder, key = signed
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-2] + b"\0" + whole[-1:])
    try:
        result = trace_command("verify", folder, "--key", key, "--json")
    finally:
        (folder / file).write_bytes(whole)
    assert result.exit_code == 3
    assert f"{file} changed" in as_json(result)["gate"]
    assert as_json(result)["whole"] is False


def test_another_key_and_an_unsigned_folder_with_a_key_end_with_3(signed: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = signed
    trace_command("signing-key", "--out", tmp_path / "k.pem")
    other = trace_command("verify", folder, "--key", tmp_path / "k.pem.pub", "--json")
    assert (other.exit_code, as_json(other)["signature"]) == (3, "invalid")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.iterdir():
        if path.name not in ("model.sig", "model.pub"):
            (bare / path.name).write_bytes(path.read_bytes())
    assert trace_command("verify", bare).exit_code == 0
    asked = trace_command("verify", bare, "--key", tmp_path / "k.pem.pub", "--json")
    assert (asked.exit_code, as_json(asked)["gate"]) == (3, "it is not signed")


def test_a_missing_key_or_folder_is_an_error_that_names_it(signed: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = signed
    result = trace_command("sign", model(tmp_path / "m", "license: mit"), "--key", tmp_path / "no.pem", "--json")
    assert result.exit_code == CustodyError.exit_code == 1
    assert "signing-key" in as_json(result)["remedy"]
    public = trace_command("sign", tmp_path / "m", "--key", key, "--json")
    assert (public.exit_code, as_json(public)["error"]) == (1, "CustodyError")
    assert not (tmp_path / "m" / "model.sig").exists()
    missing = trace_command("verify", folder, "--key", tmp_path / "no.pub", "--json")
    assert missing.exit_code == 3 and "no such file" in as_json(missing)["gate"]
    assert trace_command("verify", tmp_path / "none").exit_code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert trace_command("verify", empty).exit_code == 1
    assert trace_command("sign", empty).exit_code == 2
