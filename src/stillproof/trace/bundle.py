"""The evidence of an audit by radioactivity as a folder that a stranger can check: sealed once, replayed from itself.

    plan.json          what was fixed before the first query; its SHA-256 is the plan's id
    begun.json         who was asked, as far as it can be known
    answers.jsonl      the exchanges: prompts and answers as text
    transcripts.jsonl  the same as token ids, in the order in which they count
    finding.json       what was concluded
    accounts.json      the findings of accounts, where the plan names some
    key.json           the key, where it was revealed; else the bundle is sealed and a replay asks for the key
    bundle.json        digest of every file, versions, seed, commitment; and its own digest

Digests show that a file was changed by accident, or by somebody who does not re-seal. Against its own maker a bundle
holds only as far as the plan's id and the bundle's digest were published, and the key's commitment before that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import stillproof
from stillproof.errors import CustodyError, InputError, MismatchError
from stillproof.exchange import Exchange
from stillproof.finding import Finding
from stillproof.store.disk import remove_file
from stillproof.store.jsonl import read_jsonl
from stillproof.trace.key_file import read_mark_key
from stillproof.trace.plan import Plan, read_plan
from stillproof.trace.sealing import (
    ASK,
    KEY_FILE,
    TRANSCRIPTS_FILE,
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
from stillproof.trace.suspect import ANSWERS_FILE, BEGUN_FILE, PLAN_FILE
from stillproof.trace.tokens import TextToIds, open_tokenizer
from stillproof.trace.verdict import Candidates, Transcript, judge, judge_accounts, transcript_of
from stillproof.watermark import MarkKey

_CODE = (
    "finding.py",
    *(f"trace/{name}.py" for name in ("evidence", "radioactivity", "tails", "verdict")),
    *(f"watermark/{name}.py" for name in ("keys", "prf", "scoring")),
    *(f"stats/{name}.py" for name in ("intervals", "p_values")),
)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found: the findings, equal to the sealed ones."""

    sealed: Sealed
    finding: Finding
    exact: bool
    """Equal in every bit; else up to ROUNDING, and then only where software or processor differ."""
    same_software: bool
    accounts: tuple[Finding, ...] = ()


def seal(
    folder: Path, plan: Plan, plan_id: str, key: MarkKey, rows: Sequence[Transcript], *, reveal_key: bool = False
) -> tuple[Sealed, Finding]:
    """Conclude an audit whose answers are in `folder`, and seal it. `rows`: its calls in the plan's order."""
    finding = judge(plan, plan_id, key, rows, stillproof.__version__)
    accounts = judge_accounts(plan, plan_id, key, rows, stillproof.__version__)
    write_text(folder / TRANSCRIPTS_FILE, "".join(_line(row) for row in rows))
    names = [PLAN_FILE, BEGUN_FILE, ANSWERS_FILE, TRANSCRIPTS_FILE, *write_findings(folder, finding, accounts)]
    if reveal_key:
        write_text(folder / KEY_FILE, text_of(key.to_json()))
        names.append(KEY_FILE)
    else:
        remove_file(folder / KEY_FILE)
    times = [row.time for row in rows if row.time is not None]
    head = Head(plan.test, plan_id, key.commitment, reveal_key, plan.seed, _CODE)
    return replace(write_manifest(folder, head, names, times), accounts=tuple(accounts or ())), finding


