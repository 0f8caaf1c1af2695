"""Which of the three students learned from served answers, and from whose; where their weights come from; what the
licensed one owes.

Nine tests, three a student, in one family: Holm pays for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from stillproof.demo import prose
from stillproof.demo.learning import STUDENTS, Classroom
from stillproof.demo.models import HOUSE, START, Chatter
from stillproof.demo.serving import CARDS, COINS, Custody
from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size
    from stillproof.finding import Finding
    from stillproof.teacher import Teacher
    from stillproof.trace.coin_plan import CoinPlan, Control
    from stillproof.trace.served import Served

Test = Literal["radioactivity", "twins", "cards"]
TESTS: tuple[Test, ...] = get_args(Test)


@dataclass(frozen=True, slots=True)
class Bench:
    """Files of the audits in the demo's folder."""

    out: Path

    def plan(self, test: Test) -> Path:
        return self.out / "plans" / f"{test}.json"

    def bundle(self, name: str, test: Test) -> Path:
        return self.out / "audits" / f"{name}-{test}"

    def key(self, test: Test) -> Path:
        custody = Custody(self.out)
        if test == "radioactivity":
            return custody.mark
        return custody.opening(COINS if test == "twins" else CARDS)


def plan(size: Size, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """The three plans, fixed before any suspect is asked; their ids are what an owner would publish now."""
    from stillproof.serve.custody import read_opening
    from stillproof.trace.coin_plan import CoinChoices, ProbePrompt, write_coin_plan
    from stillproof.trace.key_file import read_mark_key
    from stillproof.trace.plan import Choices, write_plan
    from stillproof.trace.served import read_served
    from stillproof.trace.tokens import TextToIds

    custody, bench, chatter = Custody(out), Bench(out), Chatter(size.seed)
    ids: dict[str, Any] = {}
    given = size.audit
    if not bench.plan("radioactivity").exists():
        prompts = prose.prompts(chatter.rng("audit"), given.prompts)
        choices = Choices(seed=size.seed, max_tokens=given.tokens)
        tokenizer = TextToIds(str(out / HOUSE)).id
        write_plan(bench.plan("radioactivity"), read_mark_key(custody.mark), tokenizer, prompts, choices)
    for test in ("twins", "cards"):
        if bench.plan(test).exists():
            continue
        opening = read_opening(bench.key(test))
        served = read_served(custody.store, custody.ledger, test, opening)
        probes = ()
        if test == "cards":
            texts = prose.prompts(chatter.rng("probes"), given.card_prompts)
            probes = tuple(ProbePrompt(prompt=text, scope="") for text in texts)
        chosen = CoinChoices(seed=size.seed, max_tokens=given.tokens, accounts=())
        controls = _controls(size, out, served) if test == "twins" else ()
        write_coin_plan(bench.plan(test), test, served, opening, chosen, prompts=probes, controls=controls)
    for test in TESTS:
        from hashlib import sha256

        ids[test] = sha256(bench.plan(test).read_bytes()).hexdigest()
    return {"plan_ids": ids}


def _controls(size: Size, out: Path, served: Served) -> tuple[Control, ...]:
    """What the owner's own model makes of the twins, and the open model that a suspect may have begun from.

    Neither learned from anything that was served: they know how usual each candidate is, and of no coin.
    """
    from contextlib import closing

    from stillproof.trace.control import read_control
    from stillproof.trace.reading import open_reader

    found: list[Control] = []
    for folder in (HOUSE, START):
        with closing(open_reader(_asked(size, out / folder))) as reader:
            found.append(read_control(reader, served))
    return tuple(found)


def audit(size: Size, out: Path, name: str, test: Test, on_event: OnEvent = ignore) -> dict[str, Any]:
    """One student under one plan, sealed in a bundle of its own."""
    from stillproof.trace.auditing import AuditFiles, AuditLimits, audit_outputs
    from stillproof.trace.coin_audit import CoinFiles, audit_coins

    bench, custody, limits = Bench(out), Custody(out), AuditLimits(resume=True)
    bundle = bench.bundle(name, test)
    sealed = _sealed(bundle)
    if sealed is None and test == "radioactivity":
        files = AuditFiles(bench.plan(test), bench.key(test), bundle)
        audit_outputs(lambda: _suspect(size, out, name), files, limits, on_event)
    elif sealed is None:
        coin_files = CoinFiles(bench.plan(test), bench.key(test), custody.store, custody.ledger, bundle)
        audit_coins(lambda of: _reader(size, out, name, of), coin_files, limits, on_event)
    return {"bundle": str(bundle.relative_to(out))}


def _sealed(bundle: Path) -> Path | None:
    from stillproof.trace.suspect import SEALED_FILE

    return bundle if (bundle / SEALED_FILE).exists() else None


def _suspect(size: Size, out: Path, name: str) -> Teacher:
    from stillproof.teacher import open_teacher

    return open_teacher(_config(size, out, name))


def _reader(size: Size, out: Path, name: str, plan_of: CoinPlan) -> Teacher:
    from stillproof.trace.reading import open_reader

    return open_reader(_config(size, out, name)) if plan_of.test == "twins" else _suspect(size, out, name)


def _config(size: Size, out: Path, name: str) -> Any:
    return _asked(size, Classroom(out).student(name))


def _asked(size: Size, folder: Path) -> Any:
    from stillproof.trace.suspect import suspect_config

    config = suspect_config(str(folder))
    return config.model_copy(update={"batch_size": min(size.batch, 64)})


# --- what the bundles say -----------------------------------------------------------------------------------------


def verdicts(out: Path) -> dict[str, Any]:
    """The sealed findings, paid for together. A test that could not decide has no p-value and is no member of the
    family."""
    from stillproof.finding import holm
    from stillproof.trace.sealing import stored_findings

    bench = Bench(out)
    places = [(name, test) for name in STUDENTS for test in TESTS]
    stored = {place: stored_findings(bench.bundle(*place)) for place in places}
    found = {place: findings[0] for place, findings in stored.items()}
    numbered = [place for place in places if found[place].log10_p is not None]
    paid = dict(zip(numbered, holm([found[place] for place in numbered]), strict=True))
    told: dict[str, Any] = {name: {"accounts": {}} for name in STUDENTS}
    for name, test in places:
        told[name][test] = _row(paid.get((name, test), found[name, test]), bench.bundle(name, test), out)
        told[name]["accounts"][test] = _accounts(stored[name, test][1:])
    for name in STUDENTS:
        adjusted = [told[name][test]["log10_p_adjusted"] for test in TESTS]
        told[name]["best_log10_p_adjusted"] = min((value for value in adjusted if value is not None), default=None)
    return told


def _row(finding: Finding, bundle: Path, out: Path) -> dict[str, Any]:
    return {
        "log10_p": finding.log10_p,
        "log10_p_adjusted": finding.log10_p_adjusted,
        "decision": finding.decision,
        "n": finding.n,
        "n_unit": finding.n_unit,
        "claim": finding.claim,
        "failed_checks": [f"{check.name}: {check.detail}" for check in finding.checks if check.passed is False],
        "bundle": str(bundle.relative_to(out)),
    }


def _accounts(further: Sequence[Finding]) -> list[dict[str, Any]]:
    """Accounts whose own finding found, after Holm over all accounts of the plan, strongest first."""
    named = [
        (finding.log10_p_adjusted or 0.0, finding.accounts[0]) for finding in further if finding.decision == "found"
    ]
    return [{"account": account, "log10_p_adjusted": adjusted} for adjusted, account in sorted(named)]


def whose(named: Iterable[Mapping[str, Any]], members: Mapping[str, set[str]]) -> dict[str, int]:
    """How many of the accounts named are of each group."""
    accounts = {row["account"] for row in named}
    return {group: len(accounts & own) for group, own in members.items()}


def replay(out: Path) -> dict[str, Any]:
    """Compute the copier's three findings again, from the bundles alone."""
    from stillproof.trace.bundle import replay as replay_text
    from stillproof.trace.coin_bundle import replay_coins

    bench = Bench(out)
    told: dict[str, Any] = {}
    for test in TESTS:
        bundle = bench.bundle("copier", test)
        again = replay_text if test == "radioactivity" else replay_coins
        done = again(bundle, bench.key(test))
        told[test] = {"exact": done.exact, "bundle_sha256": done.sealed.digest, "log10_p": done.finding.log10_p}
    return told


# --- weights and lineage ------------------------------------------------------------------------------------------


def descent(size: Size, out: Path, name: str) -> dict[str, Any]:
    """Do a student's weights come from the start, or from the house model? And what does its folder declare and owe?"""
    from stillproof.trace.lineage_check import check_lineage, findings_as_test
    from stillproof.trace.weights import compare

    folder = Classroom(out).student(name)
    parents = {START: out / START, HOUSE: out / HOUSE}
    compared = {parent: compare(path, folder) for parent, path in parents.items()}
    told = {parent: _short(made.to_json()) for parent, made in compared.items()}
    findings = {parents[parent]: made.lead for parent, made in compared.items()}
    lineage = check_lineage(folder, known=parents, test=findings_as_test(findings))
    return {"weights": told, "lineage": lineage, "certificate": _certificate(folder)}


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: row.get(key) for key in ("test", "decision", "log10_p", "log10_p_adjusted", "n", "n_unit", "direction")
    }


def _certificate(folder: Path) -> dict[str, Any] | None:
    """The manifest of a shipped folder, held against its files; None where there is none."""
    from stillproof.lineage import MANIFEST
    from stillproof.trace.certificate import verify_folder

    if not (folder / MANIFEST).exists():
        return None
    found = verify_folder(folder)
    return {key: found[key] for key in ("whole", "signature", "files", "exchanges", "gate")}
