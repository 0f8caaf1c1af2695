"""What a run would take, before any call: requests, tokens, money, disk, hours. An estimate, with how it was made."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.distill import corpus

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.exchange import Exchange

CHARS_PER_TOKEN = 4.0
"""English text under a vocabulary of 32k to 150k; other scripts have fewer characters a token."""
TRAIN_EFFICIENCY = 0.45
"""Share of this machine's plain matrix-product speed that a training step reaches (see dev/LOG.md)."""
SCORE_EFFICIENCY = 0.30
"""The same for scoring text with the teacher."""
GENERATE_EFFICIENCY = 0.08
"""The same for a batch of answers, written token by token."""


def estimate(config: DistillConfig) -> dict[str, Any]:
    """The plan of a run. Reads the data and the sizes of the models; loads no weights and calls nobody."""
    from stillproof.distill.admission import ask_terms, start_config
    from stillproof.teacher import identify

    identity = identify(config.teacher)
    verdict = ask_terms(config, config.teacher)
    reader = corpus.read_documents if config.data.text == "given" else corpus.read_prompts
    train = reader(config.data.train, config.data)
    heldout = None if config.data.heldout is None else reader(config.data.heldout, config.data)
    text_tokens = round(sum(map(_chars, train.items)) / CHARS_PER_TOKEN)
    plan: dict[str, Any] = {
        "text": config.data.text,
        "loss": config.train.loss,
        "teacher": identity.model,
        "terms": {
            "decision": verdict.decision,
            "allowed": verdict.allowed,
            "why": verdict.why,
            "declared_by": verdict.declared_by,
        },
        "n_documents": len(train.items),
        "n_documents_heldout": None if heldout is None else len(heldout.items),
        "bad_lines": len(train.bad),
    }
    if config.data.text == "teacher":
        plan |= _calls(config, train, heldout, text_tokens)
        train_tokens = text_tokens + len(train.items) * config.generate.samples * config.generate.max_tokens
    else:
        plan |= {"n_requests": 0, "max_usd": 0.0}
        train_tokens = text_tokens
    if config.data.max_tokens is not None:
        train_tokens = min(train_tokens, config.data.max_tokens)
    steps = config.train.epochs * -(-train_tokens // (config.train.row_tokens * config.train.rows_per_step))
    steps = steps if config.train.max_steps is None else min(steps, config.train.max_steps)
    plan |= {"n_tokens": train_tokens, "n_steps": steps, "disk_mb": _disk_mb(config, train_tokens)}
    plan["hours"] = _hours(config, train_tokens, steps)
    plan["how"] = {
        "tokens": f"{CHARS_PER_TOKEN:g} characters a token",
        "hours": "sizes of the models over the speed of a matrix product here; without the answers of an endpoint",
    }
    first = ask_terms(config, start_config(config), derivative=True)
    stopped = [f"the terms stop this run: {r.model}: {r.why}" for v in (verdict, first) for r in v.refused]
    if plan["disk_mb"] is None:
        stopped.append(f"no weights at {config.student.model or config.student.layers_of!r} to start the student from")
    plan["gate"] = "; ".join(stopped) or None
    return plan


def _chars(item: Exchange) -> int:
    return sum(len(message.content or "") for message in item.messages) + len(item.response or "")


def _calls(
    config: DistillConfig, train: corpus.Documents, heldout: corpus.Documents | None, prompt_tokens: int
) -> dict[str, Any]:
    """Calls to the teacher at their most: every response as long as it may be, no answer stored yet.

    Training prompts, held-out prompts where the teacher's weights are at hand, and those of `eval.answers`.
    """
    teacher, asked = config.teacher, config.generate
    n_train = len(train.items)
    # A split gives part of the prompts to the held-out side, so the sum is the same.
    n_heldout = round(n_train * config.data.heldout_share) if heldout is None else len(heldout.items)
    n_train -= 0 if heldout is not None else n_heldout
    n = (n_train + (n_heldout if config.has_teacher_weights else 0)) * asked.samples
    n_answers = min(n_heldout, config.eval.max_answers) if config.eval.answers else 0
    response_tokens = n * asked.max_tokens + n_answers * config.eval.answer_tokens
    tokens_a_prompt = prompt_tokens / len(train.items)
    asked_tokens = round(tokens_a_prompt * (n + n_answers))
    prices = (teacher.usd_per_million_prompt_tokens, teacher.usd_per_million_response_tokens)
    usd = None
    if prices[0] is not None and prices[1] is not None:
        usd = (asked_tokens * prices[0] + response_tokens * prices[1]) / 1e6
    per_minute = teacher.requests_per_minute
    return {
        "n_requests": n + n_answers,
        "prompt_tokens": asked_tokens,
        "max_response_tokens": response_tokens,
        "max_usd": usd,
        "hours_at_the_rate_cap": None if per_minute is None else (n + n_answers) / per_minute / 60,
    }


def _disk_mb(config: DistillConfig, n_tokens: int) -> int | None:
    student = student_parameters(config)
    if student is None:
        return None
    cache = n_tokens * config.cache.top_k * 4 if config.soft_targets else 0
    # Weights and two moments of AdamW in float32, once more while a checkpoint replaces the last; and the student.
    runs = 2 if config.train.control else 1
    return round((cache + runs * student * 12 + student * 12 + student * 4) / 1e6)


def _hours(config: DistillConfig, n_tokens: int, n_steps: int) -> float | None:
    student, teacher = student_parameters(config), _parameters(config.teacher.kind, config.teacher.model)
    flops = _flops_per_s()
    if student is None or flops is None:
        return None
    trained = n_steps * config.train.row_tokens * config.train.rows_per_step * (2 if config.train.control else 1)
    seconds = 6 * student * trained / (flops * TRAIN_EFFICIENCY)
    if config.soft_targets and teacher is not None:
        seconds += 2 * teacher * (n_tokens + 4 * config.data.heldout_tokens) / (flops * SCORE_EFFICIENCY)
    if config.data.text == "teacher" and teacher is not None:
        seconds += 2 * teacher * n_tokens / (flops * GENERATE_EFFICIENCY)
    return round(seconds / 3600, 3)


def student_parameters(config: DistillConfig) -> int | None:
    """Parameters of the student to be, from the model's config alone; None where that is not on this machine."""
    student = config.student
    if student.model is not None:
        return _parameters("weights", student.model)
    source = student.layers_of or config.teacher.model
    kind = "smollm2" if source in ("", "smollm2") else "gguf" if source.endswith(".gguf") else "weights"
    n_layers = len(student.layers) if student.layers else student.n_layers
    return _parameters(kind, source, n_layers)


def _parameters(kind: str, source: str, n_layers: int | None = None) -> int | None:
    """Embedding, attention and gated feed-forward parameters of a decoder of the Llama family."""
    shape = _shape(kind, source)
    if shape is None:
        return None
    h, feed, heads, kv, layers, vocabulary, tied = shape
    layer = 2 * h * h + 2 * h * h * kv // heads + 3 * h * feed
    return (1 if tied else 2) * vocabulary * h + min(n_layers or layers, layers) * layer


def _shape(kind: str, source: str) -> tuple[int, int, int, int, int, int, bool] | None:
    from stillproof.errors import StillproofError
    from stillproof.teacher.gguf import gguf_metadata
    from stillproof.teacher.weights import smollm2_path

    try:
        if kind in ("smollm2", "gguf"):
            found = gguf_metadata(smollm2_path() if kind == "smollm2" else Path(source))
            name = found["general.architecture"]
            return (
                found[f"{name}.embedding_length"],
                found[f"{name}.feed_forward_length"],
                found[f"{name}.attention.head_count"],
                found[f"{name}.attention.head_count_kv"],
                found[f"{name}.block_count"],
                len(found["tokenizer.ggml.tokens"]),
                True,
            )
        found = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        return (
            found["hidden_size"],
            found["intermediate_size"],
            found["num_attention_heads"],
            found.get("num_key_value_heads", found["num_attention_heads"]),
            found["num_hidden_layers"],
            found["vocab_size"],
            bool(found.get("tie_word_embeddings", False)),
        )
    except (OSError, KeyError, ValueError, StillproofError):
        return None


def _flops_per_s() -> float | None:
    """Speed of a plain matrix product here, in the arithmetic that training would use; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    from stillproof.device import best_device, native_bf16

    device = best_device()
    dtype = torch.bfloat16 if native_bf16(device) else torch.float32
    a = torch.ones(1024, 1024, dtype=dtype, device=device)
    (a @ a).sum().item()
    started, n = time.monotonic(), 0
    while time.monotonic() - started < 0.2:
        (a @ a).sum().item()
        n += 1
    return 2 * 1024**3 * n / (time.monotonic() - started)
