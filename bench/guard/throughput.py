"""How many exchanges a second `guard` takes from a log to measured clusters, for logs of several sizes.

    python bench/guard/throughput.py [SIZE ...] [--worlds FOLDER] [--step-h H] [--engine duckdb|spark] [--copies N]
                                          [--json FILE]

Sizes are exchanges, 1e5 and 1e6 unless given. For each a null world of about that size is composed (a world that is in
FOLDER already is used again; without --worlds all goes to a temporary folder), then the log is sketched from Parquet,
linked look by look, frozen and measured by `scanning.measure_log`, in a process of its own. The table says

    exchanges, characters     of the log; mean length of a prompt, and of system prompt and tools where there are any
    wall_s, per_s             end to end, sketch and start of processes included
    sketch_s, link_s          wall seconds of the sketch, and of all that comes after it
    cpu_us                    CPU microseconds an exchange, all processes and threads together
    per_s_2_cores             what 2 cores that do nothing else would do at that CPU time, if nothing had to wait
    looks, look_ms            looks for new clusters, and median wall time of one: edges, pairs and linking
    peak_gb                   largest resident set of the scanning process, plus that of its largest worker times two

--copies N measures compact rows: the world is sketched first, not counted in the time, and N - 1 copies of its sketches
stand beside them, each with fingerprints, units and ids of its own, so that N worlds of the size are scanned as one.

Other work on the machine makes wall times longer; CPU time hardly moves with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

DAYS = 14
RATE_PER_DAY = 4.0
COLUMNS = (
    *("exchanges", "characters", "clusters", "wall_s", "per_s", "sketch_s", "link_s", "cpu_us"),
    *("per_s_2_cores", "looks", "look_ms", "peak_gb"),
)


def compose_null(folder: Path, size: int) -> None:
    """A world of about `size` exchanges of ordinary accounts, unless it is there already."""
    from stillproof import guard
    from stillproof.guard.traffic import World

    if not (folder / "world.json").is_file():
        n_accounts = max(round(size / (DAYS * RATE_PER_DAY * 0.92)), 10)
        world = World(name="throughput", seed=5, days=DAYS, n_ordinary=n_accounts, rate_per_day=RATE_PER_DAY)
        guard.compose(world, folder, "replace")


def characters(folder: Path) -> str:
    """Mean characters of a prompt + of what comes with it, from one file of the log."""
    import pyarrow.parquet as pq

    from stillproof.guard.log import log_files

    table = pq.read_table(log_files(folder)[-1], columns=["prompt", "system", "tools"])
    total = [sum(len(text) for text in table[name].to_pylist() if text) for name in table.column_names]
    n = max(table.num_rows, 1)
    return f"{total[0] / n:.0f}+{(total[1] + total[2]) / n:.0f}"


def copied(pieces: list[Path], copies: int) -> None:
    """Beside every piece of a sketch `copies` - 1 others, whose 64-bit words are all changed alike: who shares what
    with whom within a copy stays as it was, and copies share nothing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    # Its functions are made at run time, and no checker sees them.
    pc: Any = pyarrow.compute
    masks = np.random.Generator(np.random.Philox(11)).integers(1, 2**64, copies, np.uint64, endpoint=False)
    for piece in pieces:
        about = {k: v for k, v in (pq.read_metadata(piece).metadata or {}).items() if k != b"ARROW:schema"}
        table = pq.read_table(piece)
        for copy in range(1, copies):
            mask = pa.scalar(int(masks[copy]), pa.uint64())
            columns = []
            for field, column in zip(table.schema, table.columns, strict=True):
                whole = column.combine_chunks()
                if field.name == "id":
                    whole = pc.binary_join_element_wise(whole, str(copy), "-")
                elif field.type == pa.uint64():
                    # 0 stands for what is not there.
                    whole = pc.if_else(pc.equal(whole, pa.scalar(0, pa.uint64())), whole, pc.bit_wise_xor(whole, mask))
                elif field.name == "shingles":
                    words = pc.bit_wise_xor(whole.flatten(), mask)
                    whole = pa.FixedSizeListArray.from_arrays(words, type=field.type)
                columns.append(whole)
            made = pa.Table.from_arrays(columns, schema=table.schema.with_metadata(about))
            pq.write_table(made, piece.with_name(f"{piece.stem}-{copy}.parquet"), compression="zstd")


def compact(folder: Path, out: Path, copies: int) -> Path:
    """A folder without text, and in `out` the sketches of `copies` worlds like that of `folder`."""
    from stillproof.guard.scanning import sketches_of

    pieces, _ = sketches_of(folder, out)
    copied(pieces, copies)
    bare = out / "bare"
    bare.mkdir()
    return bare


def spent_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(folder: Path, out: Path, step_h: float, engine: str, copies: int) -> dict[str, Any]:
    """One scan up to measured clusters, in this process."""
    from stillproof.guard.scanning import ScanSettings, measure_log
    from stillproof.progress import Event

    marks: dict[str, list[float]] = {}

    def note(event: Event) -> None:
        marks.setdefault(event.stage, []).append(time.perf_counter())

    text = folder
    if copies > 1:
        folder = compact(folder, out, copies)
    start = time.perf_counter()
    before_s = spent_s()
    measured, _ = measure_log(folder, ScanSettings(out=out, step_h=step_h, engine=engine), note)
    wall_s = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = spent_s() - before_s
    unit = 1 if sys.platform == "darwin" else 1024
    looks = marks.get("link", [])
    between = sorted(after - before for before, after in pairwise(looks))
    sketch_s = marks["sketch"][-1] - start if "sketch" in marks else 0.0
    n = measured.n_exchanges
    return {
        "exchanges": n,
        "characters": characters(text) if copies == 1 else "none",
        "clusters": len(measured.frozen),
        "wall_s": round(wall_s, 1),
        "per_s": round(n / wall_s),
        "sketch_s": round(sketch_s, 1),
        "link_s": round(wall_s - sketch_s, 1),
        "cpu_us": round(cpu_s / n * 1e6, 1),
        "per_s_2_cores": round(2 * n / cpu_s),
        "looks": len(looks),
        "look_ms": round(1000 * between[len(between) // 2]) if between else None,
        "peak_gb": round((used[0].ru_maxrss + 2 * used[1].ru_maxrss) * unit / 1e9, 2),
    }


def in_a_process(folder: Path, out: Path, step_h: float, engine: str, copies: int) -> dict[str, Any]:
    """`measure` in a process of its own, so that its memory and CPU time are those of one scan."""
    given = [str(folder), "--one", str(out), "--step-h", str(step_h), "--engine", engine]
    given += ["--copies", str(copies)]
    answer = subprocess.run([sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    cells = [list(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["1e5", "1e6"])
    parser.add_argument("--worlds", type=Path)
    parser.add_argument("--step-h", type=float, default=24.0)
    parser.add_argument("--engine", default="duckdb")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.sizes[0]), given.one, given.step_h, given.engine, given.copies)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in given.sizes:
            folder = (given.worlds or Path(scratch)) / f"null-{float(size):.0e}"
            compose_null(folder, int(float(size)))
            out = Path(scratch) / "scan"
            rows.append(in_a_process(folder, out, given.step_h, given.engine, given.copies))
            shutil.rmtree(out)
            print(table(rows), flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores; busy with other work: {os.getloadavg()[0]:.1f} processes wanted to run on average")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
