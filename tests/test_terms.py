import json
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof import terms
from stillproof.errors import InputError, SchemaError, TermsError
from stillproof.terms.records import MAX_QUOTE_CHARS, parse_record

TODAY = date(2026, 11, 24)
MODEL = "acme/teacher-7b"

GRANT: dict[str, str | None] = {
    "id": "g-1",
    "grantor": "Acme Inc.",
    "grantee": "us",
    "scope": "train_other_model",
    "teacher": MODEL,
    "issued": "2026-01-01",
    "expires": "2026-12-31",
    "evidence": "https://acme.example/letter",
}


def ask(
    licence: str | None = None,
    *,
    provider: str | None = None,
    grant: terms.Grant | None = None,
    derivative: bool = False,
    model: str = MODEL,
) -> terms.Verdict:
    return terms.ask(
        licence=licence,
        provider=provider,
        model=model,
        declared_by="weights metadata",
        grant=grant,
        today=TODAY,
        derivative=derivative,
    )


def write_grant(folder: Path, **changes: Any) -> Path:
    path = folder / "grant.json"
    path.write_text(json.dumps({**GRANT, **changes}), encoding="utf-8")
    return path


def duty_kinds(verdict: terms.Verdict) -> set[str]:
    return {duty.kind for duty in verdict.duties}


# --- what each text says --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "decision"),
    [
        ("Apache-2.0", "allow"),
        ("apache-2.0", "allow"),
        ("Apache License 2.0", "allow"),
        ("MIT", "allow"),
        ("mit", "allow"),
        ("OpenMDW-1.0", "allow"),
        ("llama2", "deny"),
        ("LicenseRef-scancode-llama-2-license-2023", "deny"),
        ("llama3", "deny"),
        ("llama3.1", "allow_with_duties"),
        ("llama3.2", "allow_with_duties"),
        ("llama3.3", "allow_with_duties"),
        ("llama4", "allow_with_duties"),
        ("gemma", "allow_with_duties"),
        ("LicenseRef-scancode-gemma-tou-2024-04-01", "allow_with_duties"),
        ("LicenseRef-scancode-qwen-2024", "allow_with_duties"),
        ("LicenseRef-scancode-tongyi-qianwen-2023", "deny"),
        ("tongyi-qianwen", "deny"),
        ("LicenseRef-scancode-deepseek-la-1.0", "allow_with_duties"),
        ("bigscience-openrail-m", "allow_with_duties"),
        ("cc-by-4.0", "allow_with_duties"),
        ("cc-by-nc-4.0", "deny"),
        ("cc-by-nc-sa-4.0", "deny"),
        ("LicenseRef-scancode-llama-license-2023", "deny"),
        ("LicenseRef-scancode-stability-ai-nc-2023-12-06", "deny"),
        ("LicenseRef-scancode-openai-tou-20241211", "deny"),
        ("LicenseRef-scancode-gemini-api-additional-tos-2025", "deny"),
    ],
)
def test_a_declared_licence_is_decided_by_its_own_text(licence: str, decision: str) -> None:
    assert ask(licence).decision == decision


@pytest.mark.parametrize("licence", [None, "", "  ", "other", "unknown", "proprietary", "llama", "qwen", "deepseek"])
def test_an_absent_vague_or_family_name_is_unknown(licence: str | None) -> None:
    verdict = ask(licence, model="meta-llama/Llama-3.1-8B-Apache-2.0-MIT")
    assert verdict.decision == "unknown"
    assert verdict.record is None
    assert not verdict.allowed


@given(st.text(max_size=40))
def test_no_made_up_licence_is_ever_allowed(licence: str) -> None:
    known = {
        name.casefold() for record in terms.records() for name in (record.spdx, record.hub_tag, *record.names) if name
    }
    if " ".join(licence.split()).casefold() not in known:
        assert ask(licence).decision == "unknown"


def test_llama_2_shows_the_clause_on_other_models_and_excepts_its_own_derivatives() -> None:
    verdict = ask("llama2")
    assert "improve any other large language model" in verdict.reasons[0].quote
    assert ask("llama2", derivative=True).decision == "allow_with_duties"
    assert {"agreement_copy", "notice_text"} <= duty_kinds(ask("llama2", derivative=True))


def test_llama_3_excepts_its_own_derivatives_and_asks_for_its_own_name() -> None:
    assert ask("llama3").decision == "deny"
    verdict = ask("llama3", derivative=True)
    assert verdict.decision == "allow_with_duties"
    assert {duty.value for duty in verdict.duties if duty.kind == "name_prefix"} == {"Llama 3"}


