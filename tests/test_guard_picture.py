"""The page of a scan: everything drawn, nothing loaded, and no text of a log that can become markup."""

import copy
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.finding import Signal
from stillproof.guard.alternatives import ALTERNATIVES, NOTHING, considered, would_clear
from stillproof.guard.drawings import MAX_BARS, MAX_UNITS, graph, timeline, waterfall
from stillproof.guard.picture import MAX_ACCOUNTS, MAX_DRAWN, UNSTATED, write_page
from stillproof.guard.signals import SIGNALS
from stillproof.report import to_terminal
from stillproof.report.campaigns import campaigns_of, signals_of

HOSTILE = "\x1b]0;owned\x07</td><script>alert(1)</script><img src=//evil.example/x onerror=a()>\u202egnp\u2028'\"&\x00"
VOID = {"meta", "link", "img", "br", "input", "base", "embed", "source"}


SIGNALS_SEEN = (
    Signal("evenness", "balance", 2.5, "bits", 9.0, "added"),
    Signal("round_the_clock", "rhythm", 0.97, "share", 5.0, "averaged"),
    Signal("calm", "rhythm", 0.1, "share", 3.0, "averaged"),
    Signal("grading", "content", 0.2, "share", 0.0, "added"),
)


def accounts(n: int) -> list[str]:
    return [f"{place:032x}" for place in range(n)]


def finding(log10_e: float = 3.0, decision: str = "found", n: int = 120) -> dict[str, Any]:
    return {
        "schema": "finding/1",
        "claim": "these accounts send the same rare templates as one pool",
        "verb": "guard",
        "test": "rank among honest clusters, e-BH over clusters",
        "kind": "reference_based",
        "null": "the cluster is exchangeable with honest clusters",
        "n": 4100,
        "n_unit": "exchanges",
        "decision": decision,
        "alpha": 0.05,
        "log10_e": log10_e,
        "n_reference": 9999,
        "assumptions": ["honest clusters of the reference are exchangeable with those of the log"],
        "rank": 3,
        "e_value": 10**log10_e,
        "e_threshold": 20.0,
        "accounts": accounts(n),
        "signals": [
            {"name": "evenness", "group": "balance", "value": 0.9, "unit": "share", "bits": 5.0, "combined": "added"},
            {"name": "novelty", "group": "content", "bits": 6.0, "combined": "averaged"},
            {"name": "rubric share", "group": "content", "bits": 2.0, "combined": "averaged"},
            {"name": "rhythm", "group": "timing", "bits": -0.5, "combined": "added"},
        ],
    }


def campaign(place: int) -> dict[str, Any]:
    return {
        "id": f"c{place}",
        "tier": "would_block",
        "finding": place,
        "n_accounts": 120,
        "exchanges": 4100,
        "first_seen_iso": "2026-05-01T03:00:00+00:00",
        "frozen_iso": "2026-05-03T00:00:00+00:00",
        "timeline": [
            {"time_iso": f"2026-05-{1 + hour // 24:02d}T{hour % 24:02d}:00:00+00:00", "n": 20 + hour % 7}
            for hour in range(96)
        ],
        "graph": {
            "n_units": 4000,
            "n_fingerprints": 3,
            "units": [{"unit": name[:16], "n": 200 - place} for place, name in enumerate(accounts(120))],
            "fingerprints": [{"kind": "tools", "fp": f"{fp:016x}", "n_units": 40} for fp in range(3)],
            "edges": [[unit, unit % 3, 1 + unit] for unit in range(120)],
        },
        "alternatives": considered(SIGNALS_SEEN),
        "would_clear": would_clear(SIGNALS_SEEN),
    }


def scan() -> dict[str, Any]:
    return {
        "findings": [finding(4.0, "inconclusive"), finding()],
        "campaigns": [campaign(0), campaign(1)],
        "n_accounts": 63_000,
        "n_exchanges": 1_000_000,
        "n_clusters": 41,
        "duration_s": 33.0,
        "gate": None,
        "reference": {"n_clusters": 9999, "source": "reference.parquet"},
        "expected_innocent_accounts": 0.4,
        "guarantee": "at most 5% of the clusters named are honest, on average over scans",
        "measured": ["account recall on composed worlds"],
    }


