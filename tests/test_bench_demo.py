"""The loop over seeds, and the demo's part of the pages: what was written holds, and judging it can fail."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.demo import page, seeds
from bench.figures import Figure, faults_of, numbers

WROTE = Path(seeds.__file__).with_name("seeds.json")
ROOT = page.ROOT


def row(copier: float, null: dict[str, float]) -> dict[str, Any]:
    tests: seeds.Tests = {"copier": dict.fromkeys(null, copier)}
    for name in seeds.NULLS:
        tests[name] = dict(null)
    return {"seed": 0, "log10_p": tests, "best": seeds._best(tests), "cpu_s": 1.0}


def uniform_rows(n: int, copier: float = -30.0, power: float = 1.0) -> list[dict[str, Any]]:
    """Null p-values spread evenly over (0, 1), raised to a power: above 1 they are too small."""
    p = (np.arange(n) + 0.5) / n
    return [row(copier, dict.fromkeys(("radioactivity", "twins", "cards"), float(power * math.log10(x)))) for x in p]


def test_found_copiers_and_uniform_nulls_are_as_claimed() -> None:
    told = seeds.summary(uniform_rows(20))
    assert seeds.faults(told) == []
    assert told["copier"]["found_at_1e-6"] == told["seeds"] == 20
    assert told["innocent"]["cards"]["at_most_0.5"] == 10


def test_a_copier_that_is_not_found_is_a_fault() -> None:
    rows = [*uniform_rows(19), row(-3.0, dict.fromkeys(("radioactivity", "twins", "cards"), -0.3))]
    assert seeds.faults(seeds.summary(rows)) == ["a copier was not found at 1e-6"]


def test_null_p_values_that_are_too_small_are_a_fault_and_too_large_ones_are_none() -> None:
    assert len(seeds.faults(seeds.summary(uniform_rows(20, power=4.0)))) == 6
    assert seeds.faults(seeds.summary(uniform_rows(20, power=0.2))) == []


def test_all_nine_tests_of_a_seed_are_paid_for_and_one_without_a_p_value_is_no_member() -> None:
    tests: seeds.Tests = {name: {"a": -3.0, "b": None} for name in seeds.STUDENTS}
    assert seeds._best(tests) == pytest.approx(dict.fromkeys(seeds.STUDENTS, -3.0 + math.log10(3)))


@pytest.mark.skipif(not WROTE.exists(), reason="make calibrate was not run in this checkout")
def test_what_was_measured_is_as_claimed() -> None:
    wrote = json.loads(WROTE.read_text(encoding="utf-8"))
    told = json.loads(json.dumps(seeds.summary(wrote["rows"])))
    assert told == wrote["summary"]
    assert seeds.faults(told) == []


# --- the pages ----------------------------------------------------------------------------------------------------


def told(student_kl: float = 1.5, tokens: int = 40_960) -> dict[str, Any]:
    """What a demo measured, in round numbers."""
    tests = {test: {"log10_p": -1.5, "log10_p_adjusted": -0.5} for test in page.TESTS}
    found = {**tests, "radioactivity": {"log10_p": -110.2, "log10_p_adjusted": -109.2}, "best_log10_p_adjusted": -109.2}
    recipe = {"tokens": 40_960, "heldout_tokens": 6_144, "taught": 700, "messages": 600, "answers": 150}
    parts = {part: {"amounts": {**recipe, "tokens": tokens}} for part in page.READ_BY}
    kl = {"kl_student_nats": student_kl, "kl_control_nats": 2.0, "kl_init_nats": 7.0}
    exact = {f"exact_match_{name}": share for name, share in (("student", 0.4), ("control", 0.55), ("teacher", 0.7))}
    return {
        "guard": {"accounts_named": 60, "campaign_accounts": 60, "honest_accounts": 941},
        "honest_flagged": 0,
        "served": {"n_exchanges": 2712},
        "duration_s": 200.4,
        "cpu_s": 300.0,
        "peak_rss_mb": 1010,
        "trace": dict.fromkeys(page.LEARNED, found),
        "retention": {name: {"kl_nats": 0.85, "gap_closed": 0.4} for name in page.LEARNED},
        "stages": {name: {"cpu_s": 10.0} for name in ("models", "learn-copier", "serve", "guard", "trace-copier")},
        "second_act": {
            "laptop": {"n_tokens": tokens, "retention": kl},
            "black_box": {"retention": {"n_answers": 150, **exact}},
            "budget": {"recipe": recipe, "parts": parts},
        },
        "whole": {"duration_s": 700.4, "setup_s": 30.2, "cores": 2, "processor": "Intel(R) Xeon(R) Processor (avx2)"},
    }


def faults(values: dict[str, Any]) -> list[str]:
    made = page.readme(values)
    text = "\n".join(made.lines)
    figures = [Figure(row["text"], tuple(row["keys"]), row["file"], row["command"]) for row in made.figures]
    covered = sum(len(list(numbers(figure.text))) for figure in figures)
    assert covered == len(list(numbers(text))), "a number without a figure"
    return [fault for figure in figures for fault in faults_of(figure, text, {page.FILE: values})]


def test_every_number_of_the_demos_part_is_a_figure_that_agrees() -> None:
    assert faults(told()) == []
    assert faults(told(tokens=4_096)) == []


def test_the_part_says_what_was_cut_and_nothing_where_nothing_was() -> None:
    assert not any("cut" in line for line in page.readme(told()).lines)
    cut = page.readme(told(tokens=4_096)).lines
    assert "4,096 of 40,960 tokens of word problems." in cut


def test_a_student_that_is_no_nearer_than_its_control_is_called_so() -> None:
    assert any("no nearer" in line for line in page.readme(told(student_kl=2.5)).lines)
    assert not any("no nearer" in line for line in page.readme(told()).lines)


def test_the_picture_is_taken_from_the_report_with_its_style() -> None:
    report = (
        '<style>color-scheme: light dark; .a{}</style><svg class="p-values" viewBox="0 0 1 1"><g/></svg><svg></svg>'
    )
    drawn = page.picture(report)
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg" class="p-values"')
    assert "<style>.a{} svg {" in drawn
    assert drawn.count("<svg") == 1


def test_figures_of_other_files_are_kept() -> None:
    other = {"file": "a.json", "text": "x"}
    assert page.with_figures([other, {"file": page.FILE, "text": "old"}], [{"file": page.FILE, "text": "new"}]) == [
        other,
        {"file": page.FILE, "text": "new"},
    ]


@pytest.mark.parametrize("name", ["README.md", "docs/demo.md"])
def test_pages_have_a_place_for_the_demos_part(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "marked" in page.replaced(text, "marked")
