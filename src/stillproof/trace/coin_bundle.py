"""The evidence of an audit by twins or cards as a folder that a stranger can check: sealed once, replayed from itself.

    plan.json      what was fixed before the first query; its SHA-256 is the plan's id
    begun.json     who was asked
    served.jsonl   both candidates of every twin with their prompts, or the cards: all but the coins; the plan's digest
    coins.jsonl    the coins, line by line; those that the key gives, where it is revealed or given
    answers.jsonl  what the suspect answered, or its log-probabilities of what it read
    finding.json   what was concluded
    accounts.json  the findings of accounts, where the plan names some
    key.json       the opening of the coins' key, where it was revealed
    bundle.json    digest of every file, versions, seed, commitment; and its own digest

The bundle holds answers that were served, and the sealed twins of them: whoever gets it gets those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import stillproof
from stillproof.errors import CustodyError, MismatchError
from stillproof.exchange import Exchange
from stillproof.serve.custody import Opening, read_opening
from stillproof.store.disk import remove_file
from stillproof.store.jsonl import read_jsonl
from stillproof.teacher import Request
from stillproof.trace.bundle import Replay
from stillproof.trace.coin_plan import CoinPlan, check_opening, check_served, read_any_plan
from stillproof.trace.coin_verdict import Verdict, judge_coins
from stillproof.trace.sealing import (
    ASK,
    COINS_FILE,
    KEY_FILE,
    SERVED_FILE,
    Head,
    Sealed,
    compared,
    read_bytes,
    software,
    stored_findings,
    text_of,
    verify,
    write_findings,
    write_manifest,
    write_text,
)
from stillproof.trace.served import Served, check_coins, served_of
from stillproof.trace.suspect import ANSWERS_FILE, BEGUN_FILE, PLAN_FILE

_CODE = (
    "finding.py",
    "canary.py",
    "data/forms.toml",
    *(
        f"trace/{name}.py"
        for name in ("twins", "cards", "pairs", "places", "flips", "served", "coin_plan", "coin_verdict")
    ),
    *(f"serve/{name}.py" for name in ("twins", "ledger", "custody")),
    *(f"stats/{name}.py" for name in ("intervals", "p_values")),
)


def seal_coins(
    folder: Path,
    plan: CoinPlan,
    plan_id: str,
    served: Served,
    answers: Sequence[Exchange],
    *,
    opening: Opening,
    reveal_key: bool = False,
) -> tuple[Sealed, Verdict]:
    """Conclude an audit whose answers are in `folder`, and seal it. `answers`: in the plan's order."""
    verdict = judge_coins(plan, plan_id, served, {one.id: one for one in answers}, stillproof.__version__)
    write_text(folder / SERVED_FILE, served.blind_text())
    write_text(folder / COINS_FILE, served.coin_text())
    names = [PLAN_FILE, BEGUN_FILE, ANSWERS_FILE, SERVED_FILE, COINS_FILE]
    names += write_findings(folder, verdict.finding, None if plan.accounts is None else verdict.accounts)
    if reveal_key:
        write_text(folder / KEY_FILE, text_of(asdict(opening)))
        names.append(KEY_FILE)
    else:
        remove_file(folder / KEY_FILE)
    times = [one.time for one in answers if one.time is not None]
    head = Head(plan.test, plan_id, plan.commitment, reveal_key, plan.seed, _CODE)
    return replace(write_manifest(folder, head, names, times), accounts=verdict.accounts), verdict


def replay_coins(folder: Path, key_path: Path | None = None, *, bundle_sha256: str | None = None) -> Replay:
    """Check every file of a bundle of twins or cards, compute its findings again, and compare.

    Raises what `verify` raises; CustodyError where the key is sealed and none is given; MismatchError where the key,
    a coin, what was served, the calls or the finding is another.
    """
    sealed = verify(folder, bundle_sha256=bundle_sha256)
    plan, plan_id = read_any_plan(folder / PLAN_FILE, plan_id=str(sealed.manifest["plan_id"]))
    if not isinstance(plan, CoinPlan) or plan.test != sealed.manifest["test"]:
        raise MismatchError("the plan is of another test than the bundle", str(folder / PLAN_FILE), ASK)
    opening = _opening_of(sealed, key_path)
    check_opening(plan, opening)
    served = served_of(read_bytes(folder / SERVED_FILE), read_bytes(folder / COINS_FILE))
    check_served(plan, served)
    check_coins(served, opening)
    answers = {exchange.id: exchange for exchange in read_jsonl(folder / ANSWERS_FILE)}
    _check_calls(folder, plan, plan.requests(plan_id, served), answers)
    verdict = judge_coins(plan, plan_id, served, answers, str(sealed.manifest["software"]["stillproof"]))
    exact = compared(verdict.every, stored_findings(folder), sealed, _CODE)
    return Replay(sealed, verdict.finding, exact, sealed.manifest["software"] == software(_CODE), verdict.accounts)


def _opening_of(sealed: Sealed, key_path: Path | None) -> Opening:
    if key_path is None and sealed.manifest["key"] != "revealed":
        raise CustodyError(
            "the key of this bundle is sealed", str(sealed.folder), "give --key FILE, or ask its owner to reveal it"
        )
    return read_opening(key_path if key_path is not None else sealed.folder / KEY_FILE)


def _check_calls(folder: Path, plan: CoinPlan, requests: Sequence[Request], answers: Mapping[str, Exchange]) -> None:
    """The calls are the first ones of the plan, all of them unless it may stop early, and ask what it says."""
    path = folder / ANSWERS_FILE
    asked = requests[: len(answers)]
    if {request.id for request in asked} != answers.keys():
        raise MismatchError("the calls are not those of the plan", str(path), ASK)
    if plan.stopping == "all" and len(asked) < len(requests):
        raise MismatchError("calls of the plan are missing", str(path), ASK)
    for request in asked:
        if answers[request.id].messages != request.messages:
            raise MismatchError(f"{request.id} asks another prompt than the plan", str(path), ASK)
        text = request.messages[-1].content
        if plan.test == "twins" and plan.score == "logprobs" and answers[request.id].response not in (None, text):
            raise MismatchError(f"{request.id} read another text than the plan says", str(path), ASK)
