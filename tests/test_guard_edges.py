"""Edges, item pairs and evidence against plain-Python counts of small tables, and both engines against each other."""

import importlib.util
import shutil
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from stillproof.engine import open_engine
from stillproof.errors import ConfigError, InputError
from stillproof.guard import edges as edge_steps
from stillproof.guard import evidence as evidence_steps

pytest.importorskip("duckdb", reason="the engine needs duckdb")
pytest.importorskip("ibis", reason="the engine needs ibis")

ABSENT = [name for name in ("pyspark",) if importlib.util.find_spec(name) is None]
ABSENT += [] if shutil.which("java") else ["java"]
HOUR = 3_600_000_000
START = 480_000 * HOUR
END = START + 40 * HOUR
HIGH = 1 << 63  # hashes on both sides of the sign
FPS = ("system", "prefix8", "prefix24", "suffix8", "skeleton", "tools", "params", "prompt")
FPS += ("blob", "blob_issued", "network", "client")
SCALARS = ("turn", "response_tokens", "reasoning_tokens", "n_samples", "top_logprobs", "status")
EDGE_COLUMNS = ["unit", "fp", "kind", "n", "n_hours", "first_time", "last_time", "expected"]


def make_rows(n: int, seed: int) -> list[dict]:
    """Exchanges in no order of time, with absent values, shared fingerprints and hashes of both signs."""
    draw = np.random.Generator(np.random.Philox(seed))

    def value(kinds: int, salt: int, absent: float = 0.2) -> int | None:
        if draw.random() < absent:
            return None
        key = int(draw.integers(1, kinds + 1))
        return salt * 1000 + key + (HIGH if key % 2 else 0)

    rows = []
    for item in range(n):
        unit = int(draw.integers(1, 9))
        row = {
            "id": f"{item:08d}",
            "time": START + int(draw.integers(0, 40 * HOUR)),
            "account": unit * 10 + int(draw.integers(0, 2)) + (HIGH if unit % 2 else 0),
            "unit": unit + (HIGH if unit % 2 else 0),
            "flags": int(draw.integers(0, 64)),
            "shingles": [(7000 + int(key)) * int(draw.random() < 0.9) for key in draw.choice(90, 12, replace=False)],
        }
        row |= {f"fp_{name}": value(25, salt + 1) for salt, name in enumerate(FPS)}
        row["fp_blob_issued"] = value(25, FPS.index("blob") + 1, 0.6)
        row |= {name: int(draw.integers(0, 4)) if draw.random() < 0.8 else None for name in SCALARS[:-1]}
        row["status"] = int(draw.choice([200, 403, 429]))
        rows.append(row)
    return rows


