"""The second act is cut to a time before it begins, and says by how much. No model, no clock."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.demo import budget
from stillproof.demo.budget import COSTS, WHOLE, Amounts, Decision, Speeds
from stillproof.demo.distillation import _Planner, black_box_config, corrected, laptop_config
from stillproof.distill.pack import Rows
from stillproof.progress import Event

FAST, SLOW = Speeds(1 / 950, 1 / 3000), Speeds(1 / 300, 1 / 450)
PARTS = tuple(COSTS)


def cost(part: str, amounts: Amounts, speeds: Speeds) -> float:
    return sum(COSTS[name](amounts, speeds) for name in PARTS[PARTS.index(part) :])


@pytest.mark.parametrize("part", PARTS)
def test_a_fast_machine_and_one_without_a_limit_get_the_whole_recipe(part: str) -> None:
    for decision in (budget.decide(part, 600, FAST), budget.decide(part, None, None)):
        assert decision.amounts == WHOLE
        assert decision.fits
        assert budget.cut(decision) == []
        assert "whole recipe" in budget.said(decision)


@pytest.mark.parametrize("part", PARTS)
def test_a_slow_machine_gets_less_and_is_told_of_what(part: str) -> None:
    decision = budget.decide(part, 0.6 * cost(part, WHOLE, SLOW), SLOW)
    assert decision.fits
    assert budget.cut(decision)
    assert all(line in budget.said(decision) for line in budget.cut(decision))


def test_where_even_the_least_takes_too_long_that_is_said() -> None:
    decision = budget.decide("laptop", 10, SLOW)
    assert not decision.fits
    assert decision.amounts == budget.amounts(0.0)
    assert "longer than was given" in budget.said(decision)


@given(
    st.sampled_from(PARTS), st.floats(0, 3000), st.floats(1e-5, 0.05), st.floats(1e-5, 0.05)
)  # fmt: skip
def test_the_largest_share_that_fits_is_taken(part: str, left_s: float, train_s: float, read_s: float) -> None:
    speeds = Speeds(train_s, read_s)
    decision = budget.decide(part, left_s, speeds)
    larger = [share / 100 for share in range(round(100 * decision.share) + 5, 101, 5)]
    assert all(budget.FORECAST_MARGIN * cost(part, budget.amounts(share), speeds) > left_s for share in larger)
    if decision.share > 0.05:
        assert budget.FORECAST_MARGIN * cost(part, decision.amounts, speeds) <= left_s


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_is_more_of_everything_and_never_more_than_the_recipe(one: float, other: float) -> None:
    less, more = budget.amounts(min(one, other)), budget.amounts(max(one, other))
    for name in Amounts.__dataclass_fields__:
        assert 0 < getattr(less, name) <= getattr(more, name) <= getattr(WHOLE, name)


def test_configs_take_the_amounts_that_were_decided(tmp_path: Path) -> None:
    amounts = Amounts(5000, 3000, 200, 130, 70, 2)
    laptop, black_box = laptop_config(amounts), black_box_config("http://127.0.0.1:1/v1", tmp_path, amounts)
    assert (laptop.data.max_tokens, laptop.data.heldout_tokens, laptop.train.rows_per_step) == (5000, 3000, 2)
    assert (black_box.data.max_documents, black_box.eval.max_answers, black_box.train.rows_per_step) == (130, 70, 2)


def test_a_resumed_run_keeps_to_what_was_decided(tmp_path: Path) -> None:
    notes: list[Event] = []
    first = _Planner(tmp_path / "budget.json", 0.0, notes.append, SLOW)
    given = first.amounts("laptop")
    assert given != WHOLE
    again = _Planner(tmp_path / "budget.json", None, notes.append)
    assert again.amounts("laptop") == given
    assert again.amounts("specialist") == WHOLE
    assert [event.note is not None for event in notes] == [True] * 3


def test_speeds_of_the_probe_are_put_right_by_the_first_act() -> None:
    assert corrected(Speeds(0.01, 0.004), 50.0) == Speeds(0.02, pytest.approx(0.008))
    assert corrected(None, 50.0) is None
    assert corrected(SLOW, None) == SLOW


def test_the_result_says_what_each_part_was_given_and_what_was_cut(tmp_path: Path) -> None:
    planner = _Planner(tmp_path / "budget.json", 0.0, lambda event: None, SLOW)
    for part in PARTS:
        planner.amounts(part)
    told = json.loads(json.dumps(planner.told(1.0)))
    assert told["given_s"] == 1.0
    assert list(told["parts"]) == list(PARTS)
    assert len(told["cut"]) == 5
    assert told["parts"]["laptop"]["fits"] is False
    assert Decision.from_json(told["parts"]["black_box"]) == planner.made["black_box"]


def test_rows_of_the_probe_are_rows_that_can_be_learned() -> None:
    from stillproof.demo.speed import _rows

    rows: Rows = _rows(3)
    assert len(rows) == 3
    assert rows.n_targets == 3 * 255
    assert rows.n_tokens == 3 * 256
