"""`stillproof grant …` and `stillproof export`: signed permissions, and findings for others."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillproof.cli import app
from stillproof.finding import Decision, Finding
from stillproof.report.stix import read_stix
from stillproof.store.pseudonym import create_key, pseudonym
from stillproof.terms.grant import read_grant
from stillproof.terms.signed_grant import sign_grant

TODAY = datetime.now(UTC).date()
NEXT_YEAR = str(TODAY + timedelta(days=365))
ACCOUNT = "0123456789abcdef" * 2


def stillproof_command(*words: str | int | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def as_json(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "grants.pem"
    assert stillproof_command("grant", "key", "--out", path).exit_code == 0
    return path


def issue(key: Path, out: Path, *words: str | int | Path) -> Result:
    given = ["--key", key, "--out", out, "--id", "g-1", "--grantor", "Acme Inc.", "--grantee", "us", "--json"]
    given += ["--teacher", "acme/teacher", *(() if "--expires" in words else ("--expires", NEXT_YEAR))]
    return stillproof_command("grant", "issue", *given, *words)


def check(file: Path, key: Path, *words: str) -> Result:
    return stillproof_command("grant", "check", file, "--key", f"{key}.pub", "--json", *words)


def finding(path: Path, decision: Decision = "found", test: str = "ranks") -> Path:
    made = Finding(
        claim=f"3 accounts act as one, {ACCOUNT} first", verb="guard", test=test, kind="reference_based",
        null="honest clusters", statistic=3.0, n=100, n_unit="exchanges", decision=decision, alpha=0.01,
        log10_p=-3.0 if decision == "found" else -0.1, n_reference=2000, evidence=("e-1",), accounts=(ACCOUNT,),
    )  # fmt: skip
    path.write_text(json.dumps(made.to_json()))
    return path


@pytest.mark.parametrize("command", [["grant"], ["grant", "key"], ["grant", "issue"], ["grant", "check"], ["export"]])
def test_every_command_here_explains_itself_in_a_sentence(command: list[str]) -> None:
    result = stillproof_command(*command, "--help")
    assert result.exit_code == 0
    first = result.stdout.split("\n\n")[1].strip()
    assert first.endswith(".") and len(first) < 80


# --- grants ---------------------------------------------------------------------------------------------------


def test_a_grant_key_is_never_overwritten_and_its_private_half_never_printed(tmp_path: Path) -> None:
    made = stillproof_command("grant", "key", "--out", tmp_path / "k.pem", "--json")
    assert set(as_json(made)) == {"key", "public_key_file", "public_key"}
    assert as_json(made)["public_key"] == (tmp_path / "k.pem.pub").read_text()
    assert (tmp_path / "k.pem").stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in made.output
    assert stillproof_command("grant", "key", "--out", tmp_path / "k.pem").exit_code == 2


def test_an_issued_grant_holds_and_carries_all_that_was_said(key: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.json"
    words = ("--max-exchanges", 1000, "--account", ACCOUNT, "--duty", "name it Acme-...", "--evidence", "contract 7")
    made = issue(key, out, *words)
    assert made.exit_code == 0, made.output
    grant = read_grant(out)
    assert (grant.max_exchanges, grant.accounts, grant.duties) == (1000, (ACCOUNT,), ("name it Acme-...",))
    held = check(out, key)
    assert held.exit_code == 0, held.output
    row = as_json(held)
    assert (row["holds"], row["gate"], row["expires"]) == (True, None, NEXT_YEAR)
    assert check(out, key, "--model", "acme/teacher").exit_code == 0
    other = check(out, key, "--model", "acme/another")
    assert (other.exit_code, as_json(other)["holds"]) == (3, False)
    assert issue(key, out).exit_code == 2, "a grant is never overwritten"


def test_a_raw_account_is_stored_as_the_logs_own_pseudonym(key: Path, tmp_path: Path) -> None:
    secret = create_key(tmp_path / "log.key")
    named = issue(key, tmp_path / "g.json", "--raw-account", "alice", "--account-key", tmp_path / "log.key")
    assert named.exit_code == 0, named.output
    assert read_grant(tmp_path / "g.json").accounts == (pseudonym(secret, "alice"),)
    assert "alice" not in (tmp_path / "g.json").read_text()
    without = issue(key, tmp_path / "h.json", "--raw-account", "alice")
    assert (without.exit_code, as_json(without)["remedy"]) == (2, "add --account-key")
    raw = issue(key, tmp_path / "h.json", "--account", "alice")
    assert raw.exit_code == 1 and "alice" not in raw.stdout
    assert not (tmp_path / "h.json").exists()


def test_a_forged_grant_ends_with_3(key: Path, tmp_path: Path) -> None:
    issue(key, tmp_path / "g.json", "--max-exchanges", 10)
    row = json.loads((tmp_path / "g.json").read_text())
    (tmp_path / "g.json").write_text(json.dumps({**row, "max_exchanges": 10**9}))
    result = check(tmp_path / "g.json", key)
    assert result.exit_code == 3
    assert "no signature that holds" in as_json(result)["gate"]


def test_an_expired_grant_a_future_one_and_one_of_another_key_end_with_3(key: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    issue(key, tmp_path / "g.json")
    grant = read_grant(tmp_path / "g.json")
    for days, issued, expires in (
        ("expired", date(2020, 1, 1), date(2020, 12, 31)),
        ("after", TODAY + timedelta(days=9), TODAY + timedelta(days=99)),
    ):
        dated = sign_grant(replace(grant, issued=issued, expires=expires, signature=None), key)
        (tmp_path / "dated.json").write_text(json.dumps(dated.to_json()))
        result = check(tmp_path / "dated.json", key)
        assert result.exit_code == 3 and days in as_json(result)["gate"]
    other = tmp_path / "other.pem"
    stillproof_command("grant", "key", "--out", other)
    assert "another key" in as_json(check(tmp_path / "g.json", other))["gate"]
    assert check(tmp_path / "g.json", other).exit_code == 3


def test_a_grant_issued_or_checked_wrongly_says_what_is_wrong(key: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.json"
    assert issue(key, out, "--expires", "next year").exit_code == 2
    assert issue(key, out, "--expires", "2020-01-01").exit_code == 2
    assert issue(key, out, "--max-exchanges", 0).exit_code == 2
    assert issue(tmp_path / "none.pem", out).exit_code == 1
    assert not out.exists()
    assert check(tmp_path / "none.json", key).exit_code == 1
    out.write_text('{"id": ""}')
    broken = check(out, key)
    assert (broken.exit_code, as_json(broken)["error"]) == (1, "InputError")
    issue(key, tmp_path / "h.json")
    assert check(tmp_path / "h.json", tmp_path / "none").exit_code == 1


# --- export ---------------------------------------------------------------------------------------------------


def test_a_finding_is_exported_under_a_key_and_reads_back(tmp_path: Path) -> None:
    file, out, secret = finding(tmp_path / "f.json"), tmp_path / "out.json", tmp_path / "export.key"
    words = ("export", file, "--key", secret, "--out", out, "--days", 30, "--operator", "Acme", "--json")
    result = stillproof_command(*words)
    assert result.exit_code == 0, result.output
    row = as_json(result)
    assert set(row) == {"bundle", "format", "objects", "bytes", "accounts", "keep_days"}
    assert (row["format"], row["accounts"], row["keep_days"], row["bytes"]) == ("stix", 1, 30, out.stat().st_size)
    assert secret.stat().st_mode & 0o077 == 0
    assert ACCOUNT not in out.read_text()
    assert read_stix(json.loads(out.read_text()), datetime.now(UTC)).n == 100
    assert stillproof_command(*words).exit_code == 2, "a bundle is never overwritten"
    again = stillproof_command("export", file, "--key", secret, "--out", tmp_path / "again.json", "--json")
    assert again.exit_code == 0
    bundles = [json.loads(path.read_text()) for path in (out, tmp_path / "again.json")]
    names = [next(o["user_id"] for o in bundle["objects"] if o["type"] == "user-account") for bundle in bundles]
    assert names[0] == names[1], "one key, one pseudonym"


@pytest.mark.parametrize("decision", ["not_found", "inconclusive"])
def test_what_was_not_found_is_not_exported_and_nothing_is_written(tmp_path: Path, decision: Decision) -> None:
    file = finding(tmp_path / "f.json", decision)
    result = stillproof_command("export", file, "--key", tmp_path / "k", "--out", tmp_path / "o.json", "--json")
    assert (result.exit_code, as_json(result)["error"]) == (1, "InputError")
    assert not (tmp_path / "o.json").exists()


def test_an_export_of_no_finding_or_under_no_key_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    missing = stillproof_command("export", tmp_path / "none.json", "--key", tmp_path / "k", "--out", out, "--json")
    assert (missing.exit_code, as_json(missing)["error"]) == (1, "InputError")
    (tmp_path / "other.json").write_text('{"schema": "finding/9"}')
    foreign = stillproof_command("export", tmp_path / "other.json", "--key", tmp_path / "k", "--out", out)
    assert foreign.exit_code == 1
    (tmp_path / "bad.key").write_text("not a key")
    bad = stillproof_command("export", finding(tmp_path / "f.json"), "--key", tmp_path / "bad.key", "--out", out)
    assert bad.exit_code == 1
    assert stillproof_command("export", tmp_path / "f.json", "--out", out).exit_code == 2
    assert stillproof_command("export", tmp_path / "f.json", "--key", "k", "--out", out, "--days", 0).exit_code == 2
    assert not out.exists()
