"""A scan from end to end on composed traffic: calibrated on some honest windows, run on another."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stillproof import guard
from stillproof.errors import InputError
from stillproof.guard.log import log_files
from stillproof.guard.scanning import ScanSettings
from stillproof.guard.traffic import World


def world(seed: int) -> World:
    return World(name=f"null-{seed}", seed=seed, days=6, n_ordinary=250)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("worlds")
    for seed in (1, 2):
        guard.compose(world(seed), folder / f"w{seed}")
    guard.calibrate([folder / "w1"], folder / "honest.parquet", "composed")
    return folder, guard.scan(folder / "w2", ScanSettings(reference=folder / "honest.parquet"))


def test_honest_traffic_raises_no_alarm(scanned: tuple[Path, dict[str, object]]) -> None:
    findings = scanned[1]["findings"]
    assert not [each for each in findings if each["decision"] == "found"]


def test_totals_are_those_of_the_world(scanned: tuple[Path, dict[str, object]]) -> None:
    folder, result = scanned
    accounts = [pq.read_table(file, columns=["account"])["account"] for file in log_files(folder / "w2")]
    assert result["n_accounts"] == len({name for column in accounts for name in column.to_pylist()})
    assert result["n_exchanges"] == sum(len(column) for column in accounts)


def test_a_small_reference_says_that_it_could_not_name_a_lone_campaign(scanned: tuple[Path, dict[str, object]]) -> None:
    assert "cannot be named" in str(scanned[1]["resolution"])


def test_the_result_and_its_page_lie_in_the_folder(scanned: tuple[Path, dict[str, object]]) -> None:
    folder, result = scanned
    assert json.loads((folder / "w2" / "guard" / "result.json").read_text())["n_clusters"] == result["n_clusters"]
    assert "<html" in (folder / "w2" / "guard" / "scan.html").read_text()


def test_nobody_honest_is_named_when_the_scan_is_held_against_the_truth(
    scanned: tuple[Path, dict[str, object]],
) -> None:
    told = guard.evaluate(scanned[0] / "w2")
    assert told["account_fpr"] == 0.0
    assert told["fdp"] == 0.0
    assert told["account_recall"] is None
    assert told["n_honest_accounts"] == 250


def test_a_scan_without_a_reference_is_refused_with_the_way_out(scanned: tuple[Path, dict[str, object]]) -> None:
    with pytest.raises(InputError, match="guard calibrate"):
        guard.scan(scanned[0] / "w2")


def test_an_unknown_campaign_is_refused(scanned: tuple[Path, dict[str, object]]) -> None:
    with pytest.raises(InputError, match="no campaign 'c999'"):
        guard.explain(scanned[0] / "w2" / "guard", "c999")


def test_an_existing_world_is_not_overwritten(scanned: tuple[Path, dict[str, object]]) -> None:
    from stillproof.errors import OutputExistsError

    with pytest.raises(OutputExistsError):
        guard.compose(world(3), scanned[0] / "w1")
