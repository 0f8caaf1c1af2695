import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.errors import InputError, SchemaError
from stillproof.finding import LOG10_E_ZERO, Check, Effect, Finding, Run, Signal, decide, exit_code, holm, log10_e

FOUND = Finding(
    claim="this model learned from text that carries our key",
    verb="trace",
    test="binomial over distinct contexts",
    kind="design_based",
    null="the model's text is independent of the key",
    statistic=0.41,
    n=12_000,
    n_unit="tokens",
    decision="found",
    alpha=0.01,
    log10_p=-55.2,
    effect=Effect("green share", "share", 0.41, 0.40, 0.42, 0.95),
    assumptions=("the key was drawn before the text was served",),
    checks=(Check("decoy keys", True, "1,000 decoys, KS p 0.4"), Check("copied bigrams", None)),
    evidence=("a-0", "b-0"),
    run=Run("stillproof trace scan", "ab" * 32, "0.1.0", 7),
)
CAMPAIGN = replace(
    FOUND,
    claim="these accounts share templates more than honest clusters do",
    verb="guard",
    kind="reference_based",
    n=300,
    n_unit="accounts",
    alpha=0.05,
    log10_p=-4.0,
    log10_e=3.6,
    n_reference=9_999,
    accounts=("0f" * 16, "1a" * 16),
    rank=1,
    e_threshold=1_200.0,
    signals=(
        Signal("rare template", "coordination", 0.8, "share", 8.0, "averaged", "popularity discounted"),
        Signal("canary", "canary", None, "count", 0.0, "added"),
    ),
)
UNFOUND = replace(FOUND, decision="not_found", log10_p=-0.2)


def test_a_finding_survives_json() -> None:
    assert Finding.from_json(json.loads(json.dumps(FOUND.to_json()))) == FOUND


@given(
    st.floats(-400, 0),
    st.sampled_from([0.001, 0.05]),
    st.text(),
    st.lists(st.text(), max_size=3),
    st.one_of(st.none(), st.builds(Effect, st.text(), st.text(), st.floats(-1e300, 1e300))),
)
def test_any_sound_finding_survives_json(
    log10_p: float, alpha: float, detail: str, evidence: list[str], effect: Effect | None
) -> None:
    finding = replace(
        FOUND,
        log10_p=log10_p,
        alpha=alpha,
        decision=decide(log10_p, alpha),
        checks=(Check("any", False, detail),),
        evidence=tuple(evidence),
        effect=effect,
    )
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"log10_p": None}, "neither a p-value nor an e-value"),
        ({"log10_p": 0.1}, "above 0"),
        ({"log10_p": -math.inf}, "never zero"),
        ({"log10_p": math.nan}, "not_found|null|nan"),
        ({"log10_p": -1.0}, "contradicts"),
        ({"decision": "not_found"}, "contradicts"),
        ({"decision": "guilty"}, "not one of found"),
        ({"kind": "both"}, "not one of design_based"),
        ({"verb": "accuse"}, "not one of distill"),
        ({"null": " "}, "null is empty"),
        ({"claim": ""}, "claim is empty"),
        ({"n": 0}, "n is 0"),
        ({"n": -3}, "not a count"),
        ({"n": True}, "not a count"),
        ({"n": 2.0}, "not a count"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": "0.05"}, "not a number"),
        ({"statistic": math.nan}, "statistic is nan"),
        ({"log10_p_adjusted": -60.0, "family_n": 2}, "never makes a p-value smaller"),
    ],
)
def test_a_finding_that_nobody_should_believe_cannot_be_made(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        replace(FOUND, **changes)


def test_a_finding_without_a_number_is_inconclusive_or_nothing() -> None:
    finding = replace(FOUND, decision="inconclusive", log10_p=None, n=0, statistic=None)
    assert Finding.from_json(finding.to_json()) == finding


def test_a_reference_based_p_value_below_its_floor_is_refused() -> None:
    at_floor = replace(FOUND, kind="reference_based", n=99, log10_p=-2.0, alpha=0.05)
    assert at_floor.decision == "found"
    with pytest.raises(InputError, match=r"below the floor -2\.0000 of a rank among 99 null draws"):
        replace(at_floor, log10_p=-2.01)


def test_the_floor_is_that_of_the_draws_it_was_ranked_among_where_they_are_named() -> None:
    ranked = replace(FOUND, kind="reference_based", n=40, n_reference=9999, log10_p=-4.0)
    with pytest.raises(InputError, match="among 9999 null draws"):
        replace(ranked, log10_p=-4.1)
    with pytest.raises(InputError, match="among 999 null draws"):
        replace(FOUND, kind="design_based", n_reference=999)


def test_an_e_value_decides_where_there_is_no_p_value() -> None:
    finding = replace(FOUND, log10_p=None, log10_e=2.0)
    assert finding.decision == "found"
    with pytest.raises(InputError, match="contradicts log10 e"):
        replace(finding, log10_e=1.9)


def test_a_campaign_survives_json_and_shows_its_e_value() -> None:
    row = json.loads(json.dumps(CAMPAIGN.to_json()))
    assert row["e_value"] == pytest.approx(10**3.6)
    assert row["e_threshold"] == 1_200.0
    assert row["signals"][1]["value"] is None
    assert Finding.from_json(row) == CAMPAIGN
    assert FOUND.to_json()["e_value"] is None
    assert FOUND.to_json()["e_threshold"] is None


def test_a_finding_written_before_these_fields_is_still_read() -> None:
    row = FOUND.to_json()
    for name in ("accounts", "rank", "e_threshold", "signals", "e_value"):
        del row[name]
    assert Finding.from_json(row) == FOUND


def test_where_a_threshold_is_given_the_e_value_decides_and_not_the_p_value() -> None:
    below = replace(CAMPAIGN, log10_e=3.0, decision="not_found")
    assert below.log10_p == -4.0
    with pytest.raises(InputError, match="contradicts log10 e"):
        replace(below, decision="found")
    assert replace(CAMPAIGN, log10_e=math.log10(1_200.0)).decision == "found"
    assert replace(below, e_threshold=None, decision="found").decision == "found"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"log10_e": None}, "without an e-value"),
        ({"e_threshold": 19.0}, "below 1/alpha"),
        ({"e_threshold": math.inf}, "e_threshold is inf"),
        ({"log10_e": 4.1}, "more than a rank among 9999"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 10_001}, "rank is 10001"),
        ({"rank": 1.0}, "not a count"),
        ({"signals": (Signal("x", "g", 1.0, "", 1.0, "multiplied"),)}, "not added or averaged"),
        ({"signals": (Signal("x", "g", math.nan, "", 1.0, "added"),)}, "value of signal 'x'"),
        ({"signals": (Signal("x", "g", 1.0, "", math.inf, "added"),)}, "bits of signal 'x'"),
    ],
)
def test_a_campaign_that_nobody_should_believe_cannot_be_made(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        replace(CAMPAIGN, **changes)


def test_an_e_value_of_zero_or_beyond_a_float_is_still_a_number_in_json() -> None:
    nothing = replace(CAMPAIGN, log10_e=log10_e(0.0), decision="not_found")
    assert (nothing.log10_e, nothing.e_value) == (LOG10_E_ZERO, 0.0)
    huge = replace(FOUND, log10_p=None, log10_e=400.0)
    assert json.loads(json.dumps(huge.to_json(), allow_nan=False))["e_value"] == 1e308
    for e in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError):
            log10_e(e)


