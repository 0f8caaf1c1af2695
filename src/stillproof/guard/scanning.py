"""One scan of a log: sketch, link step by step, freeze, gather what came after, rank, decide, name accounts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.guard import cases as case_tables
from stillproof.guard.freezing import Frozen, Linked, freeze, steps
from stillproof.guard.linking import LinkSettings
from stillproof.guard.log import has_log, log_files
from stillproof.guard.signals import View, measure
from stillproof.guard.signals.view import HOUR_US
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from stillproof.engine import Engine

HORIZONS_H = (1, 3, 12, 48, 168)


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How a log is scanned."""

    reference: Path | None = None
    """Honest clusters of one's own history, from `guard calibrate`; None: composed ones."""
    engine: str = "duckdb"
    step_h: float = 24.0
    """Hours between two looks for new clusters."""
    memory_h: float = 72.0
    """Linking looks back this far."""
    alpha: float = 0.05
    """False discovery rate over clusters."""
    review_alpha: float = 0.2
    budget: int | None = None
    """Clusters expected in the period watched, which share alpha for all of it; None: alpha is for this scan."""
    out: Path | None = None
    """Where sketches and the result go; FOLDER/guard if left out."""
    link: LinkSettings = field(default_factory=LinkSettings)
    grants: tuple[Path, ...] = ()
    """Files of permissions to distil; see `permits`."""
    grantor: Path | None = None
    """.pub file of the key that must have signed them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a scan has gathered before anything is decided: C cases of K clusters."""

    frozen: list[Frozen]
    case_cluster: NDArray[np.int64]
    """[C] place in `frozen`."""
    case_horizon_h: NDArray[np.float64]
    case_class: list[str]
    """[C] 'interactive', 'automated' or 'ambiguous', from what an operator sees."""
    signals: dict[str, NDArray[np.float64]]
    view: View
    n_accounts: int
    n_exchanges: int
    start_us: int
    end_us: int


def sketches_of(folder: Path, out: Path, on_event: OnEvent = ignore) -> tuple[list[Path], dict[str, int]]:
    """The sketch files of a log, made now or kept from an earlier scan, and what was read and dropped.

    Where the log's own files were removed, with all text, the sketches kept of them serve.
    """
    from stillproof.guard.sketch import sketch_counts, sketch_log
    from stillproof.store.pseudonym import create_key, read_key

    kept = sorted((out / "sketches").glob("*.parquet"))
    if kept and not has_log(folder):
        return kept, asdict(sketch_counts(kept))
    out.mkdir(parents=True, exist_ok=True)
    key = out / "sketch.key"
    if not key.exists():
        create_key(key)
    return sketch_log(log_files(folder), out / "sketches", read_key(key), on_event)


def gather(folder: Path, settings: ScanSettings, on_event: OnEvent, engine: Engine, sketch: ir.Table) -> Measured:
    """Link, freeze and measure every cluster at every horizon that its exchanges already cover."""
    from stillproof.guard.ledger import Ledger

    span = engine.to_arrow(
        sketch.agg(first=sketch.time.min(), last=sketch.time.max(), n=sketch.count(), accounts=sketch.account.nunique())
    ).to_pylist()[0]
    start_us, end_us = (span["first"] or 0) // HOUR_US * HOUR_US, (span["last"] or -1) + 1
    times = list(steps(start_us, end_us, settings.step_h))
    ledger = Ledger(engine, sketch, settings.memory_h)

    def look(until_us: int) -> Linked:
        since_us = int(until_us - settings.memory_h * HOUR_US)
        on_event(Event("link", times.index(until_us) + 1, len(times), "steps"))
        edges, pairs, n_units = ledger.look(until_us)
        return Linked(edges, pairs, n_units, max(since_us, start_us))

    frozen = freeze(look, times, settings.link)
    facts = case_tables.account_facts(folder / "accounts.parquet")
    cases = case_tables.cases(frozen, HORIZONS_H, end_us)
    on_event(Event("measure", 0, len(cases.cluster), "cases"))
    view, automated = case_tables.look(engine, sketch, frozen, cases, facts)
    return Measured(
        frozen=frozen,
        case_cluster=cases.cluster,
        case_horizon_h=cases.horizon_h,
        case_class=automated,
        signals=measure(view),
        view=view,
        n_accounts=int(span["accounts"]),
        n_exchanges=int(span["n"]),
        start_us=start_us,
        end_us=end_us,
    )


def measure_log(folder: Path, settings: ScanSettings, on_event: OnEvent = ignore) -> tuple[Measured, dict[str, int]]:
    """`gather` on the log of a folder, with an engine of its own. Also what sketching read, kept and dropped."""
    from stillproof.engine import open_engine
    from stillproof.guard import edges as relations

    out = settings.out or folder / "guard"
    files, counts = sketches_of(folder, out, on_event)
    with open_engine(settings.engine) as engine:
        sketch = relations.distinct_exchanges(engine, engine.read_parquet(files))
        return gather(folder, settings, on_event, engine, sketch), counts