@pytest.mark.parametrize(
    "licence",
    ["cc-by-nc-4.0", "cc-by-nc-sa-4.0", "LicenseRef-scancode-llama-license-2023",
     "LicenseRef-scancode-stability-ai-nc-2023-12-06", "LicenseRef-scancode-exaone-ai-model-1.1-nc"],
)  # fmt: skip
@pytest.mark.parametrize("derivative", [False, True])
def test_a_text_that_permits_non_commercial_use_only_denies_and_shows_where(licence: str, derivative: bool) -> None:
    verdict = ask(licence, derivative=derivative)
    assert verdict.decision == "deny"
    assert all(clause.effect == "forbid" for clause in verdict.reasons)
    assert not verdict.allowed


@pytest.mark.parametrize("licence", ["llama3.1", "llama3.2", "llama3.3", "llama4"])
def test_llama_3_1_and_later_ask_for_the_name_the_words_the_copy_and_the_user_limit(licence: str) -> None:
    verdict = ask(licence)
    assert {"name_prefix", "attribution", "agreement_copy", "user_limit"} <= duty_kinds(verdict)
    values = {duty.kind: duty.value for duty in verdict.duties}
    assert values["name_prefix"] == "Llama"
    assert values["attribution"] == "Built with Llama"
    assert values["user_limit"] == "700000000"
    assert "notice_text" not in duty_kinds(verdict)
    assert "notice_text" in duty_kinds(ask(licence, derivative=True))


def test_gemma_makes_a_distilled_student_a_derivative_and_passes_its_restrictions_on() -> None:
    verdict = ask("gemma")
    assert "synthetic data Outputs by Gemma" in next(c.quote for c in verdict.reasons if c.effect == "define")
    assert {"use_restrictions", "agreement_copy", "notice_text", "change_notice"} <= duty_kinds(verdict)


def test_permissive_weights_oblige_only_a_student_that_is_made_of_them() -> None:
    assert ask("apache-2.0").duties == ()
    derived = ask("apache-2.0", derivative=True)
    assert derived.decision == "allow_with_duties"
    assert duty_kinds(derived) == {"agreement_copy", "change_notice", "keep_notices"}


# --- endpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "decision"),
    [
        ("api.openai.com", "unknown"),
        ("https://api.anthropic.com/v1", "unknown"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "deny"),
        ("chatgpt.com", "deny"),
        ("openrouter.example", "unknown"),
        ("http://[broken", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_service_that_is_called_binds_even_where_the_weights_are_open(provider: str, decision: str) -> None:
    verdict = ask("apache-2.0", provider=provider)
    assert verdict.decision == decision
    assert verdict.declared_by.startswith("endpoint host")


@pytest.mark.parametrize(
    "provider", ["http://127.0.0.1:8080/v1", "localhost:8000", "[::1]:9000", "10.1.2.3", "a.localhost"]
)
def test_on_ones_own_address_the_licence_of_the_weights_decides(provider: str) -> None:
    assert ask("apache-2.0", provider=provider).decision == "allow"
    assert ask(None, provider=provider).decision == "unknown"


@pytest.mark.parametrize("provider", ["127.0.0.1.evil.example", "localhost.example", "8.8.8.8", "0.0.0.0"])
def test_a_name_that_only_looks_local_is_a_foreign_service(provider: str) -> None:
    assert ask("apache-2.0", provider=provider).decision == "unknown"


# --- require --------------------------------------------------------------------------------------------------


def test_a_denial_stops_with_clause_source_date_and_a_way_out() -> None:
    with pytest.raises(TermsError) as caught:
        terms.require(ask("llama2"))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "excluding Llama 2 or derivative works thereof" in message
    assert "github.com/facebookresearch/llama" in message
    assert "2026-11-24" in message
    assert '"scope": "train_other_model"' in message
    assert "not legal advice" in message


def test_an_unknown_service_says_what_is_reported_and_that_it_is_only_reported() -> None:
    with pytest.raises(TermsError, match=r"not known to allow.*secondary.*Reported"):
        terms.require(ask(provider="api.anthropic.com"))


@pytest.mark.parametrize("licence", ["apache-2.0", "llama3.1"])
def test_an_allowed_use_goes_on(licence: str) -> None:
    verdict = ask(licence)
    terms.require(verdict)
    assert verdict.allowed


# --- grants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("licence", [None, "llama2"])
def test_a_grant_lifts_a_refusal_without_hiding_it(tmp_path: Path, licence: str | None) -> None:
    verdict = ask(licence, grant=terms.read_grant(write_grant(tmp_path)))
    terms.require(verdict)
    assert verdict.decision == ask(licence).decision
    assert verdict.to_json()["grant"] == {**GRANT, "signature": None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expires": "2026-11-23"}, "expired"),
        ({"issued": "2026-11-25"}, "is issued on"),
        ({"teacher": "acme/other"}, "for the teacher"),
    ],
)
def test_a_grant_that_does_not_cover_the_case_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    verdict = ask("llama2", grant=terms.read_grant(write_grant(tmp_path, **changes)))
    assert verdict.grant is None
    with pytest.raises(TermsError, match=reason):
        terms.require(verdict)


def test_a_grant_holds_on_its_last_day_for_any_teacher_and_without_end(tmp_path: Path) -> None:
    assert ask(grant=terms.read_grant(write_grant(tmp_path, expires=str(TODAY)))).allowed
    assert ask(grant=terms.read_grant(write_grant(tmp_path, expires=None, teacher="*"))).allowed


def test_a_grant_of_another_scope_does_not_count() -> None:
    grant = terms.Grant("g", "a", "b", "evaluate", "*", TODAY, None, "letter")
    assert not ask(grant=grant).allowed


def test_every_fault_of_a_grant_is_named_at_once(tmp_path: Path) -> None:
    path = write_grant(tmp_path, grantor="", scope="everything", issued=20260101, colour="red")
    with pytest.raises(InputError, match="5 fault") as caught:
        terms.read_grant(
            write_grant(tmp_path, grantor="", scope="everything", issued=20260101, colour="red", expires="x")
        )
    for name in ("grantor", "scope", "issued", "expires", "colour"):
        assert repr(name) in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "null", '{"id": 3}'])
