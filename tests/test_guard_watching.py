"""A log that grows: alarms at their times, at one level for the whole period, and never taken back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from stillproof import guard, stats
from stillproof.guard.log import log_files
from stillproof.guard.scanning import HORIZONS_H, ScanSettings
from stillproof.guard.signals.view import HOUR_US
from stillproof.guard.traffic import World
from stillproof.guard.watching import first_alarms

WATCHED = ScanSettings(step_h=1.0, budget=60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("watched") / "mixed"
    groups = [
        {"kind": "campaign", "family": family, "size": 60, "settings": {"rate_per_day": 30, "camouflage": 0.2}}
        for family in ("fixed_injected_prompt", "rubric_grader")
    ]
    guard.compose(World(name="mixed", seed=6, days=6, n_ordinary=150, groups=groups), folder)
    return folder, guard.scan(folder, WATCHED)


def _found(result: dict[str, Any]) -> dict[str, Any]:
    """Id -> alarm, of the campaigns whose finding is found."""
    return {
        each["id"]: each["alarm"]
        for each in result["campaigns"]
        if result["findings"][each["finding"]]["decision"] == "found"
    }


def test_campaigns_alarm_while_they_run_and_nobody_honest_is_named(watched: tuple[Path, dict[str, Any]]) -> None:
    folder, result = watched
    told = guard.evaluate(folder)
    assert told["campaign_recall"] == 1.0
    assert told["n_honest_named"] == 0
    for each in result["campaigns"]:
        if each["id"] in _found(result):
            assert each["frozen_iso"] < each["alarm"]["time_iso"]
            assert each["alarm"]["e_value"] >= each["alarm"]["e_threshold"]
    first_iso = min(alarm["time_iso"] for alarm in _found(result).values())
    assert first_iso < max(hour["time_iso"] for each in result["campaigns"] for hour in each["timeline"])


def test_a_log_watched_again_when_it_has_grown_alarmed_at_the_same_times(
    watched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, whole = watched
    early = tmp_path / "early"
    shutil.copytree(folder, early, ignore=shutil.ignore_patterns("guard"))
    # The key salts the fingerprints, and clusters of one look are numbered in the order of these.
    (early / "guard").mkdir()
    shutil.copy(folder / "guard" / "sketch.key", early / "guard")
    times = [pc.max(pq.read_table(file)["time"]).as_py() for file in log_files(folder)]
    starts = [pc.min(pq.read_table(file)["time"]).as_py() for file in log_files(folder)]
    cut = min(starts) + (max(times) - min(starts)) * 2 / 3
    for file in log_files(early):
        table = pq.read_table(file)
        pq.write_table(table.filter(pc.less(table["time"], cut)), file)
    before = _found(guard.scan(early, WATCHED))
    assert before
    after = _found(whole)
    assert {name: after[name] for name in before} == before


def test_the_whole_period_shares_one_level(watched: tuple[Path, dict[str, Any]]) -> None:
    folder, result = watched
    assert "at every time of the period watched" in result["guarantee"]
    assert result["false_alarms_of_the_period"] == pytest.approx(0.05)
    kept = json.loads((folder / "guard" / "result.json").read_text())
    assert kept["findings"][0]["run"]["command"].startswith("stillproof guard watch")


def test_the_first_alarm_is_at_the_first_horizon_that_is_enough() -> None:
    hour = HOUR_US
    e = np.array([[0.0, 5000.0, 9.0, np.nan, np.nan], [5000.0, np.nan, np.nan, np.nan, np.nan], [1.0] * 5])
    frozen = [10 * hour, 30 * hour, 30 * hour]
    alarms = first_alarms(frozen, e, (0.2,) * 5, stats.shares(3, 20), 0.05)
    alone = 20 / (0.9 * 0.05)
    assert alarms[0].time_us == (10 + HORIZONS_H[1]) * hour
    assert alarms[0].e == pytest.approx(1000)
    assert alarms[0].e_threshold == pytest.approx(alone)
    assert alarms[1].time_us == (30 + HORIZONS_H[0]) * hour
    assert alarms[1].e_threshold == pytest.approx(alone / 2)
    assert 2 not in alarms
