"""Every duty of every licence record is an artefact: a folder without it does not meet it, one with it does."""

import pytest

from stillproof import terms
from stillproof.terms.records import Duty, TermsRecord
from stillproof.trace.lineage_check import Shown, duty_state

RECORDS = [record for record in terms.records() if record.duties]
BARE = Shown("student", {"README.md": "# student\n"})
PARENT = Shown("parent", {"NOTICE": "Made by the parent's makers."})


def meeting(record: TermsRecord) -> Shown:
    """A folder with the artefact of each duty of a record."""
    name, card, notice, files = "student", ["# student"], [], {}
    for number, duty in enumerate(record.duties):
        if duty.kind == "name_prefix":
            name = f"{duty.value}-student"
        elif duty.kind == "attribution":
            card.append(duty.value)
        elif duty.kind in ("agreement_copy", "use_restrictions") and duty.value.endswith(".txt"):
            files[f"TEXT-{number}"] = terms.read_licence(duty.value)
            card.append("Whoever uses it is bound by the use restrictions.")
        elif duty.kind == "use_restrictions":
            card.append(duty.value)
        elif duty.kind == "notice_text":
            notice.append(duty.value)
        elif duty.kind == "change_notice":
            notice.append("The weights were modified.")
        elif duty.kind == "keep_notices":
            notice.append(PARENT.notice)
    return Shown(name, {"README.md": "\n\n".join(card), "NOTICE": "\n".join(notice), **files})


def states(record: TermsRecord, shown: Shown, monthly_users: int | None) -> dict[str, str]:
    def state(duty: Duty) -> str:
        return duty_state(record, duty, shown, {"parent": PARENT}, monthly_users).state

    return {duty.id: state(duty) for duty in record.duties}


def test_of_at_least_25_licences_that_allow_all_but_waivers_have_duties() -> None:
    yes = {"allow", "allow_with_duties"}
    allowing = {record.id for record in terms.records() if {record.decision, record.own_derivative} & yes}
    assert len(allowing) >= 25
    waivers = {"0bsd", "cc0-1.0", "mit-0", "pddl-1.0", "unlicense", "wtfpl-2.0"}
    assert allowing - {record.id for record in RECORDS} == waivers


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_every_duty_of_a_record_is_an_artefact_that_can_be_checked(record: TermsRecord) -> None:
    without, beyond = states(record, BARE, None), states(record, BARE, 10**10)
    assert set(without.values()) <= {"unmet", "open"}
    limits = {duty.id for duty in record.duties if duty.kind == "user_limit"}
    assert {name for name, state in without.items() if state == "open"} == limits
    assert {beyond[name] for name in limits} <= {"unmet"}
    assert set(states(record, meeting(record), 1).values()) == {"met"}
    assert all(duty.text.strip() and duty.check.strip() for duty in record.duties), "each says how to see it"
