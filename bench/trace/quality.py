"""What a mark costs the text: the teacher's own negative log-likelihood (NLL), and the length of answers.

    python bench/trace/quality.py [--prompts N] [--tokens N] [--batch N] [--k K] [--seed N] [--json FILE]

SmolLM2-135M-Instruct answers the built-in prompts at temperature 1: unmarked twice (the second run is the noise floor),
Gumbel marks, and green lists of delta 1, 2 and 3. Every answer is scored by the same unmarked model, in nats a token
over the whole vocabulary. Printed: the mean over tokens, its difference from the unmarked run with a 95% interval by
bootstrap over prompts (paired), and the mean length with its ratio. Answers are cut at --tokens, which hides what would
happen to longer ones; `cut` says how many were.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox

from stillproof.distill.builtin.prompts import prompts as builtin_prompts
from stillproof.teacher.weights import load_weights
from stillproof.watermark import Marker, MarkKey, Scheme
from stillproof.watermark.transformers_adapter import MarkedDraw

RESAMPLES = 4000


def arms(k: int) -> dict[str, Scheme | None]:
    greens = {f"green delta {delta}": Scheme("green", k, delta=float(delta)) for delta in (1, 2, 3)}
    return {"unmarked": None, "unmarked again": None, f"gumbel k {k}": Scheme("gumbel", k), **greens}


class _Nll:
    """A logits processor that notes each token's NLL under the model, after `draw` has chosen it."""

    def __init__(self, draw: MarkedDraw) -> None:
        self._draw = draw
        self.nll: list[Any] = []
        self.ids: list[list[int]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        forced = self._draw(input_ids, scores)
        chosen = forced.argmax(dim=1, keepdim=True)
        self.ids.append(chosen[:, 0].tolist())
        self.nll.append(
            (scores.float().logsumexp(dim=1, keepdim=True) - scores.float().gather(1, chosen))[:, 0].tolist()
        )
        return forced


def answers(model: Any, batch: list[list[int]], scheme: Scheme | None, rng: Generator, n_tokens: int, end: int) -> Any:
    """Sums of NLL and lengths of the answers of a batch, without the end's token."""
    import torch

    key = MarkKey(scheme or Scheme("gumbel", 8), rng.bytes(32))
    # A prompt that holds every window would do; a marker that is never given enough context marks nothing.
    marker = Marker(key, rng) if scheme else _Unmarked(key, rng)
    note = _Nll(MarkedDraw(marker, batch))
    width = max(map(len, batch))
    ids = torch.tensor([[end] * (width - len(row)) + row for row in batch])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
    with torch.inference_mode():
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=n_tokens, do_sample=False, num_beams=1,
            pad_token_id=end, eos_token_id=end, logits_processor=[note],
        )  # fmt: skip
    tokens, nll = np.array(note.ids).T, np.array(note.nll).T
    found = []
    for row, losses in zip(tokens, nll, strict=True):
        stop = np.flatnonzero(row == end)
        n = int(stop[0]) if stop.size else row.size
        # The end is a choice like any other: it is scored, and not counted as length.
        found.append((float(losses[: n + 1].sum()), min(n + 1, row.size), n, not stop.size))
    return found


class _Unmarked(Marker):
    def step(self, logits: Any, contexts: Any, used: Any, accounts: Any = None) -> Any:
        return super().step(logits, [[]] * len(contexts), used, accounts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded, tokenizer = load_weights("smollm2", dtype="fp32")
    model: Any = loaded
    model.eval()
    end = int(tokenizer.eos_token_id or 0)
    texts = [exchange.messages for exchange in builtin_prompts()[: args.prompts]]
    ids = [prompt_ids(tokenizer, messages) for messages in texts]
    rows: list[dict[str, Any]] = []
    plain: Any = None
    for number, (name, scheme) in enumerate(arms(args.k).items()):
        rng, began = Generator(Philox([args.seed, number])), time.perf_counter()
        found: list[Any] = []
        for start in range(0, len(ids), args.batch):
            found += answers(model, ids[start : start + args.batch], scheme, rng, args.tokens, end)
        table = np.array(found, dtype=np.float64)
        plain = table if plain is None else plain
        rows.append({"arm": name, **summary(table, plain, args.seed), "seconds": time.perf_counter() - began})
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def prompt_ids(tokenizer: Any, messages: Any) -> list[int]:
    chat = [{"role": message.role, "content": message.content or ""} for message in messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def summary(table: Any, plain: Any, seed: int) -> dict[str, Any]:
    """`table`, `plain`: a row a prompt of summed NLL, tokens scored, length, cut."""
    rng = Generator(Philox(seed))
    picks = rng.integers(0, len(table), (RESAMPLES, len(table)))

    def per_token(rows: Any) -> Any:
        return rows[..., 0].sum(-1) / rows[..., 1].sum(-1)

    shift = per_token(table[picks]) - per_token(plain[picks])
    ratio = table[picks, 2].mean(-1) / plain[picks, 2].mean(-1)
    return {
        "nll": float(per_token(table)),
        "shift_nats": float(per_token(table) - per_token(plain)),
        "shift_low": float(np.quantile(shift, 0.025)),
        "shift_high": float(np.quantile(shift, 0.975)),
        "length": float(table[:, 2].mean()),
        "length_ratio": float(table[:, 2].mean() / plain[:, 2].mean()),
        "ratio_low": float(np.quantile(ratio, 0.025)),
        "ratio_high": float(np.quantile(ratio, 0.975)),
        "cut": float(table[:, 3].mean()),
    }


if __name__ == "__main__":
    main()