def replay(
    folder: Path, key_path: Path | None = None, *, bundle_sha256: str | None = None, tokenizer: str | None = None
) -> Replay:
    """Check every file of a bundle of radioactivity, compute its findings again, and compare.

    `tokenizer`: the plan's, where it is at hand; then it is checked too that the token ids are those of the text.
    Raises what `verify` raises; CustodyError where the key is sealed and none is given; MismatchError where the key,
    the order of calls, the token ids or the finding is another.
    """
    sealed = verify(folder, bundle_sha256=bundle_sha256)
    plan, plan_id = read_plan(folder / PLAN_FILE, plan_id=str(sealed.manifest["plan_id"]))
    key = _key_of(sealed, key_path)
    rows = _transcripts(folder / TRANSCRIPTS_FILE)
    to_ids = None if tokenizer is None else open_tokenizer(plan.tokenizer, tokenizer)
    _check_calls(folder, plan, plan_id, rows, to_ids)
    version = str(sealed.manifest["software"]["stillproof"])
    finding = judge(plan, plan_id, key, rows, version)
    accounts = judge_accounts(plan, plan_id, key, rows, version) or ()
    exact = compared([finding, *accounts], stored_findings(folder), sealed, _CODE)
    return Replay(sealed, finding, exact, sealed.manifest["software"] == software(_CODE), tuple(accounts))


def _key_of(sealed: Sealed, key_path: Path | None) -> MarkKey:
    revealed = sealed.folder / KEY_FILE
    if key_path is None and sealed.manifest["key"] != "revealed":
        raise CustodyError(
            "the key of this bundle is sealed", str(sealed.folder), "give --key FILE, or ask its owner to reveal it"
        )
    return read_mark_key(key_path if key_path is not None else revealed)


def _check_calls(folder: Path, plan: Plan, plan_id: str, rows: Sequence[Transcript], to_ids: TextToIds | None) -> None:
    """The calls are the first ones of the plan, in its order, and the answers are those that were written down."""
    path = folder / TRANSCRIPTS_FILE
    requests = plan.requests(plan_id)
    if [row.id for row in rows] != [request.id for request in requests[: len(rows)]]:
        raise MismatchError("the calls are not those of the plan", str(path), ASK)
    if plan.stopping == "all" and len(rows) < len(requests):
        raise MismatchError("calls of the plan are missing", str(path), ASK)
    answers = {exchange.id: exchange for exchange in read_jsonl(folder / ANSWERS_FILE)}
    if set(answers) != {row.id for row in rows}:
        raise MismatchError("other calls than the transcripts have", str(folder / ANSWERS_FILE), ASK)
    for row, request in zip(rows, requests, strict=False):
        if not _belongs(answers[row.id], row) or answers[row.id].messages != request.messages:
            raise MismatchError(f"answer and transcript of {row.id} differ", str(path), ASK)
        if to_ids is not None and transcript_of(answers[row.id], request, plan, to_ids) != row:
            raise MismatchError(f"the token ids of {row.id} are not those of its text", str(path), ASK)


def _belongs(exchange: Exchange, row: Transcript) -> bool:
    answered = exchange.response is not None and exchange.status in (None, 200)
    return (exchange.status, exchange.time, answered) == (row.status, row.time, row.answer_ids is not None)


def _line(row: Transcript) -> str:
    values: dict[str, Any] = {
        "id": row.id,
        "status": row.status,
        "time": None if row.time is None else row.time.isoformat(),
        "prompt_ids": list(row.prompt_ids),
        "answer_ids": None if row.answer_ids is None else list(row.answer_ids),
    }
    if row.top is not None:
        values["top"] = row.top
    return json.dumps(values, separators=(",", ":")) + "\n"


def _transcripts(path: Path) -> list[Transcript]:
    rows: list[Transcript] = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            row = json.loads(line)
            time, answer = row["time"], row["answer_ids"]
            rows.append(
                Transcript(
                    row["id"],
                    row["status"],
                    None if time is None else datetime.fromisoformat(time),
                    _token_ids(row["prompt_ids"]),
                    None if answer is None else _token_ids(answer),
                    _candidates(row["top"]) if "top" in row else None,
                )
            )
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(f"not a transcript ({type(error).__name__})", f"{path}:{number}", ASK) from None
    return rows


def _token_ids(values: list[Any]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise ValueError("token ids are whole numbers")
    return tuple(values)


def _candidates(rows: list[list[list[Any]]]) -> tuple[Candidates, ...]:
    return tuple(tuple((_token_ids([number])[0], float(logprob)) for number, logprob in row) for row in rows)