def sketch_of(rows: list[dict]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "time": pa.array([row["time"] for row in rows], pa.timestamp("us", tz="UTC")),
        "shingles": pa.array([row["shingles"] for row in rows], pa.list_(pa.uint64(), 12)),
        "flags": pa.array([row["flags"] for row in rows], pa.uint32()),
    }
    for name in ("account", "unit", *(f"fp_{name}" for name in FPS)):
        columns[name] = pa.array([row[name] for row in rows], pa.uint64())
    for name in SCALARS:
        kind = pa.int32() if name.endswith("tokens") else pa.int16()
        columns[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def prints(row: dict) -> list[tuple[int, int]]:
    """(fp, kind) of an exchange."""
    names = ("system", "prefix8", "prefix24", "suffix8", "skeleton", "tools")
    found = [(row[f"fp_{name}"], kind) for kind, name in enumerate(names)]
    found += [(fp, 6) for fp in row["shingles"][:4]] + [(row["fp_prompt"], 7), (row["fp_blob"], 8)]
    return [(fp, kind) for fp, kind in found if fp]


def oracle_edges(rows: list[dict], since: int, until: int, min_units: int) -> dict:
    rows = [row for row in rows if since <= row["time"] < until]
    seen, sent, carried, total = defaultdict(list), Counter(), Counter(), Counter()
    for row in rows:
        hour = row["time"] // HOUR
        sent[row["unit"], hour] += 1
        total[hour] += 1
        for fp in prints(row):
            seen[row["unit"], *fp].append(row["time"])
            carried[fp, hour] += 1
    holders = Counter((fp, kind) for _, fp, kind in seen)
    table = {}
    for (unit, fp, kind), times in seen.items():
        if holders[fp, kind] >= min_units:
            expected = sum(sent[unit, hour] * carried[(fp, kind), hour] / total[hour] for hour in total)
            hours = len({time // HOUR for time in times})
            table[unit, fp, kind] = (len(times), hours, min(times), max(times), pytest.approx(expected, rel=1e-12))
    return table


def as_edges(table: pa.Table) -> dict:
    rows = zip(*(table[name].to_pylist() for name in EDGE_COLUMNS), strict=True)
    return {row[:3]: row[3:] for row in rows}


ROWS = make_rows(600, seed=1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with open_engine(threads=2, memory_limit=1 << 30, folder=tmp_path_factory.mktemp("engine")) as opened:
        yield opened


@pytest.fixture(scope="module")
def sketch(engine):
    return engine.from_arrow(sketch_of(ROWS))


def test_edges_are_what_counting_gives(engine, sketch) -> None:
    since, until = START + HOUR // 2, END - HOUR // 3
    table = edge_steps.edges(engine, sketch, since, until, 5)
    assert table.column_names == EDGE_COLUMNS
    assert [str(kind) for kind in table.schema.types] == ["uint64"] * 2 + ["uint8"] + ["int64"] * 4 + ["double"]
    found = as_edges(table)
    assert len(found) == table.num_rows > 100
    assert {kind for _, _, kind in found} == set(range(9))
    assert found == oracle_edges(ROWS, since, until, 5)


def test_expected_counts_of_a_fingerprint_add_up_to_what_was_seen(engine, sketch) -> None:
    """Where every unit holds the fingerprint, the margins of the null are those of the data."""
    table = edge_steps.edges(engine, sketch, START, END, 8)
    sums = table.group_by(["fp", "kind"]).aggregate([("n", "sum"), ("expected", "sum")])
    assert sums.num_rows > 0
    assert sums["expected_sum"].to_pylist() == pytest.approx(sums["n_sum"].to_pylist())


def test_popular_fingerprints_can_be_left_out(engine, sketch) -> None:
    table = edge_steps.edges(engine, sketch, START, END, 2, max_units=4)
    full = oracle_edges(ROWS, START, END, 2)
    holders = Counter((fp, kind) for _, fp, kind in full)
    assert as_edges(table) == {key: row for key, row in full.items() if holders[key[1:]] <= 4}


def test_of_rows_with_one_id_the_earliest_stays(engine) -> None:
    late = [row | {"time": row["time"] + 5, "status": 500} for row in ROWS[:40]]
    same = [dict(row) for row in ROWS[20:60]]
    rows = edge_steps.distinct_exchanges(engine, engine.from_arrow(sketch_of(late + ROWS + same)))
    table = engine.to_arrow(rows.select("id", "time", "status")).sort_by("id")
    assert table.to_pylist() == [{name: row[name] for name in ("id", "time", "status")} for row in ROWS]
    assert as_edges(edge_steps.edges(engine, rows, START, END, 5)) == oracle_edges(ROWS, START, END, 5)


def test_a_table_without_repeated_ids_is_left_as_it_is(engine, sketch) -> None:
    assert edge_steps.distinct_exchanges(engine, sketch) is sketch


def test_item_pairs_are_what_counting_gives(engine, sketch) -> None:
    table = edge_steps.item_pairs(engine, sketch, START, END, 6, min_shared=2)
    holders = defaultdict(set)
    for row in ROWS:
        if row["fp_prompt"]:
            holders[row["fp_prompt"]].add(row["unit"])
    volumes = Counter(unit for units in holders.values() for unit in units)
    pairs, degree = Counter(), 0
    for units in holders.values():
        if 2 <= len(units) <= 6:
            pairs.update(combinations(sorted(units), 2))
            degree += len(units) * (len(units) - 1)
    spread = sum(volumes.values()) ** 2 - sum(volume**2 for volume in volumes.values())
    oracle = [
        (*pair, n, pytest.approx(degree * volumes[pair[0]] * volumes[pair[1]] / spread))
        for pair, n in sorted(pairs.items())
        if n >= 2
    ]
    assert oracle
    assert [tuple(row.values()) for row in table.to_pylist()] == oracle


def test_prompts_sent_often_count_once_per_pair(engine) -> None:
    rows = [ROWS[0] | {"id": str(k), "unit": k % 2 + 1, "fp_prompt": 5 + k // 20} for k in range(60)]
    table = edge_steps.item_pairs(engine, engine.from_arrow(sketch_of(rows)), START, END)
    assert table.to_pylist() == [{"unit_a": 1, "unit_b": 2, "n_shared": 3, "expected": 3.0}]


def test_windows_that_hold_nothing_give_empty_tables_and_impossible_ones_are_refused(engine, sketch) -> None:
    assert edge_steps.edges(engine, sketch, END, END + HOUR).num_rows == 0
    assert edge_steps.item_pairs(engine, sketch, END, END + HOUR).num_rows == 0
    assert evidence_steps.account_features(engine, sketch, END, END + HOUR).num_rows == 0
    for wrong in ((END, END), (END, START)):
        with pytest.raises(ConfigError, match="empty"):
            edge_steps.edges(engine, sketch, *wrong)
    with pytest.raises(ConfigError, match="held by 1"):
        edge_steps.edges(engine, sketch, START, END, 1)


# --- evidence ---

UNITS = sorted({row["unit"] for row in ROWS})
FROZEN = START + 10 * HOUR
UNTIL = END - 2 * HOUR
MEMBERS = [(1, unit, FROZEN) for unit in UNITS[:4]]
MEMBERS += [(2, unit, FROZEN + HOUR) for unit in UNITS[2:6]] + [(3, UNITS[0], END)]
CLUSTER_FPS = [(1, fp) for row in ROWS[:25] for fp, _ in prints(row)[:3]] + [(9, ROWS[0]["shingles"][0] or 1)]


def member_table(members: list[tuple[int, int, int]]) -> pa.Table:
    cluster, unit, frozen = (list(column) for column in zip(*members, strict=True))
    names = {"cluster": pa.int64(), "unit": pa.uint64(), "frozen_us": pa.int64()}
    return pa.table(
        [pa.array(column, kind) for column, kind in zip((cluster, unit, frozen), names.values(), strict=True)],
        names=list(names),
    )


def fp_table(pairs: list[tuple[int, int]]) -> pa.Table:
    clusters, fps = zip(*pairs, strict=True)
    return pa.table({"cluster": pa.array(clusters, pa.int64()), "fp": pa.array(fps, pa.uint64())})


def of_cluster() -> dict[int, list[dict]]:
    wanted = defaultdict(set)
    for cluster, fp in CLUSTER_FPS:
        wanted[cluster].add(fp)
    found = defaultdict(list)
    for cluster, unit, frozen in MEMBERS:
        for row in ROWS:
            mine = row["unit"] == unit and frozen < row["time"] < UNTIL
            if mine and (cluster not in wanted or any(fp in wanted[cluster] for fp, _ in prints(row))):
                found[cluster].append(row)
    return found


def counts(rows: list[dict]) -> dict[str, int]:
    def number(name: str, row: dict) -> int:
        return row[name] or 0

    result = {
        "n": len(rows),
        "n_opening": sum(row["turn"] in (None, 1) for row in rows),
        "n_sampled": sum(number("n_samples", row) > 1 for row in rows),
        "n_logprobs": sum(number("top_logprobs", row) > 0 for row in rows),
        "n_status_blocked": sum(row["status"] in (403, 429) for row in rows),
        "response_tokens": sum(number("response_tokens", row) for row in rows),
        "reasoning_tokens": sum(number("reasoning_tokens", row) for row in rows),
    }
    return result | {f"n_flag{bit}": sum(row["flags"] >> bit & 1 for row in rows) for bit in range(5)}


@pytest.fixture(scope="module")
def evidence(engine, sketch):
    return evidence_steps.evidence(engine, sketch, member_table(MEMBERS), fp_table(CLUSTER_FPS), UNTIL)


def test_activity_is_what_counting_gives(evidence) -> None:
    oracle = []
    for cluster, rows in of_cluster().items():
        cells, short, last = defaultdict(list), Counter(), {}
        for row in sorted(rows, key=lambda row: (row["time"], row["id"])):
            cell = row["unit"], row["time"] // HOUR
            cells[cell].append(row)
            short[cell] += row["time"] - last.get(row["unit"], -END) < 600_000_000
            last[row["unit"]] = row["time"]
        for (unit, hour), mine in cells.items():
            key = {"cluster": cluster, "unit": unit, "hour": hour}
            oracle.append(key | counts(mine) | {"n_short_gap": short[unit, hour]})
    assert sum(row["n_short_gap"] for row in oracle) > 0
    assert len({row["cluster"] for row in oracle}) == 2
    key = ("cluster", "unit", "hour")
    assert evidence.activity.to_pylist() == sorted(oracle, key=lambda row: [row[name] for name in key])


def test_variety_is_what_counting_gives(evidence) -> None:
    def distinct(name: str, rows: list[dict]) -> int:
        return len({row[name] for row in rows} - {None})

    given = defaultdict(set)
    for row in ROWS:
        if row["fp_blob_issued"]:
            given[row["fp_blob_issued"]].add(row["unit"])

    def top(name: str, rows: list[dict]) -> float:
        values = Counter(row[name] for row in rows if row[name] is not None)
        return max(values.values()) / sum(values.values())

    oracle = [
        {
            "cluster": cluster,
            "n": len(rows),
            "n_prompts": distinct("fp_prompt", rows),
            "n_params": distinct("fp_params", rows),
            "n_networks": distinct("fp_network", rows),
            "n_clients": distinct("fp_client", rows),
            "n_skeletons": distinct("fp_skeleton", rows),
            "n_unit_prompts": len({(row["unit"], row["fp_prompt"]) for row in rows if row["fp_prompt"]}),
            "top_params_share": top("fp_params", rows),
            "top_client_share": top("fp_client", rows),
            "n_borrowed": sum(bool(given[row["fp_blob"]]) and row["unit"] not in given[row["fp_blob"]] for row in rows),
        }
        for cluster, rows in sorted(of_cluster().items())
    ]
    assert all(0 < row["n_borrowed"] < row["n"] for row in oracle)
    assert evidence.variety.to_pylist() == oracle


def test_sharing_is_what_counting_gives(evidence) -> None:
    oracle = []
    for cluster, rows in sorted(of_cluster().items()):
        holders = defaultdict(set)
        for row in rows:
            holders[row["fp_prompt"]].add(row["unit"])
        shared = sum(row["fp_prompt"] is not None and len(holders[row["fp_prompt"]]) > 1 for row in rows)
        oracle.append({"cluster": cluster, "n": len(rows), "n_shared": shared, "share": shared / len(rows)})
    assert any(row["n_shared"] for row in oracle)
    assert evidence.sharing.to_pylist() == oracle


def test_an_exchange_at_the_moment_of_freezing_is_no_evidence(engine) -> None:
    rows = [ROWS[0] | {"id": str(step), "time": FROZEN + step} for step in (-1, 0, 1)]
    sketch = engine.from_arrow(sketch_of(rows))
    table = evidence_steps.activity(
        engine, sketch, member_table([(1, ROWS[0]["unit"], FROZEN)]), fp_table([(9, 1)]), END
    )
    assert table["n"].to_pylist() == [1]


def test_one_function_alone_gives_the_table_of_all(engine, sketch, evidence) -> None:
    given = member_table(MEMBERS), fp_table(CLUSTER_FPS), UNTIL
    assert evidence_steps.activity(engine, sketch, *given).equals(evidence.activity)
    assert evidence_steps.variety(engine, sketch, *given).equals(evidence.variety)
    assert evidence_steps.sharing(engine, sketch, *given).equals(evidence.sharing)


def test_a_member_that_is_named_twice_is_refused(engine, sketch) -> None:
    members = member_table([MEMBERS[0], (*MEMBERS[0][:2], FROZEN + 1)])
    with pytest.raises(InputError, match="twice"):
        evidence_steps.activity(engine, sketch, members, fp_table(CLUSTER_FPS), UNTIL)


def test_account_features_are_what_counting_gives(engine, sketch) -> None:
    since = START + HOUR // 2
    mine = defaultdict(list)
    for row in ROWS:
        if since <= row["time"] < UNTIL:
            mine[row["account"]].append(row)
    oracle = []
    for account, rows in sorted(mine.items()):
        times = [row["time"] for row in rows]
        hours = Counter(time // HOUR for time in times)
        features = {
            "account": account,
            "n_day_hours": len({hour % 24 for hour in hours}),
            "n_days": len({hour // 24 for hour in hours}),
            "n_hours": len(hours),
            "max_per_hour": max(hours.values()),
            "first_time": min(times),
            "last_time": max(times),
            "n_prompts": len({row["fp_prompt"] for row in rows} - {None}),
        }
        oracle.append(features | counts(rows))
    assert evidence_steps.account_features(engine, sketch, since, UNTIL).to_pylist() == oracle


def everything(engine) -> list[pa.Table]:
    given = engine.from_arrow(sketch_of(ROWS + ROWS[:50]))
    rows = edge_steps.distinct_exchanges(engine, given)
    found = evidence_steps.evidence(engine, rows, member_table(MEMBERS), fp_table(CLUSTER_FPS), UNTIL)
    return [
        edge_steps.edges(engine, rows, START, END, 3),
        edge_steps.item_pairs(engine, rows, START, END),
        found.activity,
        found.variety,
        found.sharing,
        evidence_steps.account_features(engine, rows, START, END),
    ]


@pytest.mark.skipif(bool(ABSENT), reason=f"absent: {', '.join(ABSENT)}")
def test_spark_gives_the_same_tables_as_duckdb_to_the_last_bit(engine, tmp_path) -> None:
    with open_engine("spark", threads=2, memory_limit=1 << 30, folder=tmp_path) as spark:
        other = everything(spark)
    for ours, theirs in zip(everything(engine), other, strict=True):
        assert ours.schema.equals(theirs.schema)
        assert ours.to_pylist() == theirs.to_pylist()
