"""Accounts that hold the operator's own signed permission to distil: a scan does not name them.

Only a grant counts that the operator signed, that names the account, that covers every model which the account asked in
this log on the last day it asked, and that it has not used up. What does not count is said, and the account is treated
as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import InputError

if TYPE_CHECKING:
    from stillproof.terms.grant import Grant


@dataclass(frozen=True, slots=True)
class Asked:
    """What one account asked of one model in a log."""

    account: str
    model: str
    n: int
    last: date


@dataclass(frozen=True, slots=True)
class Permits:
    """`held`: account -> id of its grant. `refused`: why a grant does not cover an account that it names."""

    held: dict[str, str]
    refused: list[str]


NONE = Permits({}, [])


def permits(log: Sequence[Path], grant_files: Sequence[Path], grantor: Path | None) -> Permits:
    """The accounts of a log that hold a grant. `grantor`: .pub file of the operator's key.

    Raises InputError for grants without a grantor, without a log to read the accounts of, or a file that is no grant;
    CustodyError for a key file that is none.
    """
    from stillproof.terms.grant import read_grant
    from stillproof.terms.signed_grant import read_public_key

    if not grant_files:
        return NONE
    if grantor is None:
        remedy = "give the operator's .pub file with --grantor"
        raise InputError("a grant counts only with the key that must have signed it", "grantor", remedy)
    if not log:
        raise InputError("grants are held against the log's accounts, and the log is gone", "grants", "scan without")
    key = read_public_key(grantor)
    grants = [read_grant(file) for file in grant_files]
    wanted = {account for grant in grants for account in grant.accounts}
    by_account: dict[str, list[Asked]] = {}
    for row in asked(log, wanted):
        by_account.setdefault(row.account, []).append(row)
    held: dict[str, str] = {}
    refused: list[str] = []
    for account, rows in sorted(by_account.items()):
        grant, reasons = _covering([grant for grant in grants if account in grant.accounts], key, rows)
        if grant is not None:
            held[account] = grant.id
        else:
            refused += [f"{account}: {reason}" for reason in reasons]
    return Permits(held, refused)


def spared(called: Sequence[Sequence[str]], permitted: Permits) -> tuple[list[list[str]], list[int], dict[str, str]]:
    """For each group that a scan would name: who is left of it without holders of a grant; which groups remain; and the
    holders among those called, with their grants.

    A group of nothing but holders is no campaign. One of which nobody was called is for a person to see, and remains.
    """
    left = [[name for name in names if name not in permitted.held] for names in called]
    remaining = [place for place, names in enumerate(called) if left[place] or not names]
    holders = sorted({name for names in called for name in names if name in permitted.held})
    return left, remaining, {name: permitted.held[name] for name in holders}


def _covering(grants: Sequence[Grant], key: str, rows: Sequence[Asked]) -> tuple[Grant | None, list[str]]:
    """The first grant that covers all rows of one account; else why each does not."""
    from stillproof.terms.signed_grant import refusal_of

    # What is asked is whether the last exchange was still permitted.
    used = sum(row.n for row in rows) - 1
    reasons: list[str] = []
    for grant in grants:
        answers = (
            refusal_of(grant, key, model=row.model, today=row.last, account=row.account, exchanges_used=used)
            for row in rows
        )
        refusal = next((answer for answer in answers if answer is not None), None)
        if refusal is None:
            return grant, []
        reasons.append(refusal)
    return None, reasons


def asked(log: Sequence[Path], accounts: set[str]) -> list[Asked]:
    """What the given accounts asked, by account and model."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    rows = ds.dataset([str(file) for file in log]).to_table(
        columns=["account", "model", "time"], filter=ds.field("account").isin(sorted(accounts))
    )
    rows = rows.set_column(1, "model", pa.compute.fill_null(rows["model"].cast(pa.string()), ""))
    grouped = rows.group_by(["account", "model"]).aggregate([("time", "count"), ("time", "max")])
    return [
        Asked(row["account"], row["model"], row["time_count"], row["time_max"].date()) for row in grouped.to_pylist()
    ]
