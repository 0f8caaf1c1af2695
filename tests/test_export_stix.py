import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.errors import InputError, SchemaError
from stillproof.exchange import Exchange, Message, content_hash
from stillproof.finding import Check, Effect, Finding, Run, Signal
from stillproof.report.stix import EXTENSION, extension_schema, read_stix, shareable, to_stix

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = b"k" * 32
PROMPTS = [f"Explain step {number} of the proof" for number in range(10_000)]


def named(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def of_prompt(prompt: str) -> str:
    return content_hash(Exchange("", (Message("user", prompt),), None))[:40]


def found(n_accounts: int = 3, evidence: tuple[str, ...] = ("e-1", "e-2")) -> Finding:
    accounts = tuple(named(f"account {number}") for number in range(n_accounts))
    return Finding(
        claim=f"{n_accounts} accounts act as one, {accounts[0]} first",
        verb="guard",
        test="ranks",
        kind="reference_based",
        null="honest clusters",
        statistic=41.5,
        n=1000,
        n_unit="exchanges",
        decision="found",
        alpha=0.01,
        log10_p=-3.0,
        n_reference=5000,
        effect=Effect("share", "1", 0.5, 0.4, 0.6, 0.95),
        checks=(Check("enough", True, f"of {accounts[-1]}"),),
        evidence=evidence,
        run=Run("stillproof guard scan", "c" * 64, "0.1.0", 7),
        accounts=accounts,
        signals=(Signal("evenness", "pace", None, "bits", 3.0, "added"),),
    )


def as_text(finding: Finding) -> str:
    return json.dumps(to_stix(finding, KEY, made=NOW))


@given(st.integers(0, 30), st.floats(-1e6, 1e6), st.text(min_size=1).filter(str.strip))
def test_a_bundle_gives_back_all_that_was_shared(n: int, statistic: float, claim: str) -> None:
    finding = replace(found(max(n, 1)), statistic=statistic, claim=claim)
    finding = finding if n else replace(finding, accounts=())
    back = read_stix(json.loads(as_text(finding)), NOW)
    assert back == shareable(finding, KEY)
    same = {"accounts": (), "evidence": (), "claim": "x", "checks": ()}
    assert replace(back, **same) == replace(finding, **same)


def test_no_account_and_no_exchange_id_is_in_a_bundle_not_even_inside_a_text() -> None:
    finding = found(5)
    text = as_text(finding)
    assert [name for name in (*finding.accounts, '"e-1"') if name in text] == []


def test_a_finding_of_400_accounts_is_below_150_kb() -> None:
    evidence = tuple(of_prompt(prompt) + "-0" for prompt in PROMPTS[:1000])
    assert len(json.dumps(to_stix(found(400, evidence), KEY, made=NOW), separators=(",", ":"))) < 150_000


def test_no_prompt_of_a_dictionary_is_recovered_without_the_key_and_all_are_with_it() -> None:
    evidence = tuple(of_prompt(prompt) + "-0" for prompt in PROMPTS)
    text = as_text(found(1, evidence))

    def tried(prompt: str, key: bytes) -> list[str]:
        raw, digest = of_prompt(prompt), hashlib.sha256(prompt.encode()).hexdigest()
        inside = f"exchange\0{raw}-0".encode()
        plain = hashlib.sha256(inside).hexdigest()[:32]
        return [prompt, raw, digest[:32], plain, hmac.new(key, inside, hashlib.sha256).hexdigest()[:32]]

    shared = set(read_stix(json.loads(text), NOW).evidence)
    assert PROMPTS[0] not in text
    assert sum(bool(shared & set(tried(prompt, b"g" * 32))) for prompt in PROMPTS) == 0
    assert sum(bool(shared & set(tried(prompt, KEY))) for prompt in PROMPTS) == len(PROMPTS)


def test_a_bundle_whose_time_has_passed_is_refused() -> None:
    bundle = to_stix(found(), KEY, made=NOW, days=30)
    assert read_stix(bundle, NOW + timedelta(days=29)).claim
    with pytest.raises(InputError, match="expired"):
        read_stix(bundle, NOW + timedelta(days=30))


def test_only_what_was_found_is_shared() -> None:
    doubtful = replace(found(), decision="inconclusive")
    with pytest.raises(InputError, match="inconclusive"):
        to_stix(doubtful, KEY, made=NOW)


@pytest.mark.parametrize("bundle", [{}, {"objects": 3}, {"objects": [{"type": "campaign"}]}, {"objects": [[]]}])
def test_a_foreign_bundle_is_a_schema_error(bundle: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        read_stix(bundle, NOW)


def test_a_bundle_that_lost_an_account_is_refused() -> None:
    bundle = to_stix(found(), KEY, made=NOW)
    grouping = next(row for row in bundle["objects"] if row["type"] == "grouping")
    grouping["object_refs"].pop()
    with pytest.raises(InputError, match="2 accounts of 3"):
        read_stix(bundle, NOW)


def extension_of(bundle: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in bundle["objects"] if row["type"] == "campaign")["extensions"][EXTENSION]


def schema_in(bundle: dict[str, Any]) -> dict[str, Any]:
    """The schema that the bundle itself brings."""
    definition = next(row for row in bundle["objects"] if row["type"] == "extension-definition")
    assert definition["id"] == EXTENSION
    return json.loads(definition["schema"])


@given(st.integers(0, 4), st.floats(-1e6, 1e6), st.text(min_size=1).filter(str.strip), st.booleans())
def test_every_export_is_valid_under_the_schema_it_brings(n: int, statistic: float, claim: str, bare: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    finding = replace(found(max(n, 1)), statistic=statistic, claim=claim)
    if bare:
        finding = replace(finding, effect=None, run=None, checks=(), signals=(), evidence=(), statistic=None)
    bundle = json.loads(as_text(finding))
    validator = jsonschema.Draft202012Validator(schema_in(bundle))
    assert list(validator.iter_errors(extension_of(bundle))) == []


def test_the_schema_is_sound_and_refuses_what_is_no_export() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    bundle = json.loads(as_text(found()))
    assert schema_in(bundle) == extension_schema()
    jsonschema.Draft202012Validator.check_schema(extension_schema())
    validator = jsonschema.Draft202012Validator(extension_schema())
    whole = extension_of(bundle)
    for path, value in (
        (("finding", "log10_p"), 0.5),
        (("finding", "decision"), "inconclusive"),
        (("finding", "evidence"), ["e-1"]),
        (("finding", "accounts"), ["a name"]),
        (("finding", "prompt"), "hello"),
        (("valid_until",), "soon"),
        (("tlp",), "clear"),
        (("prompts",), []),
    ):
        changed = json.loads(json.dumps(whole))
        (changed if len(path) == 1 else changed[path[0]])[path[-1]] = value
        assert not validator.is_valid(changed), path
    for name in whole["finding"]:
        changed = json.loads(json.dumps(whole))
        del changed["finding"][name]
        assert not validator.is_valid(changed), name


def test_what_is_the_same_in_every_bundle_is_the_same_object() -> None:
    """STIX: one id, one version, one content."""
    first = to_stix(found(1), KEY, made=NOW)
    second = to_stix(found(2), b"o" * 32, made=NOW + timedelta(days=3), operator="another")
    kinds = ("extension-definition", "attack-pattern", "identity", "marking-definition")
    by_id: dict[str, dict[str, Any]] = {}
    for row in (*first["objects"], *second["objects"]):
        if row["type"] in kinds:
            assert by_id.setdefault(row["id"], row) == row
    assert len([row for row in by_id.values() if row["type"] == "identity"]) == 3


def test_every_reference_of_a_bundle_is_to_an_object_in_it() -> None:
    bundle = to_stix(found(), KEY, made=NOW)
    ids = {row["id"] for row in bundle["objects"]}
    ends = ("created_by_ref", "source_ref", "target_ref")
    refs = {row[end] for row in bundle["objects"] for end in ends if end in row}
    refs |= {
        ref for row in bundle["objects"] for ref in [*row.get("object_refs", ()), *row.get("object_marking_refs", ())]
    }
    assert refs <= ids


def test_a_finding_on_weights_names_no_technique_and_one_on_a_student_of_ones_own_is_not_exported() -> None:
    def techniques(finding: Finding) -> set[str]:
        rows = to_stix(finding, KEY, made=NOW)["objects"]
        return {row["external_references"][0]["external_id"] for row in rows if row["type"] == "attack-pattern"}

    assert techniques(found()) == {"AML.T0024.002", "AML.T0040", "AML.T0021"}
    assert techniques(replace(found(), verb="trace", test="radioactivity, open mode")) == {"AML.T0024.002"}
    assert techniques(replace(found(), verb="trace", test="unit_labels")) == set()
    with pytest.raises(InputError, match="a student of your own"):
        to_stix(replace(found(), verb="distill"), KEY, made=NOW)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_bundle_is_stix_2_1_and_names_atlas_techniques() -> None:
    stix2 = pytest.importorskip("stix2")
    parsed = stix2.parse(to_stix(found(), KEY, made=NOW), version="2.1")
    patterns = [row for row in parsed.objects if row["type"] == "attack-pattern"]
    assert {row["external_references"][0]["external_id"] for row in patterns} >= {"AML.T0024.002", "AML.T0040"}
