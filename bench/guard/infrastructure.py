"""Transitive closure on shared infrastructure: accounts that share a network, client or payment are one component.

What open-source tools do: Glasswally joins accounts by address prefix or TLS fingerprint, whoever they are joined to
included; the AA26-251A hunt of huntbase asks for 20 accounts at one address. Connected components of the bipartite
graph of accounts and values (Hopcroft and Tarjan 1973); score: accounts in the component. No null hypothesis.

Two peers: with the client, as such tools do, and without it, which spares them that everybody uses some SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bench.guard.account_rows import account_rows

DEFAULT = 20.0
DEFAULT_SAYS = "20 accounts or more"
ALL = ("network", "client", "payment")
WITHOUT_CLIENT = ("network", "payment")


def fit(folders: Sequence[Path]) -> None:
    """Nothing: a size is a size."""


def flag_by(names: Sequence[str]) -> Callable[[Path, None], dict[str, float]]:
    """A `flag` that joins accounts by these: 'network' and 'client' of the log, 'payment' of the accounts."""

    def flag(folder: Path, calibration: None) -> dict[str, float]:
        """Accounts in each account's component."""
        in_log = [name for name in names if name != "payment"]
        rows = account_rows(folder, in_log)
        owners = rows.table["account"].to_pylist()
        pairs = {
            (owner, name, value)
            for name in in_log
            for owner, value in zip(owners, rows.table[name].to_pylist(), strict=True)
            if value is not None
        }
        file = folder / "accounts.parquet"
        if "payment" in names and file.exists():
            known = set(rows.accounts)
            facts = pq.read_table(file, columns=["account", "payment"]).to_pylist()
            pairs |= {
                (fact["account"], "payment", fact["payment"])
                for fact in facts
                if fact["payment"] is not None and fact["account"] in known
            }
        return dict(zip(rows.accounts, component_sizes(rows.accounts, pairs), strict=True))

    return flag


def component_sizes(accounts: Sequence[str], pairs: Iterable[tuple[str, str, str]]) -> list[float]:
    """Accounts in the component of each account. `pairs`: (account, kind of value, value)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = {account: number for number, account in enumerate(accounts)}
    values: dict[tuple[str, str], int] = {}
    ends = [(place[who], len(place) + values.setdefault((kind, value), len(values))) for who, kind, value in pairs]
    n = len(place) + len(values)
    left, right = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    own = label[: len(place)]
    return np.bincount(own, minlength=n)[own].astype(float).tolist()
