"""ancestry.py, and what admission and run folder make of it: ancestors decide, grants hold no further than they say."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.faulty_server import FaultyServer

from stillproof import distill, lineage, terms
from stillproof.config import DistillConfig
from stillproof.distill.admission import ask_terms, start_config
from stillproof.distill.card import Start, licence_keys
from stillproof.distill.ship import _owed
from stillproof.errors import BudgetError, ConfigError, TermsError
from stillproof.store import Store
from stillproof.teacher import Identity

TODAY = datetime.now(UTC).date()


def model(folder: Path, front: str) -> Path:
    """A folder that admission can read: weights of a few bytes, and a card."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights of " + folder.name.encode())
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"---\n{front}\n---\n", encoding="utf-8")
    return folder


def grant(path: Path, teacher: str, **changes: Any) -> str:
    row = {"id": path.stem, "grantor": "who permits", "grantee": "us", "scope": "train_other_model",
           "teacher": teacher, "issued": "2026-01-01", "expires": "2099-01-01", "evidence": "a letter"}  # fmt: skip
    path.write_text(json.dumps({**row, **changes}))
    return str(path)


def asked(teacher: Path, **settings: Any) -> terms.Verdict:
    """The verdict on a teacher at hand, whose layers the student keeps."""
    config = DistillConfig.model_validate(
        {"teacher": {"kind": "weights", "model": str(teacher)}, "data": {"text": "given"}, "terms": settings}
    )
    return ask_terms(config, config.teacher)


def refusal(verdict: terms.Verdict) -> str:
    with pytest.raises(TermsError) as caught:
        terms.require(verdict)
    assert caught.value.exit_code == 3
    return str(caught.value)


# --- the strictest ancestor -----------------------------------------------------------------------------------


def test_an_ancestor_that_denies_stops_a_teacher_that_allows_and_the_way_and_the_remedy_are_named(
    tmp_path: Path,
) -> None:
    model(tmp_path / "old", "license: llama2")
    model(tmp_path / "mid", 'license: mit\ndistilled_from: ["acme/old"]')
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/mid")
    parents = {"acme/mid": str(tmp_path / "mid"), "acme/old": str(tmp_path / "old")}
    verdict = asked(teacher, parents=parents)
    assert verdict.decision == "allow", "its own declaration stands as it is"
    assert not verdict.allowed
    told = refusal(verdict)
    assert "teacher <- acme/mid <- acme/old" in told
    assert "improve any other large language model" in told
    assert "terms.grants=FILE" in told and '"teacher": "acme/old"' in told


def test_an_ancestor_of_which_only_the_name_is_known_is_unknown_until_folder_or_licence_is_given(
    tmp_path: Path,
) -> None:
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/base")
    told = refusal(asked(teacher))
    assert "no licence is declared" in told
    assert 'terms.parents={"acme/base" = "..."}' in told and 'terms.licences={"acme/base" = "..."}' in told
    base = model(tmp_path / "base", "license: mit")
    assert asked(teacher, parents={"acme/base": str(base)}).allowed
    declared = asked(teacher, licences={"acme/base": "mit"})
    assert declared.allowed
    assert [(one.model, one.declared_by, one.way) for one in declared.ancestors] == [
        ("acme/base", "config", ("teacher", "acme/base"))
    ]
    assert not asked(teacher, licences={"acme/base": "llama2"}).allowed
    with pytest.raises(ConfigError, match="no such folder"):
        asked(teacher, parents={"acme/base": str(tmp_path / "none")})


def test_what_a_model_or_a_record_of_ours_says_is_not_changed_by_the_config(tmp_path: Path) -> None:
    name = "meta-llama/Llama-2-7b-hf"
    teacher = model(tmp_path / "teacher", f"license: apache-2.0\nbase_model: {name}")
    assert not asked(teacher, licences={name: "mit"}).allowed
    other = model(tmp_path / "other", "license: apache-2.0\nbase_model: acme/base")
    base = model(tmp_path / "base", "license: llama2")
    assert not asked(other, licences={"acme/base": "mit"}, parents={"acme/base": str(base)}).allowed


def test_a_lineage_that_goes_round_is_unknown(tmp_path: Path) -> None:
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/b")
    b = model(tmp_path / "b", "license: mit\nbase_model: teacher")
    assert "goes round: teacher <- acme/b <- teacher" in refusal(asked(teacher, parents={"acme/b": str(b)}))


def test_a_model_without_ancestors_is_asked_as_before(tmp_path: Path) -> None:
    verdict = asked(model(tmp_path / "teacher", "license: apache-2.0"))
    assert (verdict.allowed, verdict.ancestors, verdict.to_json()["ancestors"]) == (True, (), [])


