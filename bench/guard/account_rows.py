"""A world's log by account: what every peer reads. Labels are not here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillproof.guard.log import log_files


@dataclass(frozen=True, slots=True)
class AccountRows:
    """n exchanges of A accounts, sorted by account, then time."""

    table: pa.Table
    accounts: list[str]
    bounds: NDArray[np.int64]
    """[A + 1] rows of account i: bounds[i] to bounds[i + 1]."""

    def spans(self) -> Iterator[tuple[str, slice]]:
        for place, account in enumerate(self.accounts):
            yield account, slice(int(self.bounds[place]), int(self.bounds[place + 1]))


def account_rows(folder: Path, columns: Sequence[str]) -> AccountRows:
    """`columns` of the log of a folder, and `account` and `time`."""
    names = ["account", "time", *columns]
    table = pa.concat_tables([pq.read_table(file, columns=names) for file in log_files(folder)])
    table = table.sort_by([("account", "ascending"), ("time", "ascending")]).combine_chunks()
    named = np.asarray(table["account"].to_pylist(), dtype=str)
    first = np.flatnonzero(np.r_[True, named[1:] != named[:-1]]) if len(named) else np.zeros(0, np.int64)
    return AccountRows(table, [str(name) for name in named[first]], np.r_[first, len(named)].astype(np.int64))
