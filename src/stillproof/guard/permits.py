"""Accounts that hold the operator's own signed permission to distil: a scan does not name them.

What counts as one is `terms.signed_grant.cover_of`. What does not is said, and the account is treated as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import InputError

if TYPE_CHECKING:
    from stillproof.terms.signed_grant import Usage


@dataclass(frozen=True, slots=True)
class Permits:
    """`held`: account -> id of its grant. `refused`: why a grant covers less than it names."""

    held: dict[str, str]
    refused: list[str]


def permits(log: Sequence[Path], grant_files: Sequence[Path], grantor: Path | None) -> Permits:
    """The accounts of a log that hold a grant. `grantor`: .pub file of the operator's key.

    Raises InputError for grants without a grantor, without a log to read the accounts of, or a file that is no grant;
    CustodyError for a key file that is none.
    """
    from stillproof.terms.grant import read_grant
    from stillproof.terms.signed_grant import cover_of, read_public_key

    if not grant_files:
        return Permits({}, [])
    if grantor is None:
        remedy = "give the operator's .pub file with --grantor"
        raise InputError("a grant counts only with the key that must have signed it", "grantor", remedy)
    if not log:
        raise InputError("grants are held against the log's accounts, and the log is gone", "grants", "scan without")
    grants = [read_grant(file) for file in grant_files]
    usage = usage_of(log, {account for grant in grants for account in grant.accounts})
    cover = cover_of(grants, read_public_key(grantor), usage)
    return Permits({account: grant.id for account, grant in cover.by_account.items()}, list(cover.refused))


def spared(called: Sequence[Sequence[str]], permitted: Permits) -> tuple[list[list[str]], list[int], dict[str, str]]:
    """For each group that a scan would name: who is left of it without holders of a grant; which groups remain; and the
    holders among those called, with their grants.

    A group of nothing but holders is no campaign. One of which nobody was called is for a person to see, and remains.
    """
    left = [[name for name in names if name not in permitted.held] for names in called]
    remaining = [place for place, names in enumerate(called) if left[place] or not names]
    holders = sorted({name for names in called for name in names if name in permitted.held})
    return left, remaining, {name: permitted.held[name] for name in holders}


def usage_of(log: Sequence[Path], accounts: set[str]) -> list[Usage]:
    """What the given accounts asked, by account and model, each exchange counted."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    from stillproof.terms.signed_grant import Usage

    rows = ds.dataset([str(file) for file in log]).to_table(
        columns=["account", "model", "time"], filter=ds.field("account").isin(sorted(accounts))
    )
    rows = rows.set_column(1, "model", pc.fill_null(rows["model"].cast(pa.string()), ""))
    grouped = rows.group_by(["account", "model"]).aggregate([("time", "count"), ("time", "min"), ("time", "max")])
    return [
        Usage(row["account"], row["model"], row["time_min"].date(), row["time_max"].date(), row["time_count"])
        for row in grouped.to_pylist()
    ]
