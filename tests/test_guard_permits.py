"""Accounts with a signed permission to distil."""

import json
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillproof import guard
from stillproof.errors import InputError
from stillproof.guard.log import log_files, log_schema
from stillproof.guard.permits import Permits, permits, spared
from stillproof.guard.scanning import ScanSettings
from stillproof.guard.traffic import World
from stillproof.terms.grant import SCOPE, Grant
from stillproof.terms.signed_grant import create_grant_key, sign_grant

GRANT = Grant(
    "g1", "us", "them", SCOPE, "ours-1", date(2026, 1, 1), date(2026, 6, 30), "contract 7", accounts=("aa", "bb")
)


def log_of(folder: Path, rows: list[tuple[str, str, str]]) -> list[Path]:
    """A log of (account, model, day)."""
    schema = log_schema()
    table = pa.table(
        {
            name: pa.nulls(len(rows), schema.field(name).type)
            if name not in ("id", "account", "model", "time")
            else pa.array(
                {
                    "id": [str(k) for k in range(len(rows))],
                    "account": [row[0] for row in rows],
                    "model": [row[1] for row in rows],
                    "time": [datetime.fromisoformat(f"{row[2]}T12:00:00+00:00") for row in rows],
                }[name],
                schema.field(name).type,
            )
            for name in schema.names
        },
        schema=schema,
    )
    pq.write_table(table, folder / "log.parquet")
    return [folder / "log.parquet"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_grant_key(tmp_path / "op.pem")
    return tmp_path / "op.pem"


def signed(grant: Grant, key: Path) -> Path:
    file = key.with_name(f"{grant.id}.json")
    file.write_text(json.dumps(sign_grant(grant, key).to_json()))
    return file


def test_an_account_that_its_grant_covers_holds_it_and_others_do_not(tmp_path: Path, key: Path) -> None:
    log = log_of(tmp_path, [("aa", "ours-1", "2026-02-01"), ("cc", "ours-1", "2026-02-01")])
    assert permits(log, [signed(GRANT, key)], Path(f"{key}.pub")).held == {"aa": "g1"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("aa", "ours-1", "2026-02-01"), ("aa", "ours-2", "2026-02-01")], "not for 'ours-2'"),
        ([("aa", "ours-1", "2026-07-01")], "expired"),
        ([("aa", "ours-1", "2026-02-01")] * 4, "used up"),
    ],
)
def test_a_grant_that_does_not_reach_so_far_is_refused_with_the_reason(
    rows: list[tuple[str, str, str]], why: str, tmp_path: Path, key: Path
) -> None:
    file = signed(replace(GRANT, max_exchanges=3), key)
    found = permits(log_of(tmp_path, rows), [file], Path(f"{key}.pub"))
    assert not found.held
    assert why in found.refused[0]


def test_the_last_exchange_of_the_volume_is_still_permitted(tmp_path: Path, key: Path) -> None:
    log = log_of(tmp_path, [("aa", "ours-1", "2026-02-01")] * 3)
    assert permits(log, [signed(replace(GRANT, max_exchanges=3), key)], Path(f"{key}.pub")).held == {"aa": "g1"}


def test_a_grant_signed_by_anybody_else_or_changed_afterwards_spares_nobody(tmp_path: Path, key: Path) -> None:
    create_grant_key(tmp_path / "thief.pem")
    log = log_of(tmp_path, [("aa", "ours-1", "2026-02-01")])
    foreign = signed(GRANT, tmp_path / "thief.pem")
    assert "another key" in permits(log, [foreign], Path(f"{key}.pub")).refused[0]
    changed = json.loads(signed(GRANT, key).read_text()) | {"accounts": ["aa", "cc"]}
    foreign.write_text(json.dumps(changed))
    assert "no signature that holds" in permits(log, [foreign], Path(f"{key}.pub")).refused[0]


def test_grants_without_the_grantors_key_or_without_a_log_are_refused(tmp_path: Path, key: Path) -> None:
    file = signed(GRANT, key)
    with pytest.raises(InputError, match="key that must have signed"):
        permits(log_of(tmp_path, [("aa", "ours-1", "2026-02-01")]), [file], None)
    with pytest.raises(InputError, match="the log is gone"):
        permits([], [file], Path(f"{key}.pub"))


def test_holders_are_spared_a_group_of_holders_is_none_and_an_unnamed_group_remains() -> None:
    held = Permits({"aa": "g1", "bb": "g1"}, [])
    left, remaining, granted = spared([["aa", "cc"], ["aa", "bb"], []], held)
    assert [left[place] for place in remaining] == [["cc"], []]
    assert granted == {"aa": "g1", "bb": "g1"}


def test_a_scan_reads_the_grants_and_says_which_do_not_hold(tmp_path: Path, key: Path) -> None:
    folder = tmp_path / "w"
    guard.compose(World(name="small", seed=5, days=3, n_ordinary=40), folder)
    account = pq.read_table(log_files(folder)[0], columns=["account"])["account"][0].as_py()
    file = signed(replace(GRANT, teacher="another", accounts=(account,)), key)
    result = guard.scan(folder, ScanSettings(grants=(file,), grantor=Path(f"{key}.pub")))
    assert result["granted"] == {}
    assert "not for" in result["grants_refused"][0]
