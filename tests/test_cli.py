import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import stillproof
from stillproof.cli import GATE_SAID_NO, INTERRUPTED, _answer, app
from stillproof.errors import ConfigError, InputError, OutputExistsError, StillproofError, TermsError
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.store import Store, pseudonym

COMMANDS = (
    [],
    ["distill"],
    ["distill", "plan"],
    ["distill", "run"],
    ["distill", "generate"],
    ["distill", "cache"],
    ["distill", "train"],
    ["distill", "eval"],
    ["distill", "ship"],
    ["store", "show"],
    ["store", "forget"],
    ["keys", "create"],
    ["keys", "rotate"],
    ["keys", "commit"],
    ["serve"],
    ["show"],
    ["terms"],
    ["methods"],
    ["doctor"],
    ["demo"],
)


def stillproof_command(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def exit_code_of(work: Callable[[], Mapping[str, object]], *, as_json: bool = True) -> int:
    with pytest.raises(typer.Exit) as raised:
        _answer(work, as_json)
    return raised.value.exit_code


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stillproof.cli import main\nsys.argv = ['stillproof', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert loaded & {"torch", "transformers", "pyarrow", "pydantic", "numpy", "scipy", "rich"} == set()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_in_a_sentence(command: list[str]) -> None:
    result = stillproof_command(*command, "--help")
    assert result.exit_code == 0
    first = result.stdout.split("\n\n")[1].strip()
    assert first.endswith(".") and len(first) < 80


def test_the_version_is_the_packages() -> None:
    assert stillproof_command("--version").stdout == f"stillproof {stillproof.__version__}\n"


def test_an_unknown_option_is_wrong_use() -> None:
    assert stillproof_command("doctor", "--jsn").exit_code == 2


def test_all_faults_of_a_config_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = stillproof_command("distill", "run", "--out", out, "trian.epochs=2", "train.epochs=0", "loose")
    assert result.exit_code == 2
    assert "3 fault(s)" in result.stderr
    assert all(fault in result.stderr for fault in ("'trian'", "train.epochs:", "'loose'"))
    assert result.stdout == ""
    assert not out.exists()


def test_an_error_is_one_object_on_stdout_with_json(tmp_path: Path) -> None:
    missing = tmp_path / "no.json"
    result = stillproof_command("show", missing, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == "InputError"
    assert str(missing) in result.stderr
    assert "Traceback" not in result.stderr


def test_show_prints_an_artefact_as_it_is(tmp_path: Path) -> None:
    artefact = tmp_path / "result.json"
    artefact.write_text('{"n_tokens": 12, "student_dir": "s"}')
    assert json.loads(stillproof_command("show", artefact, "--json").stdout) == {"n_tokens": 12, "student_dir": "s"}
    assert "12" in stillproof_command("show", artefact).stdout


def test_a_key_is_made_rotated_and_committed_to(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first = json.loads(stillproof_command("keys", "create", "coins", "--keys", keys, "--json").stdout)
    assert (first["name"], first["version"]) == ("coins", 1)
    assert stillproof_command("keys", "create", "coins", "--keys", keys).exit_code == OutputExistsError.exit_code
    second = json.loads(stillproof_command("keys", "rotate", "coins", "--keys", keys, "--json").stdout)
    assert second["version"] == 2 and second["commitment"] != first["commitment"]
    again = json.loads(
        stillproof_command("keys", "commit", "coins", "--key-version", 1, "--keys", keys, "--json").stdout
    )
    assert again["commitment"] == first["commitment"]


def test_forget_erases_an_account_from_a_store_and_show_counts_the_rest(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store") as store:
        names = [pseudonym(store.pseudonym_key(), name) for name in ("alice", "bob")]
        for account in (*names, names[0]):
            store.append(Exchange("", (Message("user", "hello"),), "hi", model="m", account=account))
    shown = json.loads(stillproof_command("store", "show", "--store", store.path, "--json").stdout)
    assert shown["exchanges"] == 3
    result = stillproof_command("store", "forget", "alice", "--store", store.path, "--json")
    assert json.loads(result.stdout)["erased"] == 2
    assert "alice" not in result.stdout
    shown = json.loads(stillproof_command("show", store.path, "--json").stdout)
    assert shown["exchanges"] == 1


def test_serve_answers_until_interrupted_then_says_what_it_recorded(tmp_path: Path) -> None:
    messages, sampling = (Message("user", "hello"),), Sampling()
    with Store.create(tmp_path / "earlier") as store:
        store.append(Exchange("", messages, "hi", model="m", status=200, sampling=sampling))
    command = ["serve", "--teacher", "replay", "--model", str(store.path), "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stillproof", *command, "--record", str(tmp_path / "served")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = said.split()[2].rstrip(";")
        with urllib.request.urlopen(f"{url}/models") as answer:
            assert json.load(answer)["object"] == "list"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, said + stderr
    assert json.loads(stdout)["recorded"] == 0


def test_a_port_that_is_taken_is_wrong_use(tmp_path: Path) -> None:
    with Store.create(tmp_path / "earlier") as store:
        store.append(Exchange("", (Message("user", "hello"),), "hi", model="m", status=200))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = stillproof_command(
            "serve", "--teacher", "replay", "--model", store.path, "--port", taken.getsockname()[1]
        )
    assert result.exit_code == ConfigError.exit_code
    assert "--port" in result.stderr


def test_terms_that_allow_end_with_0_and_unknown_ones_with_the_gates_code() -> None:
    assert stillproof_command("terms", "apache-2.0").exit_code == 0
    result = stillproof_command("terms", "no-such-licence", "--json")
    assert result.exit_code == GATE_SAID_NO
    assert json.loads(result.stdout)["decision"] == "unknown"


def test_methods_names_what_a_config_can_choose() -> None:
    found = json.loads(stillproof_command("methods", "--json").stdout)
    assert "smollm2" in found["teacher_kinds"]
    assert "forward_kl" in found["losses"]
    assert found["losses"]["forward_kl"]


def test_the_doctors_exit_code_says_whether_the_default_recipe_can_run() -> None:
    result = stillproof_command("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["ready"] else 1)
    assert all(item["remedy"] for item in found["missing"])
    assert found["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("a"), 1), (ConfigError("a"), 2), (OutputExistsError("a"), 2), (TermsError("a"), 3)]
)
def test_an_errors_kind_decides_the_exit_code(error: StillproofError, code: int) -> None:
    def work() -> Mapping[str, object]:
        raise error

    assert exit_code_of(work) == code


def test_a_gate_in_the_result_ends_with_its_code_and_the_result_is_still_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code_of(lambda: {"gate": "kl_student_nats is above max_kl_nats"}) == GATE_SAID_NO
    assert json.loads(capsys.readouterr().out)["gate"]
    assert exit_code_of(lambda: {"gate": None}) == 0


def test_an_interrupted_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Mapping[str, object]:
        raise KeyboardInterrupt

    assert exit_code_of(work) == INTERRUPTED
    assert "--if-exists resume" in capsys.readouterr().err


def test_an_error_nobody_expected_passes_with_its_traceback() -> None:
    def work() -> Mapping[str, object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _answer(work, as_json=False)


def test_a_number_that_is_none_is_refused_in_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _answer(lambda: {"kl": float("nan")}, as_json=True)


def test_text_in_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Mapping[str, object]:
        raise InputError("bad line \x1b[2J", "log\r.jsonl")

    exit_code_of(work, as_json=False)
    assert not {"\x1b", "\r"} & set(capsys.readouterr().err)