def test_decide_is_inconclusive_where_no_result_could_have_been_enough() -> None:
    assert decide(-1.2, 0.01, log10_floor=-1.2) == "inconclusive"
    assert decide(-2.0, 0.01, log10_floor=-4) == "found"
    assert decide(-1.9, 0.01) == "not_found"


def test_holm_makes_several_findings_pay_for_one_another() -> None:
    first, second, third = (replace(FOUND, log10_p=math.log10(p)) for p in (0.004, 0.006, 1e-9))
    adjusted = holm([first, second, third])
    assert [f.decision for f in adjusted] == ["found", "found", "found"]
    assert adjusted[0].log10_p == first.log10_p
    assert 10 ** (adjusted[0].log10_p_adjusted or 0) == pytest.approx(0.008)
    assert [f.family_n for f in adjusted] == [3, 3, 3]
    weak = holm([first, second, UNFOUND, UNFOUND])
    assert [f.decision for f in weak] == ["not_found"] * 4


def test_an_inconclusive_finding_stays_so_and_still_counts_in_the_family() -> None:
    unsure = replace(FOUND, decision="inconclusive", log10_p=-0.5)
    adjusted = holm([replace(FOUND, log10_p=-2.1), unsure])
    assert [f.decision for f in adjusted] == ["not_found", "inconclusive"]
    nothing = replace(unsure, log10_p=None)
    assert holm([FOUND, nothing]) == [replace(FOUND, log10_p_adjusted=FOUND.log10_p, family_n=1), nothing]


def test_design_based_and_reference_based_findings_are_never_mixed() -> None:
    with pytest.raises(InputError, match="one family"):
        holm([FOUND, replace(FOUND, kind="reference_based", n_reference=10**60)])


def test_e_values_are_not_holms_business() -> None:
    with pytest.raises(InputError, match="e-BH"):
        holm([FOUND, replace(FOUND, log10_p=None, log10_e=3.0)])
    with pytest.raises(InputError, match="paid for already"):
        holm([CAMPAIGN])


def test_exit_codes_put_a_finding_before_doubt_and_doubt_before_nothing() -> None:
    unsure = replace(FOUND, decision="inconclusive")
    assert exit_code([]) == 0
    assert exit_code([UNFOUND]) == 0
    assert exit_code([UNFOUND, unsure]) == 4
    assert exit_code([unsure, FOUND, UNFOUND]) == 3


def test_another_schema_is_refused() -> None:
    for schema in ("finding/2", None):
        with pytest.raises(SchemaError, match="finding schema"):
            Finding.from_json({**FOUND.to_json(), "schema": schema})


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": "a-0"},
        {"evidence": [1]},
        {"effect": {"name": "x"}},
        {"effect": 3},
        {"checks": [{"who": 1}]},
        {"checks": 4},
        {"n": None},
        {"log10_p": "-3"},
        {"guilt": 1.0},
        {"accounts": "a-0"},
        {"signals": [{"name": "x"}]},
        {"signals": 4},
    ],
)
def test_broken_json_is_an_input_error_not_a_traceback(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Finding.from_json({**FOUND.to_json(), **changes})


def test_json_without_a_required_field_is_an_input_error() -> None:
    row = FOUND.to_json()
    del row["null"]
    with pytest.raises(InputError, match="null"):
        Finding.from_json(row)


def test_a_finding_is_made_without_numpy_or_torch() -> None:
    code = (
        "import sys, stillproof.finding; print([m for m in ('numpy', 'scipy', 'torch', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
