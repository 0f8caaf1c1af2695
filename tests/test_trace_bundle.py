"""An audit of outputs: asked once, resumed, sealed, replayed; otherwise inconclusive or refused, never a p-value."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from tests.toy_suspects import GREEN, GUMBEL, PROMPTS, OpenSuspect, Rule, speaking, toy_tokenizer

from stillproof.errors import (
    BudgetError,
    CustodyError,
    InputError,
    MismatchError,
    MissingSignalError,
    OutputExistsError,
    StorageError,
    TeacherError,
)
from stillproof.exchange import sha256_of
from stillproof.finding import Finding
from stillproof.teacher import Request, Teacher
from stillproof.teacher.fake import FakeTeacher
from stillproof.trace.auditing import AuditFiles, AuditLimits, audit_outputs
from stillproof.trace.bundle import _transcripts, replay, seal
from stillproof.trace.plan import Choices, read_plan, write_plan
from stillproof.trace.sealing import Sealed, text_of, verify
from stillproof.trace.tokens import TextToIds
from stillproof.trace.verdict import Transcript, _tuples
from stillproof.watermark import MarkKey, Scheme

KEY = MarkKey(GREEN, bytes(range(32)))


class Audit:
    """Files of an audit in a folder."""

    def __init__(
        self,
        folder: Path,
        choices: Choices | None = None,
        key: MarkKey = KEY,
        *,
        prompts: tuple[str, ...] = PROMPTS,
        made: datetime | None = None,
    ) -> None:
        tokenizer = toy_tokenizer(folder / "tokenizer")
        self.key, self.bundle = key, folder / "audit"
        self.files = AuditFiles(folder / "plan.json", folder / "key.json", self.bundle)
        self.files.key.write_text(json.dumps(key.to_json()))
        self.vocabulary = TextToIds(str(tokenizer)).id.vocabulary_sha256
        write_plan(self.files.plan, key, TextToIds(str(tokenizer)).id, prompts, choices, made=made)

    def run(self, suspect: Teacher, **limits: object) -> tuple[Finding, Sealed]:
        return audit_outputs(lambda: suspect, self.files, AuditLimits(**{"reveal_key": True, **limits}))

    def of(self, rule: Rule) -> Finding:
        return self.run(FakeTeacher(rule))[0]


def is_no_evidence(finding: Finding) -> bool:
    return (finding.decision, finding.log10_p, finding.log10_e) == ("inconclusive", None, None)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = Audit(tmp_path_factory.mktemp("sealed"), Choices(max_tokens=20))
    audit.run(FakeTeacher(speaking(KEY, 20)))
    return audit.bundle


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "copy"))


# --- what is found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopping", ["all", "anytime"])
@pytest.mark.parametrize("scheme", [GREEN, GUMBEL, Scheme("green", 1, account_share=0.2)], ids=str)
def test_marked_text_is_found_and_replayed_bit_for_bit(scheme: Scheme, stopping: str, tmp_path: Path) -> None:
    key = MarkKey(scheme, bytes(range(32)))
    audit = Audit(tmp_path, Choices(stopping=stopping, batch=7), key)
    # A suspect marked under the global key alone: windows of sub-keys say nothing here, and are left out.
    marking = MarkKey(replace(scheme, account_share=0.0), key.secret)
    if scheme.account_share:
        finding, bundle = audit.run(FakeTeacher(speaking(None)))
        assert finding.decision == "not_found"
    else:
        finding, bundle = audit.run(FakeTeacher(speaking(marking)))
        assert finding.decision == "found"
    again = replay(audit.bundle, bundle_sha256=bundle.digest)
    assert (again.finding, again.exact, again.same_software) == (finding, True, True)


def test_the_finding_names_plan_tokenizer_and_what_recomputes_it(sealed: Path) -> None:
    finding = replay(sealed).finding
    plan_id = sha256((sealed / "plan.json").read_bytes()).hexdigest()
    assert finding.run is not None
    assert finding.run.config_sha256 == plan_id
    assert any(plan_id in assumption for assumption in finding.assumptions)
    assert any("tokenizer" in assumption for assumption in finding.assumptions)
    assert len(finding.evidence) == len(PROMPTS)


def test_a_suspect_that_quotes_marked_prompts_is_not_accused(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    finding = audit.of(lambda request: " ".join([request.messages[-1].content or ""] * 20))
    assert finding.decision != "found"


# --- open mode -----------------------------------------------------------------------------------------------------


def test_open_mode_finds_more_in_the_same_answers_and_replays(tmp_path: Path) -> None:
    few = PROMPTS[:8]
    closed, opened = Audit(tmp_path / "c", prompts=few), Audit(tmp_path / "o", Choices(mode="open"), prompts=few)
    by_text = closed.of(speaking(KEY))
    finding, _ = opened.run(OpenSuspect(KEY, opened.vocabulary))
    assert finding.decision == "found"
    assert finding.log10_p < (by_text.log10_p or 0) - 2
    assert "open mode" in finding.test
    again = replay(opened.bundle)
    assert (again.finding, again.exact) == (finding, True)


def test_open_mode_accuses_no_innocent(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(mode="open"))
    assert audit.run(OpenSuspect(None, audit.vocabulary))[0].decision == "not_found"


def test_open_mode_never_reads_a_window_that_stands_in_the_prompt_or_earlier(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(mode="open"))
    plan, _ = read_plan(audit.files.plan)
    top = tuple(((number, -0.1),) for number in (50, 51, 52, 53, 54))
    row = Transcript("a", 200, None, (5, 6), (7, 5, 8, 7, 9), top)
    found = _tuples(plan, [row])
    assert sorted(zip(found.windows.tolist(), found.tokens.tolist(), strict=True)) == [(7, 51), (8, 53)]


@pytest.mark.parametrize("tokenizer", [None, "0" * 64], ids=["unknown", "another"])
def test_open_mode_with_another_tokenizer_is_an_error(tokenizer: str | None, tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(mode="open"))
    with pytest.raises(MissingSignalError, match="token ids"):
        audit.run(OpenSuspect(KEY, tokenizer))


def test_open_mode_without_log_probabilities_is_an_error_after_the_first_batch(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(mode="open", batch=4))
    suspect = FakeTeacher(speaking(KEY))
    with pytest.raises(MissingSignalError, match="no log-probabilities"):
        audit.run(suspect)
    assert suspect.calls == 4


# --- what decides nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopping", ["all", "anytime"])
@pytest.mark.parametrize(
    "rule",
    [lambda _: "", lambda _: "w7", lambda _: "I cannot help with that.", lambda _: "w1 w2 w3 w4 w5", lambda _: "\n \n"],
    ids=["nothing", "one token", "a refusal in words", "one cached answer", "white space"],
)
def test_a_suspect_that_says_nothing_new_is_inconclusive(rule: Rule, stopping: str, tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(stopping=stopping))
    finding = audit.of(rule)
    assert is_no_evidence(finding)
    assert replay(audit.bundle).finding == finding


@pytest.mark.parametrize("stopping", ["all", "anytime"])
def test_a_suspect_that_refuses_every_call_is_inconclusive_and_says_so(stopping: str, tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(stopping=stopping))
    suspect = FakeTeacher(status=lambda _: 403)
    finding, _ = audit.run(suspect)
    assert is_no_evidence(finding)
    assert f"{len(PROMPTS)} refused" in finding.checks[0].detail
    assert suspect.calls == len(PROMPTS), "a refusal is an answer: it is not asked again"
    assert replay(audit.bundle).finding == finding


def test_some_refusals_do_not_spoil_the_rest(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    finding, _ = audit.run(FakeTeacher(speaking(KEY), status=lambda r: 400 if r.id.endswith("1-0") else 200))
    assert finding.decision == "found"
    assert 0 < len(finding.evidence) < len(PROMPTS)


@pytest.mark.parametrize("stopping", ["all", "anytime"])
def test_answers_that_are_older_than_the_plan_prove_nothing(stopping: str, tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    finding = Audit(tmp_path, Choices(stopping=stopping), made=later).of(speaking(KEY))
    assert is_no_evidence(finding)
    assert [check.name for check in finding.checks if check.passed is False] == ["asked_after_plan"]


# --- asking --------------------------------------------------------------------------------------------------------


def test_an_audit_that_breaks_off_goes_on_without_a_repeated_call(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(batch=8))
    broken, whole = FakeTeacher(speaking(KEY), fail_after=21), FakeTeacher(speaking(KEY))
    with pytest.raises(TeacherError):
        audit.run(broken)
    assert not (audit.bundle / "finding.json").exists(), "nothing is tested before the plan is done"
    finding, _ = audit.run(whole, resume=True)
    assert broken.calls + whole.calls == len(PROMPTS)
    assert max((broken.calls_by_key + whole.calls_by_key).values()) == 1
    straight = Audit(tmp_path / "straight").of(speaking(KEY))
    assert (finding.statistic, finding.n) == (straight.statistic, straight.n)


def test_half_a_line_is_set_aside_and_asked_again(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    with pytest.raises(BudgetError):
        audit.run(FakeTeacher(speaking(KEY)), max_calls=5)
    answers = audit.bundle / "answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-30])
    suspect = FakeTeacher(speaking(KEY))
    finding, _ = audit.run(suspect, resume=True)
    assert suspect.calls == len(PROMPTS) - 4
    assert finding.decision == "found"
    assert replay(audit.bundle).finding == finding


def test_a_cap_on_calls_counts_earlier_runs_and_stops_before_it_is_passed(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    suspect = FakeTeacher(speaking(KEY))
    for cap, resume in ((10, False), (10, True), (25, True)):
        with pytest.raises(BudgetError, match=f"cap of {cap} calls"):
            audit.run(suspect, max_calls=cap, resume=resume)
        assert suspect.calls == cap
    audit.run(suspect, max_calls=len(PROMPTS), resume=True)
    assert suspect.calls == len(PROMPTS)


def test_an_anytime_audit_stops_asking_when_the_evidence_is_enough(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(stopping="anytime", batch=4))
    suspect = FakeTeacher(speaking(KEY))
    finding, _ = audit.run(suspect)
    assert finding.decision == "found"
    assert suspect.calls < len(PROMPTS)
    assert suspect.calls % 4 == 0


def test_another_suspect_may_not_finish_an_audit(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    with pytest.raises(BudgetError):
        audit.run(FakeTeacher(speaking(KEY)), max_calls=5)
    with pytest.raises(MismatchError, match="another suspect"):
        audit.run(FakeTeacher(speaking(KEY), model="other"), resume=True)


def test_one_audit_is_run_by_one_process(tmp_path: Path) -> None:
    audit = Audit(tmp_path)

    def rule(request: Request) -> str:
        with pytest.raises(StorageError):
            audit.run(FakeTeacher(speaking(KEY)), resume=True)
        return "w1"

    audit.of(rule)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.bundle.mkdir()
    (audit.bundle / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="something else"):
            audit.run(FakeTeacher(speaking(KEY)), resume=resume)
    assert [path.name for path in audit.bundle.iterdir()] == ["notes.txt"]


# --- tampering -----------------------------------------------------------------------------------------------------

FILES = ("plan.json", "begun.json", "answers.jsonl", "transcripts.jsonl", "finding.json", "key.json", "bundle.json")


def test_a_bundle_is_these_files(sealed: Path) -> None:
    assert {path.name for path in sealed.iterdir()} == set(FILES)


@pytest.mark.parametrize("place", [0.0, 0.37, 0.8, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_one_byte_changed_is_named(name: str, place: float, copy: Path) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises((MismatchError, InputError), match=name.replace(".", r"\.")):
        replay(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        replay(copy)


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    path = copy / "bundle.json"
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(Exception, match=r"bundle\.json"):
            verify(copy)
    path.write_bytes(raw + b" ")
    with pytest.raises(MismatchError):
        verify(copy)


def test_a_file_that_was_added_is_named(copy: Path) -> None:
    (copy / "more.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"more\.jsonl"):
        replay(copy)


def resealed(folder: Path, name: str, change: Callable[[str], str]) -> None:
    """What a forger does: change a file, and every digest that covers it."""
    path = folder / name
    path.write_text(change(path.read_text()))
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][name] = {"sha256": sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    if name == "plan.json":
        manifest["plan_id"] = sha256(path.read_bytes()).hexdigest()
    manifest["digest"] = sha256_of({k: v for k, v in manifest.items() if k != "digest"})
    (folder / "bundle.json").write_text(text_of(manifest))


def first_line_dropped(text: str) -> str:
    return text.split("\n", 1)[1]


def first_token_changed(text: str) -> str:
    line, rest = text.split("\n", 1)
    row = json.loads(line)
    row["answer_ids"][5] = (row["answer_ids"][5] + 1) % 200
    return json.dumps(row) + "\n" + rest


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("transcripts.jsonl", first_token_changed),
        ("transcripts.jsonl", first_line_dropped),
        ("transcripts.jsonl", lambda text: text.rsplit("\n", 2)[0] + "\n"),
        ("transcripts.jsonl", lambda text: text + "not json\n"),
        ("answers.jsonl", lambda text: text.rsplit("\n", 2)[0] + "\n"),
        ("answers.jsonl", lambda text: text.replace('"status":200', '"status":403', 1)),
        ("finding.json", lambda text: text.replace('"n": ', '"n": 1')),
        ("plan.json", lambda text: text.replace('"alpha": 0.001', '"alpha": 0.002')),
        ("plan.json", lambda text: text.replace('"seed": 0', '"seed": 1')),
    ],
)
def test_a_forger_who_reseals_is_caught_where_the_parts_contradict(
    name: str, change: Callable[[str], str], copy: Path
) -> None:
    published = verify(copy).digest
    resealed(copy, name, change)
    with pytest.raises((MismatchError, InputError)):
        replay(copy)
    with pytest.raises(MismatchError, match="of that digest"):
        replay(copy, bundle_sha256=published)


def test_a_published_digest_catches_a_bundle_that_is_sound_but_another(copy: Path) -> None:
    published = verify(copy).digest
    resealed(copy, "begun.json", lambda text: text.replace('"fake"', '"other"'))
    assert replay(copy).exact
    with pytest.raises(MismatchError, match="of that digest"):
        replay(copy, bundle_sha256=published)


def test_token_ids_that_the_text_does_not_have_are_caught_with_the_tokenizer(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(max_tokens=20))
    audit.run(FakeTeacher(speaking(None, 20)))
    tokenizer = str(tmp_path / "tokenizer")
    assert replay(audit.bundle, tokenizer=tokenizer).exact
    # A forger who writes marked token ids beside innocent text, and concludes from them.
    plan, plan_id = read_plan(audit.files.plan)
    rows = [replace(row, answer_ids=row.answer_ids[::-1]) for row in _transcripts(audit.bundle / "transcripts.jsonl")]
    seal(audit.bundle, plan, plan_id, KEY, rows, reveal_key=True)
    assert replay(audit.bundle).exact
    with pytest.raises(MismatchError, match="token ids"):
        replay(audit.bundle, tokenizer=tokenizer)


def test_a_revealed_key_of_another_secret_is_refused(copy: Path) -> None:
    resealed(copy, "key.json", lambda _: json.dumps(MarkKey(GREEN, bytes(32)).to_json()))
    with pytest.raises(MismatchError):
        replay(copy)


def test_a_sealed_key_is_asked_for(tmp_path: Path) -> None:
    audit = Audit(tmp_path, Choices(max_tokens=20))
    finding, _ = audit.run(FakeTeacher(speaking(KEY, 20)), reveal_key=False)
    assert KEY.secret.hex() not in "".join(path.read_text() for path in audit.bundle.iterdir())
    with pytest.raises(CustodyError, match="sealed"):
        replay(audit.bundle)
    assert replay(audit.bundle, audit.files.key).finding == finding


def test_no_bundle_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bundle\.json"):
        replay(tmp_path / "none")
