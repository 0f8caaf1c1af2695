"""The loop, whole, with tiny models: what was served proves who learned from it. Killed once on the way."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.chromium import opened

from stillproof import demo
from stillproof.demo.serving import row_of
from stillproof.demo.sizes import TINY
from stillproof.demo.story import REPORT, STAGES, stages
from stillproof.errors import ConfigError, OutputExistsError
from stillproof.serve.custody import read_opening
from stillproof.store import Store, read_jsonl
from stillproof.trace.evidence import closed_tuples
from stillproof.trace.key_file import read_mark_key
from stillproof.trace.served import read_served
from stillproof.trace.tails import log10_p_of
from stillproof.trace.tokens import TextToIds
from stillproof.watermark import decoy_lanes, law_of, score_lanes

# Whoever stops the demo, stops it here: in the middle of serving, without a word.
KILLED = """
import os, signal, sys
from pathlib import Path
from stillproof import demo
from stillproof.demo.sizes import TINY

def watch(event):
    if event.stage == "serve" and event.done == 150:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    demo.run(Path(sys.argv[1]), TINY, "resume", watch)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was killed while it served, and then played to its end."""
    made = tmp_path_factory.mktemp("story") / "demo"
    script = made.with_name("killed.py")
    script.write_text(KILLED, encoding="utf-8")
    ended = subprocess.run([sys.executable, str(script), str(made)], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    demo.run(made, TINY, "resume")
    return made


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return told


def test_the_campaign_is_named_and_nobody_else(result: dict[str, Any]) -> None:
    assert result["campaign_found"]
    assert result["honest_flagged"] == 0
    assert result["grant_flagged"] == 0
    assert result["guard"]["grants_refused"] == []


def test_the_copier_is_found_at_one_in_a_million_and_the_innocent_is_not(result: dict[str, Any]) -> None:
    trace = result["trace"]
    assert trace["copier"]["best_log10_p_adjusted"] < -6
    innocent = trace["innocent"]["best_log10_p_adjusted"]
    assert innocent is None or innocent > -2
    assert all(trace["innocent"][test]["decision"] != "found" for test in ("radioactivity", "twins", "cards"))


def test_accounts_named_are_those_whose_answers_were_learned_from(result: dict[str, Any]) -> None:
    assert result["trace"]["licensed"]["accounts_named"]["twins"]["licensed"] == 1
    assert result["trace"]["copier"]["accounts_named"]["twins"]["licensed"] == 0
    assert result["trace"]["innocent"]["accounts_named"]["twins"] == {"campaign": 0, "licensed": 0, "honest": 0}


def test_distill_refuses_the_copier_and_lets_the_licensed_student_go_with_its_grant(
    folder: Path, result: dict[str, Any]
) -> None:
    assert "not known to allow" in result["distill_refused_the_copier"]
    manifest = json.loads((folder / "students/licensed/student/stillproof.json").read_text(encoding="utf-8"))
    assert "demo-grant-1" in json.dumps(manifest["parents"])


def test_both_students_of_the_house_model_are_nearer_to_it_than_the_innocent(result: dict[str, Any]) -> None:
    for name in ("licensed", "copier"):
        assert result["retention"][name]["kl_nats"] < result["retention"]["innocent"]["kl_nats"]


def test_weights_come_from_the_start_and_not_from_the_house_model(result: dict[str, Any]) -> None:
    for name in ("licensed", "copier", "innocent"):
        assert result["weights"][name]["open-start"]["log10_p_adjusted"] < -100
        # Strangers are found at the demo's level of .01 once in a hundred; at one in a million they are not.
        stranger = result["weights"][name]["house-model"]["log10_p_adjusted"]
        assert stranger is None or stranger > -6


def test_bundles_are_replayed(result: dict[str, Any]) -> None:
    assert result["bundle_replayed"]


def test_no_answer_of_a_killed_run_is_served_twice_and_no_coin_of_it_is_audited(folder: Path) -> None:
    with Store.open(folder / "served") as store:
        ids = [exchange.id for exchange in store]
    rows = [row_of(name) for name in ids]
    assert len(set(rows)) == len(rows)
    assert {name.rsplit("-", 1)[1] for name in ids} == {"0", "1"}
    served = read_served(folder / "served", folder / "ledger", "twins", read_opening(folder / "keys/coins.v1.key"))
    assert {twin.id for twin in served.twins} <= set(ids)


def test_a_stage_that_is_done_is_not_done_again(folder: Path, result: dict[str, Any]) -> None:
    files = [folder / STAGES / f"{part.name}.json" for part in stages()]
    before = [path.stat().st_mtime_ns for path in files]
    again = demo.run(folder, TINY, "resume")
    assert [path.stat().st_mtime_ns for path in files] == before
    assert json.loads(json.dumps(again)) == result


def test_a_folder_of_another_size_or_of_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another size"):
        demo.run(folder, "small", "resume")
    with pytest.raises(OutputExistsError, match="was played there"):
        demo.run(folder, TINY, "fail")
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="no folder of a demo"):
        demo.run(tmp_path, TINY, "replace")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_the_size_of_a_run_lies_beside_it(folder: Path) -> None:
    assert json.loads((folder / "size.json").read_text(encoding="utf-8")) == json.loads(json.dumps(asdict(TINY)))


@pytest.mark.parametrize("name", ["copier", "innocent"])
def test_under_keys_that_marked_nothing_even_the_copier_has_the_p_values_of_chance(folder: Path, name: str) -> None:
    key = read_mark_key(folder / "mark.json")
    to_ids = TextToIds(str(folder / "house-model"))
    answers = list(read_jsonl(folder / f"audits/{name}-radioactivity/answers.jsonl"))
    texts = [to_ids(answer.response or "") for answer in answers]
    prompts = [to_ids(answer.messages[-1].content or "") for answer in answers]
    tuples = closed_tuples(texts, key.scheme.k, prompts, repeats="once")
    keys = 2000
    sums = score_lanes(decoy_lanes(keys, 1), tuples.windows, tuples.tokens, key.scheme)
    p = np.array([10 ** log10_p_of(float(total), len(tuples), None, law_of(key.scheme)) for total in sums])
    for a in (0.01, 0.05, 0.2):
        assert (p <= a).mean() <= a + 3 * np.sqrt(a * (1 - a) / keys)
    assert abs(np.median(p) - 0.5) < 0.05


# --- the page -----------------------------------------------------------------------------------------------------


@pytest.fixture
def page(folder: Path) -> Iterator[str]:
    yield (folder / REPORT).read_text(encoding="utf-8")


def test_the_page_has_every_picture_and_a_command_under_each(page: str) -> None:
    for picture in ("timeline", "graph", "waterfall", "retention", "p-values", "lineage"):
        assert f'<svg class="{picture}"' in page
    assert page.count("Recomputed by") >= 7


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_chromium_opens_the_page_without_a_request_or_an_error(folder: Path, tmp_path: Path) -> None:
    seen = opened(folder / REPORT, tmp_path)
    assert seen.requests == []
    assert seen.errors == []
    assert seen.screenshot_bytes > 20_000
    assert "Who learned from what was served" in seen.text
