"""Every measured number of the README is in a JSON that a make target wrote, and rounds to what is printed."""

import subprocess

import pytest
from bench.figures import (
    ROOT,
    TARGETS,
    Figure,
    agrees,
    faults_of,
    load_files,
    looked_up,
    measured_blocks,
    numbers,
    read_figures,
    uncovered,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = read_figures()
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

PAGE = """Since 2026 it is so.
<!-- measured: begin -->
| what | figure |
|---|---|
| speed | **1,234** of 2,000 |
| share (`--n 7`) | 41.3% [33.4, 49.7] |
<!-- measured: end -->
"""
SPEED = Figure("| speed | **1,234** of 2,000 |", ("speed", None), "a.json", "make bench-guard")
SHARE = Figure("41.3% [33.4, 49.7]", ("share.mean", "share.low*100", "share.high*100"), "a.json", "make demo")
FILES = {"a.json": {"speed": 1234.4, "share": {"mean": 0.4133, "low": 0.3341, "high": 0.4968}}}


def test_every_figure_agrees_with_its_file() -> None:
    files = load_files(FIGURES)
    assert [fault for figure in FIGURES for fault in faults_of(figure, README, files)] == []


def test_every_figure_names_a_target_that_exists() -> None:
    for figure in FIGURES:
        target = TARGETS.match(figure.command)
        assert target is not None and target[1] in MAKEFILE, figure.command


def test_every_file_of_a_figure_is_kept_in_the_repository() -> None:
    names = {figure.file for figure in FIGURES}
    ignored = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert names
    assert ignored.stdout == ""
    assert all((ROOT / name).is_file() for name in names)


def test_the_readme_has_a_measured_block() -> None:
    assert measured_blocks(README) > 0


def test_no_number_of_a_measured_block_is_without_a_figure() -> None:
    assert uncovered(README, FIGURES) == []


def test_a_page_that_agrees_has_no_fault() -> None:
    assert faults_of(SPEED, PAGE, FILES) == []
    assert faults_of(SHARE, PAGE, FILES) == []
    assert uncovered(PAGE, [SPEED, SHARE]) == []


def test_a_number_that_nobody_covers_is_named_with_its_line() -> None:
    assert uncovered(PAGE, [SPEED]) == [f"{number} in '| share (`--n 7`) | 41.3% [33.4, 49.7] |'"
                                        for number in ("41.3%", "33.4", "49.7")]  # fmt: skip


def test_a_number_that_another_run_changed_is_a_fault() -> None:
    (fault,) = faults_of(SPEED, PAGE, {"a.json": {"speed": 1235.0}})
    assert "1,234 on the page, 1235.0 at speed of a.json" in fault


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": "| speed | **999** |"}, "stands 0 times"),
        ({"keys": ("speed",)}, "2 numbers, 1 keys"),
        ({"keys": ("nowhere", None)}, "no 'nowhere' there"),
        ({"command": "by hand"}, "no target that measures"),
    ],
)
def test_an_entry_that_is_wrong_says_how(change: dict, says: str) -> None:
    fields = {"text": SPEED.text, "keys": SPEED.keys, "file": SPEED.file, "command": SPEED.command} | change
    assert any(says in fault for fault in faults_of(Figure(**fields), PAGE, FILES))


@pytest.mark.parametrize(
    ("printed", "value", "same"),
    [
        ("1.47", 1.4694, True),
        ("1.47", 1.4751, False),
        ("70.5%", 0.70482, True),
        ("70.5%", 0.7056, False),
        ("6.3e-5", 6.349e-5, True),
        ("6.3e-5", 6.36e-5, False),
        ("0", 0.0, True),
        ("-239.0", -239.04, True),
    ],
)
def test_a_number_agrees_to_the_digits_printed(printed: str, value: float, same: bool) -> None:
    assert agrees(printed, value) is same


def test_keys_are_paths_quotients_and_multiples() -> None:
    data = {"a": [{"b": 6.0}, {"b": 1.5}], "n": 38_417}
    assert looked_up(data, "a.0.b / a.1.b") == (4.0, None)
    assert looked_up(data, "a.1.b*100") == (150.0, None)
    value, step = looked_up(data, "n~100")
    assert agrees("38,400", value, step=step) and not agrees("38,400", value)


def test_a_name_with_a_dot_is_found_before_the_shorter_one() -> None:
    data = {"x0": {"n": 1.0, "8": {"n": 5.0}}, "x0.8": {"n": 2.0}}
    assert looked_up(data, "x0.n") == (1.0, None)
    assert looked_up(data, "x0.8.n") == (2.0, None)


def test_code_links_and_comments_hold_no_figures() -> None:
    assert [found[0] for found in numbers("`x 1` [page 2](a3.md) 4.5 <!-- 6 --> SmolLM2-135M 0.96-1.01% 2x")] == [
        "2", "4.5", "0.96", "1.01%", "2"
    ]  # fmt: skip
