"""Who else behaves like this: honest customers that could lie behind a cluster, and what of the evidence each explains.

One table, ALTERNATIVES: an alternative names the signals that it predicts high (it explains them, after the
`honest_causes` of the signals) and those that it predicts low. Whatever else was observed speaks against it, with the
bits that the signal adds to the score: all of them where signals are added, their share of the mean where a group is
averaged. The table decides nothing. It says to the person who does where an innocent explanation holds, and where not.

    considered(signals)    the alternatives, least contradicted first
    would_clear(signals)   what a customer could show, strongest signal first
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stillproof.finding import Signal
from stillproof.guard.signals import SIGNALS

CHANCE_BITS = 1.44
"""Mean bits of one signal of an honest cluster before it is weighted, -log2 of a uniform p-value: 1 / ln 2. Up to it
nothing was observed."""
NOTHING = "nothing by itself"
"""What `cleared_by` says where no single paper or change would do."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """An honest explanation, and what it predicts of the signals."""

    name: str
    high: tuple[str, ...]
    """Signals that it explains."""
    low: tuple[str, ...]
    """Signals that would be near those of strangers, were it true: observed high, they contradict it."""
    shown_by: str
    """What would establish it."""


ALTERNATIVES = (
    Alternative(
        "one customer's batch pipeline under several undeclared accounts",
        (
            *("evenness", "one_queue", "calm", "round_the_clock", "in_step", "joint_signup", "opening", "never_twice"),
            *("complementary", "one_setting", "volume", "shared_network", "one_client", "borrowed_reasoning"),
        ),
        ("many_samples", "logprobs", "elicitation", "grading"),
        "the accounts are declared as one customer, who names the data that is worked through",
    ),
    Alternative(
        "an evaluation suite run by several teams",
        ("shared_list", "many_samples", "logprobs", "grading", "opening", "one_setting", "in_step", "one_client"),
        ("never_twice", "complementary", "evenness", "one_queue", "round_the_clock", "joint_signup"),
        "the public source of the prompts, and a run that ends with the suite",
    ),
    Alternative(
        "a class or course on one assignment",
        ("shared_list", "in_step", "joint_start", "joint_signup", "shared_network", "elicitation"),
        ("round_the_clock", "evenness", "one_queue", "calm", "volume", "complementary", "never_twice"),
        "the course, its dates, and the assignment",
    ),
    Alternative(
        "users of a popular tool, or of one just launched",
        ("joint_start", "joint_signup", "opening", "one_setting", "one_client", "long_answers", "complementary"),
        ("evenness", "one_queue", "calm", "shared_list", "volume", "shared_network", "borrowed_reasoning"),
        "the tool's name and release, and users of it outside this cluster",
    ),
    Alternative(
        "a gateway or reseller in front of its own end users",
        ("evenness", "one_queue", "calm", "round_the_clock", "volume", "one_client", "shared_network", "one_setting"),
        ("opening", "never_twice", "shared_list", "elicitation", "grading", "many_samples"),
        "a declared service with end users of its own, and their consent",
    ),
    Alternative(
        "one CI action in many repositories",
        ("opening", "one_setting", "one_client", "in_step", "shared_network", "complementary", "joint_start"),
        ("evenness", "one_queue", "calm", "elicitation", "many_samples", "logprobs", "shared_list"),
        "the action's source, and repositories that call it",
    ),
    Alternative(
        "a university, an office or a carrier behind one network",
        ("shared_network", "in_step", "joint_signup", "complementary"),
        ("evenness", "one_queue", "calm", "round_the_clock", "one_setting", "opening", "never_twice"),
        "the organisation behind the network",
    ),
    Alternative(
        "a company that signs its employees up one by one",
        ("joint_start", "joint_signup", "in_step", "shared_network", "one_client", "complementary"),
        ("evenness", "one_queue", "round_the_clock", "never_twice", "shared_list"),
        "the organisation that the accounts belong to, declared",
    ),
    Alternative(
        "strangers with the same scheduled job",
        ("evenness", "one_queue", "calm", "round_the_clock", "in_step", "opening", "one_setting", "complementary"),
        ("joint_start", "joint_signup", "shared_list", "many_samples", "elicitation"),
        "the schedule, and a tool whose default it is",
    ),
    Alternative(
        "researchers of safety, calibration or reasoning",
        ("elicitation", "grading", "logprobs", "many_samples", "long_answers", "shared_list", "one_setting"),
        ("evenness", "one_queue", "joint_signup", "round_the_clock"),
        "a declared purpose, and the study",
    ),
)


def considered(signals: Sequence[Signal]) -> list[dict[str, Any]]:
    """Each alternative with the evidence for and against it, least evidence against first; ties as in the table.

    Keys: name; explains, against: lists of {signal, bits}, strongest first, of signals above chance; contradicts:
    names of those against it that it predicts low; bits_explained and bits_against: what both lists add to the score,
    shown_by. A signal that the table does not know speaks against every alternative.
    """
    sizes = Counter(signal.group for signal in signals)
    observed = sorted((s for s in signals if _observed(s)), key=lambda s: (-s.bits, s.name))
    rows = []
    for other in ALTERNATIVES:
        explained = [signal for signal in observed if signal.name in other.high]
        against = [signal for signal in observed if signal.name not in other.high]
        rows.append(
            {
                "name": other.name,
                "explains": [_brief(signal) for signal in explained],
                "against": [_brief(signal) for signal in against],
                "contradicts": [signal.name for signal in against if signal.name in other.low],
                "bits_explained": _added(explained, sizes),
                "bits_against": _added(against, sizes),
                "shown_by": other.shown_by,
            }
        )
    return sorted(rows, key=lambda row: row["bits_against"])


def would_clear(signals: Sequence[Signal]) -> list[dict[str, Any]]:
    """What a customer could show or change, after `cleared_by` of each observed signal; most bits first.

    Keys: what; signal, value (as measured, None where it was not), unit, bits; honest_causes. Signals at chance level
    and those that nothing clears by itself are left out.
    """
    rows = [
        {
            "what": SIGNALS[signal.name].cleared_by,
            "signal": signal.name,
            "value": signal.value,
            "unit": signal.unit,
            "bits": round(signal.bits, 3),
            "honest_causes": SIGNALS[signal.name].honest_causes,
        }
        for signal in signals
        if signal.name in SIGNALS and _observed(signal) and SIGNALS[signal.name].cleared_by != NOTHING
    ]
    return sorted(rows, key=lambda row: (-row["bits"], row["signal"]))


def _observed(signal: Signal) -> bool:
    weight = SIGNALS[signal.name].weight if signal.name in SIGNALS else 1.0
    return signal.bits > CHANCE_BITS * weight


def _brief(signal: Signal) -> dict[str, Any]:
    return {"signal": signal.name, "bits": round(signal.bits, 3)}


def _added(signals: Sequence[Signal], sizes: Counter[str]) -> float:
    return round(sum(s.bits / (sizes[s.group] if s.combined == "averaged" else 1) for s in signals), 3)
