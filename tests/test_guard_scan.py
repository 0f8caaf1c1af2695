"""A scan from end to end on composed traffic: calibrated on some honest windows, run on another."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stillproof import guard
from stillproof.errors import InputError
from stillproof.guard.log import log_files
from stillproof.guard.results import expected_innocent, measured_elsewhere
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


def test_without_a_reference_of_ones_own_the_composed_one_serves(scanned: tuple[Path, dict[str, object]]) -> None:
    result = guard.scan(scanned[0] / "w2")
    assert result["reference"]["source"] == "composed"
    assert min(result["reference"]["clusters"].values()) > 500
    assert not [each for each in result["findings"] if each["decision"] == "found"]


def test_a_step_that_no_reference_was_made_for_is_refused_with_the_way_out(
    scanned: tuple[Path, dict[str, object]],
) -> None:
    folder = scanned[0]
    with pytest.raises(InputError, match="no reference for looks 5h apart"):
        guard.scan(folder / "w2", ScanSettings(step_h=5))
    with pytest.raises(InputError, match="looks 24h apart, and a scan of looks 5h"):
        guard.scan(folder / "w2", ScanSettings(step_h=5, reference=folder / "honest.parquet"))


def test_a_past_is_learned_from_at_a_step_of_ones_own_and_said_to_be_unscreened(
    scanned: tuple[Path, dict[str, object]],
) -> None:
    folder = scanned[0]
    assert guard.calibrate([folder / "w1"], folder / "h12.parquet", step_h=12)["screened"] is False
    result = guard.scan(folder / "w2", ScanSettings(step_h=12, reference=folder / "h12.parquet"))
    assert result["reference"]["source"] == "own history"
    assert result["decides"] is False


def test_campaigns_in_the_past_are_set_aside_when_it_becomes_a_reference(tmp_path: Path) -> None:
    groups = [
        {"kind": "campaign", "family": family, "size": 60, "settings": {"rate_per_day": 30, "camouflage": 0.1}}
        for family in ("fixed_injected_prompt", "rubric_grader", "template_grid")
    ]
    past = World(name="past", seed=5, days=7, n_ordinary=150, groups=groups)
    guard.compose(past, tmp_path / "past")
    blind = guard.calibrate([tmp_path / "past"], tmp_path / "blind.parquet", "composed")
    mended = guard.calibrate([tmp_path / "past"], tmp_path / "mended.parquet")
    assert (blind["set_aside"], blind["screened"], mended["screened"]) == (0, False, True)
    assert mended["set_aside"] >= 3
    assert sum(mended["clusters"].values()) < sum(blind["clusters"].values())


def test_campaigns_are_found_with_what_comes_along(tmp_path: Path) -> None:
    groups = [
        {"kind": "campaign", "family": family, "size": 60, "settings": {"rate_per_day": 30, "camouflage": 0.2}}
        for family in ("fixed_injected_prompt", "rubric_grader")
    ]
    guard.compose(World(name="mixed", seed=6, days=7, n_ordinary=150, groups=groups), tmp_path / "mixed")
    guard.scan(tmp_path / "mixed")
    told = guard.evaluate(tmp_path / "mixed")
    assert told["campaign_recall"] == 1.0
    assert told["account_recall"] > 0.8
    assert told["fdp"] == 0.0
    assert told["n_honest_named"] == 0
    # Without any text left, the sketches say the same.
    before = guard.explain(tmp_path / "mixed" / "guard", _first(tmp_path / "mixed"))
    shutil.rmtree(tmp_path / "mixed" / "log")
    guard.scan(tmp_path / "mixed")
    after = guard.explain(tmp_path / "mixed" / "guard", _first(tmp_path / "mixed"))
    assert after["accounts"] == sorted(name[:16] for name in before["accounts"])
    assert after["e_value"] == before["e_value"]


def _first(folder: Path) -> str:
    return str(json.loads((folder / "guard" / "result.json").read_text())["campaigns"][0]["id"])


def test_innocent_accounts_to_expect_are_those_of_the_bench_and_told_only_for_its_settings(
    scanned: tuple[Path, dict[str, object]],
) -> None:
    bench = Path(__file__).parents[1] / "bench" / "guard" / "results" / "goals.json"
    measured = json.loads(bench.read_text())["campaigns"]["as drawn"]["honest_named"]
    assert measured_elsewhere()["honest_accounts_named"] == measured
    assert expected_innocent(1_000_000, ScanSettings()) == pytest.approx(1e6 * measured["share"], rel=0.05)
    assert scanned[1]["expected_innocent_accounts"] is None, "its reference is another"
    for other in (
        ScanSettings(alpha=0.2),
        ScanSettings(step_h=1),
        ScanSettings(budget=9),
        ScanSettings(reference=Path()),
    ):
        assert expected_innocent(1_000_000, other) is None


def test_an_unknown_campaign_is_refused(scanned: tuple[Path, dict[str, object]]) -> None:
    with pytest.raises(InputError, match="no campaign 'c999'"):
        guard.explain(scanned[0] / "w2" / "guard", "c999")


def test_an_existing_world_is_not_overwritten(scanned: tuple[Path, dict[str, object]]) -> None:
    from stillproof.errors import OutputExistsError

    with pytest.raises(OutputExistsError):
        guard.compose(world(3), scanned[0] / "w1")
