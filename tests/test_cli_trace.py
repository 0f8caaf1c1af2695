"""`stillproof trace …`: from a key to a replayed bundle, and what is refused on the way."""

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_server import Fault, FaultyServer
from tests.tiny_model import tiny_folder
from tests.toy_suspects import PROMPTS, recorded, speaking, toy_tokenizer
from typer.testing import CliRunner, Result

from stillproof.cli import app
from stillproof.serve import endpoint
from stillproof.teacher.fake import FakeTeacher
from stillproof.trace.key_file import read_mark_key
from stillproof.trace.plan import read_plan
from stillproof.watermark import MarkKey

COMMANDS = ("key", "plan", "candidates", "outputs", "replay")
PROMISED = {"test", "kind", "null", "statistic", "log10_p", "e_value", "n", "decision", "checks"}


def trace_command(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, ["trace", *(str(word) for word in words)])


def as_json(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)


class Desk:
    """A folder with a key, a tokenizer, prompts and a plan."""

    def __init__(self, folder: Path, *plan_words: str | int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.key, self.plan = folder, folder / "key.json", folder / "plan.json"
        self.made = trace_command("key", "--out", self.key, "--json")
        assert self.made.exit_code == 0, self.made.output
        self.tokenizer = toy_tokenizer(folder / "tokenizer")
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS))
        words = ("--key", self.key, "--tokenizer", self.tokenizer, "--prompts", prompts, "--out", self.plan)
        self.planned = trace_command("plan", *words, *plan_words, "--json")
        assert self.planned.exit_code == 0, self.planned.output

    def suspect(self, key: MarkKey | None, name: str = "suspect") -> Path:
        plan, plan_id = read_plan(self.plan)
        return recorded(self.folder / name, FakeTeacher(speaking(key)), plan.requests(plan_id))

    def outputs(self, suspect: Path, *words: str | Path, out: str = "audit") -> Result:
        given = ("--suspect", suspect, "--plan", self.plan, "--key", self.key, "--out", self.folder / out, "--json")
        return trace_command("outputs", *given, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_trace_command_explains_itself_in_a_sentence(command: str) -> None:
    result = trace_command(command, "--help")
    assert result.exit_code == 0
    first = result.stdout.split("\n\n")[1].strip()
    assert first.endswith(".") and len(first) < 80
    assert "--json" in result.stdout


def test_help_of_trace_loads_no_numpy() -> None:
    code = (
        "import sys\nfrom stillproof.cli import main\nsys.argv = ['stillproof', 'trace', 'outputs', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(answer.stdout.splitlines()[-1].split()) & {"torch", "numpy", "scipy", "tokenizers"} == set()


def test_a_key_is_its_owners_alone_and_only_its_commitment_is_printed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    key = read_mark_key(desk.key)
    assert as_json(desk.made)["commitment"] == key.commitment
    assert key.secret.hex() not in desk.made.output + desk.planned.output + desk.plan.read_text()
    assert stat.S_IMODE(desk.key.stat().st_mode) == 0o600
    assert trace_command("key", "--out", desk.key).exit_code == 2, "a key is never overwritten"
    assert read_mark_key(desk.key).commitment == key.commitment


@pytest.mark.parametrize("stop", ["all", "anytime"])
def test_a_marked_suspect_is_found_and_a_stranger_replays_it(stop: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, "--stop", stop, "--batch", 8)
    result = desk.outputs(desk.suspect(read_mark_key(desk.key)), "--reveal-key")
    assert result.exit_code == 3, result.output
    found = as_json(result)
    assert set(found) >= PROMISED
    assert (found["decision"], found["kind"]) == ("found", "design_based")
    assert all(check["passed"] for check in found["checks"])
    if stop == "all":
        assert found["log10_p"] < -10 and found["e_value"] is None
    else:
        assert found["e_value"] >= 1000 and found["log10_p"] is None
        assert len(found["evidence"]) < len(PROMPTS), "it stops when it is enough"
    again = trace_command("replay", tmp_path / "audit", "--json", "--bundle-sha256", found["bundle_sha256"])
    assert again.exit_code == 3, again.output
    replayed = as_json(again)
    assert replayed["replayed"] == "bit for bit"
    assert {name: replayed[name] for name in found} == found


def test_an_innocent_suspect_is_not_found(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    result = desk.outputs(desk.suspect(None))
    assert result.exit_code == 0, result.output
    assert as_json(result)["decision"] == "not_found"


def test_a_suspect_marked_under_another_key_is_not_found(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    other = replace(read_mark_key(desk.key), secret=bytes(32))
    assert desk.outputs(desk.suspect(other)).exit_code == 0


def test_a_sealed_bundle_needs_its_own_key(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.outputs(desk.suspect(None)).exit_code == 0
    bundle = tmp_path / "audit"
    assert not (bundle / "key.json").exists()
    sealed = trace_command("replay", bundle, "--json")
    assert (sealed.exit_code, as_json(sealed)["error"]) == (1, "CustodyError")
    trace_command("key", "--out", tmp_path / "other.json")
    other = trace_command("replay", bundle, "--key", tmp_path / "other.json", "--json")
    assert (other.exit_code, as_json(other)["error"]) == (1, "MismatchError")
    assert trace_command("replay", bundle, "--key", desk.key).exit_code == 0


def test_another_key_or_none_asks_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    suspect = desk.suspect(None)
    trace_command("key", "--out", tmp_path / "other.json")
    for key, error in ((tmp_path / "other.json", "MismatchError"), (tmp_path / "none.json", "CustodyError")):
        result = desk.outputs(suspect, "--key", key)
        assert (result.exit_code, as_json(result)["error"]) == (1, error)
        assert not (tmp_path / "audit").exists()


def test_a_key_file_that_is_none_is_refused_and_not_quoted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.key.write_text('"a secret of something else"')
    result = desk.outputs(tmp_path / "tokenizer")
    assert result.exit_code == 1
    assert "secret of something" not in result.output


def test_a_plan_other_than_the_published_one_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    suspect = desk.suspect(None)
    plan_id = as_json(desk.planned)["plan_id"]
    assert desk.outputs(suspect, "--plan-id", "0" * 64).exit_code == 1
    assert desk.outputs(suspect, "--plan-id", plan_id).exit_code == 0


def test_a_plan_edited_after_the_first_query_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    suspect = desk.suspect(read_mark_key(desk.key))
    stopped = desk.outputs(suspect, "--max-calls", "1")
    assert (stopped.exit_code, as_json(stopped)["error"]) == (1, "BudgetError")
    desk.plan.write_text(desk.plan.read_text().replace('"alpha": 0.001', '"alpha": 0.05'))
    edited = desk.outputs(suspect, "--if-exists", "resume")
    assert (edited.exit_code, as_json(edited)["error"]) == (1, "MismatchError")
    assert "edited after the first query" in edited.stderr


def test_an_audit_is_neither_overwritten_nor_sealed_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    suspect = desk.suspect(None)
    assert desk.outputs(suspect, "--max-calls", "1").exit_code == 1
    assert desk.outputs(suspect).exit_code == 2
    assert desk.outputs(suspect, "--if-exists", "resume").exit_code == 0
    assert desk.outputs(suspect, "--if-exists", "resume").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--suspect", "no-such-folder"],
        ["--suspect", "https://user:hunter2@example.com/v1", "--model", "m"],
        ["--suspect", "https://example.com/v1"],
        ["--test", "telepathy"],
        ["--max-calls", "0"],
    ],
    ids=" ".join,
)
def test_outputs_used_wrongly_is_an_error_that_writes_nothing(words: list[str], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    result = desk.outputs(tmp_path, *words)
    assert result.exit_code in (1, 2)
    assert "hunter2" not in result.output
    assert not (tmp_path / "audit").exists()


def test_another_tokenizer_than_the_plans_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    other = toy_tokenizer(tmp_path / "other", tuple(f"v{number}" for number in range(200)))
    result = desk.outputs(desk.suspect(None), "--tokenizer", other)
    assert (result.exit_code, as_json(result)["error"]) == (1, "MismatchError")
    moved = desk.tokenizer.rename(tmp_path / "moved")
    assert desk.outputs(tmp_path / "suspect", "--tokenizer", moved).exit_code == 0


def test_a_marked_endpoint_is_found_over_http(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with endpoint(FakeTeacher(speaking(read_mark_key(desk.key)))) as server:
        result = desk.outputs(tmp_path, "--suspect", server.url, "--model", "fake")
    assert result.exit_code == 3, result.output
    begun = json.loads((tmp_path / "audit" / "begun.json").read_text())
    assert (begun["kind"], begun["model"], begun["endpoint"]) == ("openai", "fake", server.url)


def test_an_audit_of_an_endpoint_that_was_stopped_goes_on_later(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with endpoint(FakeTeacher(speaking(None))) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        stopped = desk.outputs(tmp_path, "--suspect", server.url, "--model", "fake", "--max-calls", "3")
        assert as_json(stopped)["error"] == "BudgetError"
    with endpoint(FakeTeacher(speaking(None)), port=port) as server:
        words = ("--suspect", server.url, "--model", "fake", "--if-exists", "resume")
        assert desk.outputs(tmp_path, *words).exit_code == 0


def test_a_suspect_that_answers_429_for_ever_is_inconclusive_and_can_be_asked_later(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with endpoint(FakeTeacher(speaking(read_mark_key(desk.key)))) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        some = desk.outputs(tmp_path, "--suspect", server.url, "--model", "fake", "--max-calls", "3")
        assert as_json(some)["error"] == "BudgetError"
    words = ("--suspect", server.url, "--model", "fake", "--if-exists", "resume")
    with FaultyServer([Fault(status=429, headers={"retry-after": "86400"})] * 99, port=port):
        busy = desk.outputs(tmp_path, *words)
    told = as_json(busy)
    assert busy.exit_code == 4, busy.output
    assert (told["decision"], told["log10_p"], told["statistic"], told["bundle"]) == ("inconclusive", None, None, None)
    assert told.keys() >= PROMISED
    assert told["checks"][0]["detail"].startswith("3 answers are kept; ")
    assert not (tmp_path / "audit" / "bundle.json").exists()
    with endpoint(FakeTeacher(speaking(read_mark_key(desk.key))), port=port):
        assert desk.outputs(tmp_path, *words).exit_code == 3


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_weights_on_this_machine_are_asked_and_their_text_is_cut_by_the_keys_tokenizer(
    mode: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk")
    weights = tiny_folder(tmp_path / "weights")
    desk.plan.unlink()
    prompts = tmp_path / "three.txt"
    prompts.write_text("one\ntwo\nthree\n")
    words = (
        "--key",
        desk.key,
        "--tokenizer",
        weights,
        "--prompts",
        prompts,
        "--out",
        desk.plan,
        "--max-tokens",
        60,
        "--min-tuples",
        50,
    )
    planned = trace_command("plan", *words, "--mode", mode, "--json")
    assert planned.exit_code == 0, planned.output
    result = desk.outputs(weights)
    assert result.exit_code == 0, result.output
    found = as_json(result)
    assert (found["decision"], len(found["evidence"])) == ("not_found", 3)
    assert f"{mode} mode" in found["test"]
    assert (
        trace_command("replay", tmp_path / "desk" / "audit", "--key", desk.key, "--tokenizer", weights).exit_code == 0
    )
    begun = json.loads((tmp_path / "desk" / "audit" / "begun.json").read_text())
    assert begun["tokenizer"] == as_json(planned)["tokenizer"]["vocabulary_sha256"]
