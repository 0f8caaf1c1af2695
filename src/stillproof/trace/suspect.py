"""Ask a suspect the prompts of a plan. Each answer is on disk before the next is taken, and no call is made twice.

A suspect is anything that `stillproof.teacher` can ask: a folder of weights, a GGUF file, an OpenAI-compatible
endpoint, or a store of answers that were recorded earlier. Calls go out batch by batch in the plan's order; a batch is
whole before anything looks at it, so that an audit that was interrupted looks at what it would have looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.config import TeacherConfig
from stillproof.errors import BudgetError, ConfigError, InputError, MismatchError, OutputExistsError, TeacherError
from stillproof.exchange import Exchange
from stillproof.progress import Event, OnEvent, ignore
from stillproof.store.disk import refusing, remove_unfinished, replace_file
from stillproof.store.journal import Journal, read_journal, repair_journal
from stillproof.store.lock import Lock
from stillproof.teacher import Request, Teacher

if TYPE_CHECKING:
    from stillproof.trace.coin_plan import CoinPlan
    from stillproof.trace.plan import Plan

PLAN_FILE, ANSWERS_FILE, BEGUN_FILE, LOCK_FILE = "plan.json", "answers.jsonl", "begun.json", "lock"
SEALED_FILE = "bundle.json"

Enough = Callable[[Sequence[Exchange]], bool]


def suspect_config(
    suspect: str,
    *,
    model: str = "",
    api_key_env: str = "OPENAI_API_KEY",
    requests_per_minute: float | None = None,
    concurrency: int = 8,
) -> TeacherConfig:
    """Who is asked. `suspect`: a URL, a folder of weights, a GGUF file, a store of recorded answers, or 'smollm2'.

    Raises ConfigError for a URL without the model's name, InputError for something that is none of these.
    """
    given: dict[str, Any] = {"requests_per_minute": requests_per_minute, "concurrency": concurrency}
    if suspect.startswith(("http://", "https://")):
        if not model:
            raise ConfigError("an endpoint needs the model's name", "--model", "give it as the endpoint calls it")
        return TeacherConfig(kind="openai", model=model, base_urls=(suspect,), api_key_env=api_key_env, **given)
    if model:
        raise ConfigError("--model names a model at an endpoint", suspect, "leave it out for weights")
    path = Path(suspect).expanduser()
    if suspect == "smollm2":
        return TeacherConfig(kind="smollm2", **given)
    if path.is_file() and path.suffix == ".gguf":
        return TeacherConfig(kind="gguf", model=str(path), **given)
    if (path / "store.json").is_file():
        return TeacherConfig(kind="replay", model=str(path), **given)
    if path.is_dir():
        return TeacherConfig(kind="weights", model=str(path), **given)
    raise InputError("no such suspect", suspect, "give a URL, a folder of weights, a GGUF file or a store")


class Interview:
    """The folder of an audit that goes on: the plan as it was at the first query, and the answers so far.

    Use it as a context manager. One process at a time.
    """

    def __init__(self, folder: Path, plan: Plan | CoinPlan, plan_id: str, plan_bytes: bytes, *, resume: bool) -> None:
        """Begin, or go on where `resume`. Raises OutputExistsError where an audit is there (or is sealed),
        MismatchError where it was begun with another plan."""
        self.folder, self.plan = folder, plan
        self._lock: Lock | None = None
        self._journal: Journal | None = None
        if (folder / SEALED_FILE).exists():
            raise OutputExistsError("this audit is sealed", str(folder), "replay it; a new audit has a new folder")
        there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if there and not (folder / PLAN_FILE).is_file():
            raise OutputExistsError("something else is there already", str(folder), "name a new folder")
        if there and not resume:
            raise OutputExistsError("an audit was begun there", str(folder), "go on with --if-exists resume")
        with refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(folder / LOCK_FILE)
        try:
            self._hold_to(plan_bytes, plan_id)
            remove_unfinished(folder)
            answers = folder / ANSWERS_FILE
            if answers.exists():
                repair_journal(answers)
            self._journal = Journal(answers)
            self.answers = {exchange.id: exchange for exchange in read_journal(answers)}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Interview:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def ask(
        self,
        teacher: Teacher,
        requests: Sequence[Request],
        *,
        enough: Enough | None = None,
        max_calls: int | None = None,
        on_event: OnEvent = ignore,
    ) -> list[Exchange]:
        """All answers in the plan's order, or those up to the batch after which `enough` said so.

        `max_calls`: answered calls of this audit, earlier runs at it included. Raises BudgetError before a call that
        would pass it, TeacherError where the suspect stops or leaves calls open, MismatchError where another suspect
        was asked before; what was answered is kept, always.
        """
        if self._journal is None:
            raise InputError("the interview is closed", str(self.folder), "open it again")
        self._hold_to_suspect(teacher)
        size = self.plan.batch
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            self._ask_batch(teacher, batch, max_calls)
            so_far = [self.answers[request.id] for request in requests[: start + len(batch)]]
            on_event(Event("trace", len(so_far), len(requests), "answers"))
            if enough is not None and enough(so_far):
                return so_far
        return [self.answers[request.id] for request in requests]

    def _ask_batch(self, teacher: Teacher, batch: Sequence[Request], max_calls: int | None) -> None:
        journal = self._journal
        open_calls = {request.id: request for request in batch if request.id not in self.answers}
        room = len(open_calls) if max_calls is None else max(0, max_calls - len(self.answers))
        if journal is None or not open_calls:
            return
        wanted = list(open_calls.values())[:room]
        for exchange in teacher.answer(wanted) if wanted else ():
            if exchange.id not in open_calls or exchange.id in self.answers:
                raise TeacherError("an answer to what was not asked", exchange.id[:80], "see to the suspect's adapter")
            journal.write([exchange])
            self.answers[exchange.id] = exchange
        left = len([number for number in open_calls if number not in self.answers])
        if left and room < len(open_calls):
            raise BudgetError(
                f"the cap of {max_calls} calls is reached, {len(self.answers)} answers are kept",
                str(self.folder),
                "raise --max-calls and go on with --if-exists resume; nothing is tested before the plan is done",
            )
        if left:
            raise TeacherError(f"{left} calls of a batch have no answer", str(self.folder), "run again with resume")

    def _hold_to(self, plan_bytes: bytes, plan_id: str) -> None:
        kept = self.folder / PLAN_FILE
        if sha256(plan_bytes).hexdigest() != plan_id:
            raise MismatchError("the plan changed while it was read", plan_id[:16], "run again with the plan as it was")
        if not kept.exists():
            replace_file(kept, lambda file: file.write(plan_bytes))
        elif kept.read_bytes() != plan_bytes:
            raise MismatchError(
                f"the plan was edited after the first query: its id is now {plan_id[:16]}",
                str(kept),
                "go on with the plan as it was; another plan is another audit, in a new folder",
            )

    def _hold_to_suspect(self, teacher: Teacher) -> None:
        path = self.folder / BEGUN_FILE
        row = asdict(teacher.identity)
        if not path.exists():
            text = json.dumps(row, indent=2, sort_keys=True) + "\n"
            replace_file(path, lambda file: file.write(text.encode()))
        elif json.loads(path.read_text(encoding="utf-8")) != row:
            raise MismatchError("another suspect was asked before", str(path), "one audit has one suspect")
