"""Control models of a twin test: what models of the owner make of both candidates, read before the plan is fixed."""

from __future__ import annotations

from stillproof.errors import MissingSignalError
from stillproof.exchange import Exchange
from stillproof.teacher import Teacher
from stillproof.trace.coin_plan import Control, call_id, reads
from stillproof.trace.pairs import mean_logprob
from stillproof.trace.served import Served


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


def _score(exchange: Exchange | None) -> float | None:
    if exchange is None or exchange.status not in (None, 200) or exchange.tokens is None:
        return None
    return None if exchange.tokens.logprobs is None else mean_logprob(exchange.tokens.logprobs)
