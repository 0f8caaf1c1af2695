"""Tasks that have an answer: let models answer held-out prompts, and count the right ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stillproof import stats
from stillproof.distill.retention.scoring import TEACHER
from stillproof.errors import ConfigError, MismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillproof.exchange import Message


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Message, ...]],
    *,
    max_tokens: int = 32,
    batch_size: int = 64,
) -> list[str | None]:
    """The model's likeliest answer to each prompt (temperature 0), in their order.

    None where a prompt leaves no room in the model's context: it counts as a wrong answer, not as no prompt.
    Raises InputError where a tokenizer without a chat template meets more than one user message.
    """
    from stillproof.exchange import Sampling
    from stillproof.teacher import Identity, Request
    from stillproof.teacher.local import LocalTeacher

    identity = Identity(model="measured", kind="weights")
    answering = LocalTeacher(model, tokenizer, identity, batch_size=batch_size)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    # The sample index is the place in the list, so that two equal prompts are two requests.
    requests = [Request(tuple(messages), sampling, sample=place) for place, messages in enumerate(prompts)]
    answers = {exchange.request_key: exchange.response for exchange in answering.answer(requests)}
    return [answers[request.key(identity.model)] for request in requests]


def exact_match(
    answers: Mapping[str, Sequence[str | None]],
    gold: Sequence[str],
    *,
    pattern: str | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The share of prompts that each model answers as `gold` does, and as the teacher does, with exact intervals.

    `answers`: for each model its responses, in the order of `gold`. `pattern`: regular expression whose last match
    (its first group, where it has one) is the answer; a response without a match, or None, is wrong. A gold text
    without a match is an answer as it stands. No pattern compares whole texts. Case and surrounding blanks never count.

    Keys for each model: `exact_match_<name>`, and for all but the teacher `answer_agreement_<name>`, each with
    `_interval`; `n_answers`. Assumes independent prompts. Raises ConfigError for a broken pattern, MismatchError for
    lists of different lengths.
    """
    wanted = [_answer(text, pattern) or text.strip().casefold() for text in gold]
    found: dict[str, list[str | None]] = {}
    for name, texts in answers.items():
        if len(texts) != len(gold):
            raise MismatchError(f"{len(texts)} answers to {len(gold)} prompts", name, "give one answer to each prompt")
        found[name] = [None if text is None else _answer(text, pattern) for text in texts]
    result: dict[str, Any] = {"n_answers": len(gold)}
    for name, given in found.items():
        result |= _share(f"exact_match_{name}", given, wanted, confidence)
        if name != TEACHER and TEACHER in found:
            result |= _share(f"answer_agreement_{name}", given, found[TEACHER], confidence)
    return result


def _answer(text: str, pattern: str | None) -> str | None:
    if pattern is None:
        return text.strip().casefold()
    try:
        matches = list(re.finditer(pattern, text))
    except re.error as error:
        raise ConfigError(f"not a regular expression: {error}", pattern, "correct eval.answer_pattern") from error
    if not matches:
        return None
    last = matches[-1]
    answer = last.group(1) if last.re.groups else last.group(0)
    return None if answer is None else answer.strip().casefold()


def _share(key: str, given: Sequence[str | None], wanted: Sequence[str | None], confidence: float) -> dict[str, Any]:
    if not wanted:
        return {key: None, f"{key}_interval": None}
    same = sum(one is not None and one == other for one, other in zip(given, wanted, strict=True))
    interval = stats.proportion_interval(same, len(wanted), confidence)
    return {key: interval.estimate, f"{key}_interval": [interval.low, interval.high]}
