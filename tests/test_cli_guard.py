"""`stillproof guard …`: how it is called, and with which code it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from stillproof.cli import app
from stillproof.cli.answering import GATE_SAID_NO, answer
from stillproof.cli.guard import BEGIN_ANEW, exit_code_of_findings, result_folder
from stillproof.store.pseudonym import create_key, pseudonym

COMMANDS = ("compose", "import", "scan", "watch", "explain", "evaluate", "calibrate")


def guard_command(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, ["guard", *(str(word) for word in words)])


def ended_with(result: dict[str, Any]) -> int:
    with pytest.raises(typer.Exit) as raised:
        answer(lambda: result, True, exit_code_of_findings)
    return raised.value.exit_code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_guard_command_explains_itself_in_a_sentence(command: str) -> None:
    result = guard_command(command, "--help")
    assert result.exit_code == 0
    first = result.stdout.split("\n\n")[1].strip()
    assert first.endswith(".") and len(first) < 80
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["compose", "--out", "w"],
        ["compose", "--world", "w.toml"],
        ["compose", "--world", "w.toml", "--out", "w", "--if-exists", "resume"],
        ["import", "no-such-file", "--format", "openai", "--out", "w"],
        ["scan"],
        ["scan", "w", "--engine", "pandas"],
        ["scan", "w", "--alpha", "1.5"],
        ["scan", "w", "--step-h", "0"],
        ["watch", "w"],
        ["watch", "w", "--budget", "0"],
        ["explain"],
        ["calibrate", "w"],
    ],
    ids=" ".join,
)
def test_a_guard_command_used_wrongly_ends_with_2(words: list[str]) -> None:
    assert guard_command(*words).exit_code == 2


@pytest.mark.parametrize("word", ["account", "account=", "=user"])
def test_a_column_that_is_no_pair_is_wrong_use_and_makes_no_key(word: str, tmp_path: Path) -> None:
    source = tmp_path / "log.jsonl"
    source.write_text("{}\n")
    result = guard_command("import", source, "--format", "columns", "--out", tmp_path / "w", "--column", word, "--json")
    assert result.exit_code == 2
    assert repr(word) in json.loads(result.stdout)["what"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_column_named_twice_is_wrong_use(tmp_path: Path) -> None:
    words = ["--format", "columns", "--out", tmp_path / "w", "--column", "account=a", "--column", "account=b"]
    assert guard_command("import", tmp_path, *words).exit_code == 2


def test_an_import_makes_its_key_beside_the_folder_once_and_keeps_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    source = tmp_path / "log.jsonl"
    row = {"when": "2026-05-01T10:00:00Z", "who": "alice", "said": "hello there"}
    source.write_text(json.dumps(row) + "\n")
    columns = [word for pair in ("time=when", "account=who", "prompt=said") for word in ("--column", pair)]
    words = ["import", source, "--format", "columns", "--out", tmp_path / "w", *columns, "--json"]
    result = guard_command(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kept"] == 1
    key = (tmp_path / "w.key").read_bytes()
    assert guard_command(*words).exit_code == 2, "a log is there"
    assert guard_command(*words, "--if-exists", "replace").exit_code == 0
    assert (tmp_path / "w.key").read_bytes() == key
    (part,) = (tmp_path / "w" / "log").glob("*.parquet")
    table = pq.read_table(part, columns=["account"])
    assert table["account"].to_pylist() == [pseudonym(bytes.fromhex(key.decode()), "alice")]


def test_an_import_uses_the_key_it_is_given(tmp_path: Path) -> None:
    source = tmp_path / "log.jsonl"
    source.write_text('{"time": "2026-05-01T10:00:00Z", "account": "alice", "prompt": "hello"}\n')
    key = tmp_path / "own" / "my.key"
    key.parent.mkdir()
    secret = create_key(key)
    assert guard_command("import", source, "--format", "columns", "--out", tmp_path / "w", "--key", key).exit_code == 0
    assert bytes.fromhex(key.read_text()) == secret
    assert not (tmp_path / "w.key").exists()


@pytest.mark.parametrize(
    ("decisions", "code"),
    [
        ([], 0),
        (["not_found"], 0),
        (["inconclusive", "not_found"], 4),
        (["inconclusive", "found", "not_found"], 3),
    ],
)
def test_the_decisions_of_a_scan_choose_its_exit_code(decisions: list[str], code: int) -> None:
    assert ended_with({"findings": [{"decision": decision} for decision in decisions], "gate": None}) == code


def test_a_gate_ends_a_scan_with_its_code_whatever_was_decided() -> None:
    assert ended_with({"findings": [], "gate": "too few honest clusters"}) == GATE_SAID_NO


def test_an_interrupted_scan_does_not_promise_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        answer(work, False, if_interrupted=BEGIN_ANEW)
    assert "resume" not in capsys.readouterr().err


def test_a_scan_is_found_in_its_own_folder_and_in_the_worlds(tmp_path: Path) -> None:
    inside = tmp_path / "guard"
    inside.mkdir()
    (inside / "result.json").write_text("{}")
    assert result_folder(tmp_path) == inside
    assert result_folder(inside) == inside
    assert result_folder(tmp_path / "other") == tmp_path / "other"


def test_a_scan_that_could_not_have_named_a_lone_campaign_ends_inconclusive() -> None:
    assert ended_with({"findings": [], "decides": False}) == 4
    assert ended_with({"findings": [{"decision": "found"}], "decides": False}) == 3