def page_of(result: dict[str, Any], folder: Path) -> str:
    write_page(result, folder / "scan.html")
    return (folder / "scan.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every tag with its attributes; refuses a page whose tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of_class(self, name: str, tag: str) -> int:
        return sum(found == tag and name in (attrs.get("class") or "").split() for found, attrs in self.seen)


def poisoned(value: Any) -> Any:
    """Every text, and every key that is not the schema's, made hostile; times and decisions too."""
    if isinstance(value, dict):
        return {key: value[key] if key == "schema" else poisoned(value[key]) for key in value} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


def test_the_page_states_totals_guarantee_assumption_measurement_and_innocents(tmp_path: Path) -> None:
    page = page_of(scan(), tmp_path)
    for part in ("63,000", "1,000,000", "at most 5% of the clusters named", "exchangeable with those of the log"):
        assert part in page
    for part in ("innocent accounts to expect", "0.4000", "account recall on composed worlds", "9,999"):
        assert part in page


def test_what_a_scan_does_not_state_is_said_to_be_missing_and_not_made_up(tmp_path: Path) -> None:
    result = {key: value for key, value in scan().items() if key not in ("guarantee", "expected_innocent_accounts")}
    assert page_of(result, tmp_path).count(UNSTATED) == 2


def test_every_part_of_a_campaign_is_drawn(tmp_path: Path) -> None:
    page = page_of(scan(), tmp_path)
    elements = Elements(page)
    assert sum(tag == "section" for tag, _ in elements.seen) == 3
    for drawing in ("timeline", "waterfall", "graph"):
        assert elements.of_class(drawing, "svg") == 2
    assert elements.of_class("freeze", "line") == 2
    assert elements.of_class("linking", "rect") == elements.of_class("evidence", "rect") == 2 * 48
    assert elements.of_class("averaged", "rect") == 2
    assert elements.of_class("unit", "circle") == 2 * MAX_UNITS
    for part in (
        "a class or course",
        "evenness 9.0, predicted low",
        "the accounts are declared as one customer",
        "evenness: 2.500 bits",
        f"{4000 - MAX_UNITS} not shown",
    ):
        assert part in page
    assert f"and {120 - MAX_ACCOUNTS} more of 120" in page


def test_no_text_of_a_log_becomes_markup_or_moves_other_text(tmp_path: Path) -> None:
    page = page_of(poisoned(scan()), tmp_path)
    tags = {tag for tag, _ in Elements(page).seen}
    assert not tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert "<script" not in page and "onerror=a()&gt;" in page
    assert not [c for c in page if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    page = page_of(poisoned(scan()), tmp_path)
    for tag, attrs in Elements(page).seen:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "style", "action", "data", "xlink:href"), (tag, name)
            if name == "href":
                assert (value or "").startswith("#campaign-")
    assert "default-src 'none'" in page
    assert "url(" not in page and "@import" not in page


def test_the_same_scan_gives_the_same_bytes_and_is_not_changed(tmp_path: Path) -> None:
    result = scan()
    before = copy.deepcopy(result)
    assert page_of(result, tmp_path) == page_of(copy.deepcopy(result), tmp_path)
    assert result == before
    assert [path.name for path in tmp_path.iterdir()] == ["scan.html"]


def test_a_scan_that_found_nothing_and_one_stopped_at_a_gate_have_a_page(tmp_path: Path) -> None:
    nothing = scan() | {"findings": [], "campaigns": []}
    assert "No campaign is in the findings" in page_of(nothing, tmp_path)
    page = page_of(nothing | {"gate": "12 honest clusters in the reference, 99 are needed"}, tmp_path)
    assert "Stopped at a gate: 12 honest clusters" in page


def test_campaigns_beyond_those_drawn_are_counted_and_stay_in_the_table(tmp_path: Path) -> None:
    n = MAX_DRAWN + 7
    result = scan() | {"findings": [finding(4 - place / 100, n=3) for place in range(n)]}
    page = page_of(result | {"campaigns": [campaign(place) | {"timeline": []} for place in range(n)]}, tmp_path)
    assert "7 more campaigns stand in the table above" in page
    assert f">c{n - 1}</td>" in page
    assert sum(tag == "section" for tag, _ in Elements(page).seen) == MAX_DRAWN + 1


@pytest.mark.parametrize("part", ["timeline", "graph", "alternatives", "would_clear", "frozen_iso", "n_accounts"])
def test_a_campaign_without_one_of_its_parts_still_has_a_page(part: str, tmp_path: Path) -> None:
    result = scan()
    for row in result["campaigns"]:
        row[part] = None
    drawn = Elements(page_of(result, tmp_path)).seen
    assert sum(tag == "section" for tag, _ in drawn) >= len(result["campaigns"])


def test_what_was_found_comes_first_then_by_evidence_and_a_finding_without_a_campaign_is_not_lost() -> None:
    result = scan()
    result["findings"] += [finding(3.5), finding(-300.0, "not_found")]
    told = campaigns_of(result)
    assert [(c.id, c.decision) for c in told] == [
        ("–", "found"),
        ("c1", "found"),
        ("c0", "inconclusive"),
        ("–", "not_found"),
    ]
    assert told[0].rank == "3 of 10,000"


def test_bits_of_a_group_are_their_arithmetic_mean_in_one_bar_that_lists_them() -> None:
    drawn = waterfall(signals_of(finding()))
    assert drawn is not None
    # (6 + 2) / 2 = 4, beside 5 and -0.5
    assert drawn["sum"] == "8.5"
    assert [(bar["label"], bar["drawn"]) for bar in drawn["bars"]] == [
        ("evenness", "added"),
        ("content", "averaged"),
        ("rhythm", "against"),
    ]
    assert drawn["bars"][1]["parts"] == "mean of 2: novelty 6.0, rubric share 2.0"


def test_the_bars_are_said_to_be_the_score_and_not_the_e_value(tmp_path: Path) -> None:
    page = page_of(scan(), tmp_path)
    assert "The bars sum to 8.5 bit" in page
    assert "What decides is the e-value" in page


def test_every_signal_is_explained_by_an_honest_alternative_and_none_is_both_predicted_high_and_low() -> None:
    known = {name for other in ALTERNATIVES for name in other.high}
    assert set(SIGNALS) <= known
    assert not [other.name for other in ALTERNATIVES if set(other.high) & set(other.low)]
    assert {name for other in ALTERNATIVES for name in other.high + other.low} <= set(SIGNALS)


def test_what_an_alternative_does_not_explain_speaks_against_it_with_the_bits_it_adds_to_the_score() -> None:
    rows = {row["name"]: row for row in considered(SIGNALS_SEEN)}
    course = rows["a class or course on one assignment"]
    assert [row["signal"] for row in course["against"]] == ["evenness", "round_the_clock", "calm"]
    assert course["contradicts"] == ["evenness", "round_the_clock", "calm"]
    # 9, and (5 + 3) / 2 of the averaged group
    assert (course["bits_against"], course["bits_explained"]) == (13.0, 0.0)
    pipeline = rows["one customer's batch pipeline under several undeclared accounts"]
    assert (pipeline["bits_against"], pipeline["bits_explained"]) == (0.0, 13.0)
    against = [row["bits_against"] for row in considered(SIGNALS_SEEN)]
    assert against == sorted(against)


def test_a_signal_that_the_table_does_not_know_speaks_against_every_alternative() -> None:
    odd = Signal("odd", "odd", 1.0, "share", 7.0, "added")
    assert all(row["bits_against"] == 7.0 for row in considered([odd]))
    assert would_clear([odd]) == []


def test_what_would_clear_comes_by_bits_with_the_value_observed() -> None:
    rows = would_clear(SIGNALS_SEEN)
    assert [(row["signal"], row["value"]) for row in rows] == [
        ("evenness", 2.5),
        ("round_the_clock", 0.97),
        ("calm", 0.1),
    ]
    assert all(row["what"] == SIGNALS[row["signal"]].cleared_by != NOTHING for row in rows)


def test_an_account_is_drawn_with_the_area_of_its_volume() -> None:
    units = [{"unit": "aa", "n": 400}, {"unit": "bb", "n": 100}]
    drawn = graph({"units": units, "fingerprints": ["f"], "edges": [[0, 0, 1], [1, 0, 1]], "n_units": 7})
    assert drawn is not None
    radius = {dot["label"]: dot["r"] for dot in drawn["units"]}
    assert radius["aa"] == pytest.approx(2 * radius["bb"], abs=0.1)
    assert drawn["n_units_left_out"] == 5


def test_an_explanation_in_the_terminal_has_alternatives_and_what_would_clear(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = {"alternatives": considered(SIGNALS_SEEN), "would_clear": would_clear(SIGNALS_SEEN)}
    to_terminal({"id": "c1", **finding(), **told})
    words = " ".join(capsys.readouterr().out.split())
    for part in ("honest alternatives", "a class or course", "predicted low", "what would clear these accounts"):
        assert part in words
    to_terminal(poisoned({"id": "c1", **finding(), **told}))
    out = capsys.readouterr().out
    assert not [c for c in out if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_alternatives_and_clearing_of_any_shape_are_shown_or_left_out(tmp_path: Path) -> None:
    for odd in (
        ["text"],
        "text",
        7,
        [{}],
        [{"explains": "x", "against": [1], "contradicts": 3, "bits_against": "many"}],
    ):
        row = campaign(0) | {"alternatives": odd, "would_clear": odd}
        drawn = Elements(page_of(scan() | {"campaigns": [row, row]}, tmp_path)).seen
        assert sum(tag == "section" for tag, _ in drawn) >= 2


def test_a_long_timeline_keeps_every_exchange_in_fewer_bars() -> None:
    rows = [
        {"time_iso": f"2026-{1 + d // 28:02d}-{1 + d % 28:02d}T{h:02d}:00", "n": 1}
        for d in range(90)
        for h in range(24)
    ]
    drawn = timeline(rows, "2026-02-01T00:00")
    assert drawn is not None
    assert len(drawn["bars"]) <= MAX_BARS
    said = [int(bar["said"].split(": ")[1].split()[0].replace(",", "")) for bar in drawn["bars"]]
    assert sum(said) == len(rows)


def test_an_edge_is_drawn_whether_it_names_ids_or_places() -> None:
    given = {"units": ["aa", "bb"], "fingerprints": [{"kind": "tools", "fp": "77"}, "88"]}
    by_place = graph(given | {"edges": [[0, 0, 3], [1, 1, 1]]})
    by_id = graph(given | {"edges": [["aa", 0, 3], ["bb", "88", 1]]})
    assert by_place == by_id
    assert by_place is not None and [dot["said"] for dot in by_place["fingerprints"]] == ["tools 77", "88"]


@given(
    st.integers(0, 90),
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(-1, 90), st.integers(-1, 60), st.integers(0, 10**9)), max_size=200),
)
def test_every_drawn_line_ends_at_drawn_dots_inside_the_drawing(
    n_units: int, n_prints: int, edges: list[tuple[int, int, int]]
) -> None:
    names = {"units": [f"u{n}" for n in range(n_units)], "fingerprints": [f"f{n}" for n in range(n_prints)]}
    drawn = graph(names | {"edges": edges})
    if drawn is None:
        assert not [e for e in edges if 0 <= e[0] < n_units and 0 <= e[1] < n_prints and e[2] > 0]
        return
    left, right = ({dot["y"] for dot in drawn[side]} for side in ("units", "fingerprints"))
    assert len(drawn["units"]) <= MAX_UNITS
    assert all(0 < y < drawn["height"] for y in left | right)
    assert all(edge["y1"] in left and edge["y2"] in right for edge in drawn["edges"])


@given(st.lists(st.dictionaries(st.sampled_from(["time_iso", "n"]), st.text() | st.floats() | st.none())), st.text())
def test_a_timeline_of_any_rows_is_drawn_or_left_out(rows: list[dict[str, Any]], frozen: str) -> None:
    drawn = timeline(rows, frozen)
    assert drawn is None or drawn["bars"]
    for bar in drawn["bars"] if drawn else ():
        assert bar["width"] > 0
        assert 0 <= bar["height"] <= 115 or bar["said"].split(": ")[1].startswith("-")


def test_a_scan_in_the_terminal_is_one_row_a_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    to_terminal(scan())
    out = capsys.readouterr().out
    row = " ".join(out.split())
    for part in (
        "c1",
        "would_block",
        "4,100",
        "novelty +6.0",
        "e 1,000",
        "needed 20.00",
        "rank 3 of 10,000",
        "n_clusters",
        "expected_innocent_accounts",
    ):
        assert part in row
    assert accounts(120)[77] not in out


def test_text_of_a_scan_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    to_terminal(poisoned(scan()))
    out = capsys.readouterr().out
    assert not [c for c in out if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_a_scan_stopped_at_a_gate_does_not_say_that_nothing_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    to_terminal(scan() | {"findings": [], "campaigns": [], "gate": "too few honest clusters"})
    assert "nothing was decided: too few honest clusters" in capsys.readouterr().out