def test_a_file_that_is_no_grant_is_an_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grant.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        terms.read_grant(path)


def test_a_missing_grant_is_an_input_error_and_dates_in_the_wrong_order_are_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such grant"):
        terms.read_grant(tmp_path / "none.json")
    with pytest.raises(InputError, match="before it is issued"):
        terms.read_grant(write_grant(tmp_path, expires="2025-12-31"))


# --- the records themselves -----------------------------------------------------------------------------------


def test_every_quote_stands_in_the_text_that_is_carried_and_the_digest_is_of_that_text() -> None:
    carried = [record for record in terms.records() if record.text is not None]
    assert len(carried) >= 12
    for record in carried:
        text = record.licence_text()
        assert text is not None
        assert terms.text_digest(text) == record.sha256, record.id
        folded = " ".join(text.split())
        for clause in record.clauses:
            assert " ".join(clause.quote.split()) in folded, (record.id, clause.topic)


def test_every_text_that_a_duty_hands_on_is_carried_and_no_other() -> None:
    owed = {
        duty.value
        for record in terms.records()
        for duty in record.duties
        if duty.kind in ("agreement_copy", "use_restrictions") and duty.value.endswith(".txt")
    }
    carried = {file.name for file in (resources.files("stillproof") / "data" / "licences").iterdir()}
    assert owed == carried


def test_record_ids_are_their_file_names() -> None:
    names = {file.name for file in (resources.files("stillproof") / "data" / "terms").iterdir()}
    assert names == {f"{record.id}.toml" for record in terms.records()}


RECORD = """
id = "x"
title = "X"
version = "1"
url = "https://x.example"
source = "s"
retrieved = 2026-11-24
evidence = "{evidence}"
{more}
decision = "{decision}"
"""
CLAUSE = '[[clauses]]\ntopic = "t"\nquote = "{quote}"\neffect = "permit"\n'


@pytest.mark.parametrize(
    ("evidence", "decision", "more", "tail"),
    [
        ("secondary", "allow", f'sha256 = "{"0" * 64}"', CLAUSE),
        ("secondary", "deny", "", CLAUSE),
        ("assumed", "deny", "", CLAUSE),
        ("official_page", "allow", f'sha256 = "{"0" * 64}"', CLAUSE),
        ("primary_text", "allow", "", CLAUSE),
        ("primary_text", "deny", "", ""),
        ("primary_text", "deny", 'own_derivative = "allow"', CLAUSE),
        ("primary_text", "perhaps", "", CLAUSE),
        ("primary_text", "deny", "colour = 3", CLAUSE),
        ("primary_text", "allow_with_duties", f'sha256 = "{"0" * 64}"', CLAUSE),
        ("primary_text", "deny", "", CLAUSE.replace("{quote}", "q" * (MAX_QUOTE_CHARS + 1))),
    ],
)
def test_a_record_that_breaks_the_rules_of_evidence_is_refused(
    evidence: str, decision: str, more: str, tail: str
) -> None:
    with pytest.raises(SchemaError, match=r"x\.toml"):
        parse_record(RECORD.format(evidence=evidence, decision=decision, more=more) + tail, "x.toml")


def test_the_strictest_of_several_parents_decides() -> None:
    answers = [ask("apache-2.0"), ask("llama2"), ask(None), ask("gemma")]
    assert terms.strictest(answers).decision == "deny"
    assert terms.strictest([answers[0], answers[3]]).decision == "allow_with_duties"
    assert terms.strictest([answers[0], answers[2]]).decision == "unknown"
