"""Parts of the demo that need no model: texts, the clock, the plan, the drawings."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from stillproof import demo
from stillproof.canary import forms, found
from stillproof.demo import prose
from stillproof.demo.models import Chatter
from stillproof.demo.serving import Clocked, row_of
from stillproof.demo.sizes import SIZES, size_of
from stillproof.errors import ConfigError
from stillproof.exchange import Exchange, Message
from stillproof.report.story import bars, p_axis, tree, write_story
from stillproof.serve import Recorder
from stillproof.store import Store
from stillproof.teacher import Identity, Request, Teacher
from stillproof.teacher.fake import FakeTeacher


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_prompts_are_short_and_no_two_are_equal() -> None:
    prompts = prose.prompts(rng(), 500, "Please:")
    assert len(set(prompts)) == 500
    assert all(text.startswith("Please: ") and "\n" not in text and len(text) <= 90 for text in prompts)


@pytest.mark.parametrize("school", ["owner", "others"])
def test_every_phrase_and_opener_stands_in_answers_on_both_of_its_sides(school: prose.School) -> None:
    counts = found("\n".join(prose.answers(rng(), 3000, school)))
    spoken = [one.name for one in forms() if one.kind == "opener" or one.name in prose.PHRASED]
    assert [name for name in spoken if min(counts.get(name, (0, 0))) == 0] == []


def test_the_same_seed_and_name_give_the_same_texts_and_another_name_others() -> None:
    assert Chatter(7).chats("a", 5, "owner") == Chatter(7).chats("a", 5, "owner")
    assert Chatter(7).chats("a", 5, "owner") != Chatter(7).chats("b", 5, "owner")
    assert Chatter(7).chats("a", 5, "owner") != Chatter(8).chats("a", 5, "owner")


class Backwards:
    """Answers a batch from its end, as a teacher that sorts by length may."""

    def __init__(self, inner: Teacher) -> None:
        self._inner = inner

    @property
    def identity(self) -> Identity:
        return self._inner.identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        return iter(list(self._inner.answer(requests))[::-1])

    def close(self) -> None:
        self._inner.close()


def test_each_answer_is_stored_with_the_time_of_its_own_call_in_whatever_order_they_come(tmp_path: Path) -> None:
    start = datetime(2026, 9, 1, tzinfo=UTC)
    times = {f"row{number}-0": start + timedelta(hours=number) for number in range(5)}
    requests = [Request((Message("user", name),), id=name, account="a") for name in times]
    with Store.create(tmp_path / "served") as store:
        clocked = Clocked(Backwards(FakeTeacher()), times)
        recorder = Recorder(clocked, store, clock=lambda: clocked.now)
        assert len(list(recorder.answer(requests))) == 5
        assert {exchange.id: exchange.time for exchange in store} == times


def test_an_exchange_names_the_row_that_it_answers_in_every_attempt() -> None:
    assert {row_of(f"0a1b-{attempt}") for attempt in range(3)} == {"0a1b"}


@pytest.mark.parametrize("name", SIZES)
def test_the_plan_of_every_size_says_calls_tokens_money_and_minutes(name: str) -> None:
    plan = demo.plan(name)
    assert plan["calls_served"] > 1000
    assert plan["tokens_generated"] > plan["calls_served"]
    assert plan["usd"] == 0
    assert plan["minutes"] > 0


def test_a_size_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="huge"):
        size_of("huge")


# --- drawings -----------------------------------------------------------------------------------------------------


def test_more_evidence_lies_further_right_and_what_has_no_p_value_is_named() -> None:
    trace = {
        "copier": {"a": {"log10_p_adjusted": -300.0}, "b": {"log10_p_adjusted": -3.0}, "c": {"log10_p_adjusted": None}},
        "innocent": {"a": {"log10_p_adjusted": 0.0}, "b": {"log10_p_adjusted": -0.5}, "c": {"log10_p_adjusted": -1.0}},
    }
    drawn = p_axis(trace, ("a", "b", "c"), 1e-3)
    copier, innocent = drawn["rows"]
    assert copier["marks"][0]["x"] > copier["marks"][1]["x"] == drawn["threshold"]
    assert innocent["marks"][0]["x"] < innocent["marks"][1]["x"] < innocent["marks"][2]["x"] < drawn["threshold"]
    assert copier["missing"] == "c"
    assert all(150 <= mark["x"] <= 590 for row in drawn["rows"] for mark in row["marks"])


def test_bars_are_as_long_as_their_values_and_a_missing_one_says_so() -> None:
    drawn = bars([("a", 2.0, "2"), ("b", 1.0, "1"), ("c", None, "—")])
    widths = [row["width"] for row in drawn["rows"]]
    assert widths[0] == 2 * widths[1] > 0
    assert widths[2] == 0
    assert "not measured" in drawn["rows"][2]["said"]


def test_a_tree_draws_only_edges_between_its_nodes() -> None:
    drawn = tree([("parent", 0), ("child", 1)], [("child", "parent", "tested", "x"), ("child", "gone", "tested", "y")])
    assert [edge["said"] for edge in drawn["edges"]] == ["x"]
    assert drawn["edges"][0]["y1"] < drawn["edges"][0]["y2"]


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    values = {
        "title": bad,
        "lead": bad,
        "summary": [(bad, bad, None)],
        "served": [(bad, bad)],
        "guard_said": bad,
        "timeline": None,
        "graph": None,
        "waterfall": None,
        "students_said": bad,
        "retention": [{"title": bad, **bars([(bad, 1.0, bad)])}],
        "trace_said": bad,
        "p_axis": p_axis({bad: {bad: {"log10_p_adjusted": -1.0}}}, (bad,), 0.05),
        "p_rows": [(bad,) * 6],
        "whose": [(bad, bad)],
        "tree": tree([(bad, 0)], []),
        "lineage": [(bad, bad)],
        "limits": [bad],
        **dict.fromkeys(
            ("whole_again", "served_again", "guard_again", "retention_again", "trace_again", "lineage_again"), bad
        ),
    }
    write_story(values, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
