"""Control models of a twin test: what models of the owner make of both candidates, read before the plan is fixed.

Either their scores, which are taken out of the suspect's (`read_control`), or the places where they are torn between
the candidate's word and another, at which the suspect is asked (`read_places`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from stillproof.errors import InputError, MissingSignalError, OutputExistsError
from stillproof.exchange import Exchange, Message
from stillproof.store.disk import refusing
from stillproof.teacher import Identity, Teacher
from stillproof.trace.coin_plan import Control, Places, PlannedPlace, call_id, reads
from stillproof.trace.pairs import Blind, blind, mean_logprob
from stillproof.trace.places import choose, expected_hits, worth
from stillproof.trace.served import Served

if TYPE_CHECKING:
    from stillproof.trace.continuing import LocalContinuer, Margin


def read_control(reader: Teacher, served: Served) -> Control:
    """What a model makes of the twins; the coins are not seen. Raises MissingSignalError where it reads less than half
    of them."""
    requests = reads(served, "control")
    read = {exchange.id: exchange for exchange in reader.answer(requests)}
    scores = tuple(
        (_score(read.get(call_id("control", number, 0))), _score(read.get(call_id("control", number, 1))))
        for number in range(len(served.twins))
    )
    identity = reader.identity
    if sum(None not in pair for pair in scores) < len(scores) / 2:
        remedy = "take weights, or an endpoint that echoes a prompt with its log-probabilities"
        raise MissingSignalError("a control model gave no log-probabilities of most twins", identity.model, remedy)
    return Control(model=identity.model, digest=identity.digest, scores=scores)


def write_candidates(served: Served, path: Path) -> int:
    """Both candidates of every twin as chat examples, in the order drawn, for an imitator to be trained on; how many.

    The coins are not in it, the sealed answers are: the file is its owner's alone (mode 0600). Raises
    OutputExistsError where something is there.
    """
    rows = [
        [*served.prompts[twin.id], Message("assistant", candidate.text)]
        for twin in served.twins
        for candidate in twin.candidates
    ]
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise OutputExistsError("is there already", str(path), "name a new file") from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for row in rows:
                messages = [{"role": message.role, "content": message.content or ""} for message in row]
                file.write(json.dumps({"messages": messages}) + "\n")
    return len(rows)


def read_places(controls: Iterable[LocalContinuer], served: Served, n: int) -> Places:
    """The `n` places in both candidates of all twins that tell most, by the mean margin of controls of one tokenizer.

    The coins are not seen. Pairs that the test leaves out have none. Raises InputError where no place is worth a call.
    """
    kept = [blind(*twin.candidates, Blind()) for twin in served.twins]
    sides = {call_id("control", number, side): (number, side) for number in range(len(kept)) for side in range(2)}
    requests = [request for request in reads(served, "control") if kept[sides[request.id][0]]]
    found: dict[tuple[int, int, int, str], list[Margin]] = {}
    models: list[Identity] = []
    for control in controls:
        models.append(control.identity)
        for request, margins in control.margins(requests):
            for margin in margins:
                found.setdefault((*sides[request.id], margin.start, margin.text), []).append(margin)
    # What controls with other tokenizers do not share is left out.
    common = [(*place, read) for place, read in sorted(found.items()) if len(read) == len(models) and place[3].strip()]
    own, other = (
        [math.fsum(getattr(margin, name) for margin in read) / len(read) for *_, read in common]
        for name in ("own_logprob", "other_logprob")
    )
    chosen = choose(worth(own, other), n).tolist() if common else []
    if not chosen:
        names = ", ".join(model.model for model in models)
        raise InputError("no place in the twins where the controls are torn", names, "take another control")
    expected = expected_hits(own, other).tolist()
    at: list[PlannedPlace] = []
    for i in chosen:
        twin, side, start, text, _ = common[i]
        row = PlannedPlace(twin=twin, side=cast("Literal[0, 1]", side), start=start, text=text, expected=expected[i])
        at.append(row)
    return Places(
        models=tuple(model.model for model in models), digests=tuple(model.digest for model in models), at=tuple(at)
    )


def _score(exchange: Exchange | None) -> float | None:
    if exchange is None or exchange.status not in (None, 200) or exchange.tokens is None:
        return None
    return None if exchange.tokens.logprobs is None else mean_logprob(exchange.tokens.logprobs)