def test_duties_to_an_ancestor_are_owed_and_its_licence_binds_the_card(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama3.1")
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/base")
    verdict = asked(teacher, parents={"acme/base": str(base)})
    assert verdict.allowed
    owed = _owed(verdict, Start(Identity("x", "weights"), verdict))
    assert {duty.kind for record, duty in owed if record.id == "llama-3.1"} >= {"name_prefix", "attribution"}
    parent = lineage.Parent("distilled_from", "teacher", None, None, "apache-2.0", verdict.to_json())
    assert licence_keys([parent], owed)["license"] == "llama3.1"


def test_a_student_says_in_its_manifest_what_its_teacher_came_from(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama2")
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/base")
    letter = grant(tmp_path / "g.json", "acme/base")
    verdict = asked(teacher, parents={"acme/base": str(base)}, grants=[letter])
    student = tmp_path / "student"
    student.mkdir()
    parent = lineage.Parent("distilled_from", "teacher", None, None, "apache-2.0", verdict.to_json())
    blank = lineage.Manifest("student", "2026-11-24", "0", (parent,), {}, {}, {}, {}, {}, {})
    lineage.write_manifest(student, blank)
    claims = {(claim.parent, claim.tie, claim.licence) for claim in lineage.claims(student)}
    assert ("acme/base", "distilled_from", "llama2") in claims
    (student / "model.safetensors").write_bytes(b"x")
    (student / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert "acme/base" in refusal(asked(student)), "whoever distils the student in turn is asked for the grant too"


# --- grants ---------------------------------------------------------------------------------------------------


def test_only_a_grant_that_names_the_ancestor_lifts_its_denial_and_it_travels_with_the_student(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama2")
    teacher = model(tmp_path / "teacher", "license: apache-2.0\nbase_model: acme/base")
    parents = {"acme/base": str(base)}
    for name in ("*", "teacher", "acme/other"):
        assert not asked(teacher, parents=parents, grant=grant(tmp_path / "g.json", name)).allowed
    lifted = asked(teacher, parents=parents, grants=[grant(tmp_path / "named.json", "acme/base")])
    assert lifted.allowed
    assert [one.id for one in lifted.grants] == ["named"]
    row = lifted.to_json()["ancestors"][0]
    assert (row["decision"], row["grant"]["id"], row["way"]) == ("deny", "named", ["teacher", "acme/base"])
    parent = lineage.Parent("distilled_from", "teacher", None, None, "apache-2.0", lifted.to_json())
    assert licence_keys([parent], ())["license_name"] == "by-recorded-grant"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"expires": str(TODAY - timedelta(days=1))}, "expired on"),
        ({"issued": str(TODAY + timedelta(days=1))}, "is issued on"),
        ({"scope": "train_other_model", "expires": "2026-01-02"}, "expired on 2026-01-02"),
    ],
)
def test_a_grant_out_of_its_days_or_for_another_model_does_not_count(
    tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    teacher = model(tmp_path / "teacher", "license: llama2")
    assert told in refusal(asked(teacher, grant=grant(tmp_path / "g.json", "teacher", **changes)))
    assert "for the teacher 'another'" in refusal(asked(teacher, grant=grant(tmp_path / "o.json", "another")))
    assert asked(teacher, grant=grant(tmp_path / "h.json", "teacher", expires=str(TODAY))).allowed


def test_of_several_grants_each_model_takes_its_own(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "license: llama2")
    teacher = model(tmp_path / "teacher", "license: somebody's own\nbase_model: acme/base")
    files = [grant(tmp_path / "one.json", "acme/base"), grant(tmp_path / "two.json", "teacher")]
    verdict = asked(teacher, parents={"acme/base": str(base)}, grants=files)
    assert verdict.allowed
    assert (verdict.grant and verdict.grant.id, verdict.ancestors[0].grant and verdict.ancestors[0].grant.id) == (
        "two", "one",
    )  # fmt: skip


def test_the_first_weights_bring_their_ancestors_too(tmp_path: Path) -> None:
    model(tmp_path / "teacher", "license: apache-2.0")
    start = model(tmp_path / "start", "license: mit\nbase_model: acme/base")
    base = model(tmp_path / "base", "license: llama2")
    config = DistillConfig.model_validate(
        {
            "teacher": {"kind": "weights", "model": str(tmp_path / "teacher")},
            "student": {"model": str(start)},
            "terms": {"parents": {"acme/base": str(base)}},
        }
    )
    verdict = ask_terms(config, start_config(config), derivative=True)
    # Llama 2 excepts its own derivatives: what started from its weights is one, what learned from its outputs is not.
    assert verdict.allowed
    assert verdict.ancestors[0].derivative
    assert not ask_terms(config, start_config(config)).allowed


# --- volume ---------------------------------------------------------------------------------------------------


N_TRAIN, N_EXAM = 19, 5
"""Of the 24 prompts below: asked for training, and asked once more by the evaluation."""


def black_box(tmp_path: Path, url: str, letter: str, **settings: Any) -> DistillConfig:
    prompts = tmp_path / "prompts.jsonl"
    if not prompts.exists():
        rows = [{"prompt": f"question number {at}", "response": f"answer {at}"} for at in range(24)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = tmp_path / "start"
    if not start.exists():
        model(start, "license: apache-2.0")
    return DistillConfig.model_validate(
        {
            "teacher": {"kind": "openai", "model": "box", "base_urls": [url], "licence": "llama2", "max_retries": 0,
                        **settings.pop("teacher", {})},
            "data": {"train": str(prompts), "text": "teacher", "heldout_share": 0.3},
            "generate": {"temperature": 0.0, "max_tokens": 8},
            "student": {"model": str(start)},
            "train": {"loss": "cross_entropy"},
            "eval": settings.pop("eval", {}),
            "terms": {"grant": letter, **settings},
        }
    )  # fmt: skip


def generated(config: DistillConfig, out: Path) -> None:
    distill.stage("generate", config, out)


def test_a_volume_that_is_too_small_is_refused_before_any_call(tmp_path: Path) -> None:
    with FaultyServer() as server:
        enough = black_box(tmp_path, server.url, grant(tmp_path / "g.json", "box", max_exchanges=N_TRAIN))
        small = black_box(tmp_path, server.url, grant(tmp_path / "h.json", "box", max_exchanges=N_TRAIN - 1))
        with pytest.raises(TermsError, match=f"this run takes {N_TRAIN}") as caught:
            generated(small, tmp_path / "small")
        assert (server.calls, caught.value.exit_code) == (0, 3)
        generated(enough, tmp_path / "enough")
        assert server.calls == N_TRAIN


def test_what_the_evaluation_will_ask_and_what_other_runs_took_count_from_the_start(tmp_path: Path) -> None:
    with FaultyServer() as server:
        letter = grant(tmp_path / "g.json", "box", max_exchanges=N_TRAIN + N_EXAM - 1)
        exam = {"answers": True, "answer_tokens": 6, "max_answers": N_EXAM}
        with pytest.raises(TermsError, match=f"this run takes {N_TRAIN + N_EXAM}"):
            generated(black_box(tmp_path, server.url, letter, eval=exam), tmp_path / "one")
        with pytest.raises(TermsError, match=f"this run takes {N_TRAIN + 5}"):
            generated(black_box(tmp_path, server.url, letter, exchanges_taken=5), tmp_path / "two")
        assert server.calls == 0
        generated(black_box(tmp_path, server.url, letter, exchanges_taken=4), tmp_path / "three")
        assert server.calls == N_TRAIN


def test_a_volume_holds_over_all_attempts_at_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FaultyServer() as server:
        letter = grant(tmp_path / "g.json", "box", max_exchanges=N_TRAIN)
        with pytest.raises(BudgetError):
            generated(black_box(tmp_path, server.url, letter, teacher={"max_requests": 9}), out)
        assert server.calls == len(Store.open(out / "exchanges")) == 9
        # The grant is cut down meanwhile: what was taken and what is still wanted are counted together.
        grant(tmp_path / "g.json", "box", max_exchanges=N_TRAIN - 1)
        with pytest.raises(TermsError, match=f"this run takes {N_TRAIN}"):
            generated(black_box(tmp_path, server.url, letter), out)
        assert server.calls == 9
        grant(tmp_path / "g.json", "box", max_exchanges=N_TRAIN)
        generated(black_box(tmp_path, server.url, letter), out)
        assert server.calls == N_TRAIN


def test_a_grant_that_ran_out_between_two_attempts_stops_the_second(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FaultyServer() as server:
        letter = grant(tmp_path / "g.json", "box")
        with pytest.raises(BudgetError):
            generated(black_box(tmp_path, server.url, letter, teacher={"max_requests": 4}), out)
        calls = server.calls
        grant(tmp_path / "g.json", "box", expires=str(TODAY - timedelta(days=1)))
        with pytest.raises(TermsError, match="expired"):
            generated(black_box(tmp_path, server.url, letter), out)
        assert server.calls == calls
