"""What a mark costs the text: the teacher's own negative log-likelihood (NLL), and the length of answers.

    python bench/trace/quality.py [--prompts N] [--tokens N] [--batch N] [--k K] [--keys N]
                                   [--temperature T] [--seed N] [--json FILE]

SmolLM2-135M-Instruct answers the built-in prompts. Everything is scored by the same unmarked model at temperature 1,
in nats a token over the whole vocabulary, whatever the temperature of sampling.

    next token    along an unmarked answer, at each place, tokens are drawn under --keys fresh keys of each scheme and
                  not served. Their NLL less its mean under the model averages 0 where the law is kept; the same places
                  serve all schemes. 95% interval by bootstrap over prompts. Green lists of the likeliest tokens take
                  from the rest, whose NLL is high, so they may even lower the mean: their cost is `kl`, the divergence
                  of the marked law from the model's, nats a token.
    whole answer  unmarked twice (the second is the noise floor), Gumbel marks, green lists of delta 1, 2 and 3: mean
                  NLL and its difference from the first run, and the mean length and its ratio, both with 95% intervals
                  by bootstrap over prompts. Answers are cut at --tokens; `cut` says how many were.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox

from stillproof.distill.builtin.prompts import prompts as builtin_prompts
from stillproof.teacher.weights import load_weights
from stillproof.watermark import Marker, MarkKey, Scheme, green_bias, window_code
from stillproof.watermark.transformers_adapter import MarkedDraw

RESAMPLES = 4000


def arms(k: int) -> dict[str, Scheme | None]:
    greens = {f"green delta {delta}": Scheme("green", k, delta=float(delta)) for delta in (1, 2, 3)}
    return {"unmarked": None, "unmarked again": None, f"gumbel k {k}": Scheme("gumbel", k), **greens}


class Probe:
    """Draws that are not served, at the places that an unmarked answer comes by: excess NLL of each scheme."""

    def __init__(self, schemes: dict[str, Scheme], n_keys: int, rng: Generator, end: int, temperature: float) -> None:
        self._schemes, self._n_keys, self._rng, self._end = schemes, n_keys, rng, end
        self.excess: dict[str, list[Any]] = {name: [] for name in schemes}
        self.kl: dict[str, list[Any]] = {name: [] for name in schemes}
        self.entropy: list[Any] = []
        self.alive: list[Any] = []
        self._start, self._temperature = 0, temperature

    def look(self, input_ids: Any, scores: Any) -> None:
        if not self._start:
            self._start = input_ids.shape[1]
        logits = scores.float()
        logprobs = logits.log_softmax(1)
        p = (logits / self._temperature).softmax(1)
        entropy = -(p * logprobs).sum(1).numpy().astype(float)
        contexts = input_ids.tolist()
        # After the end of an answer there is only padding.
        self.alive.append([self._end not in row[self._start :] for row in contexts])
        self.entropy.append(entropy)
        for name, scheme in self._schemes.items():
            ids = logits.topk(scheme.top).indices.sort(1).values
            outside = p.scatter(1, ids, 0.0)
            others = outside.sum(1)
            # A draw from outside the candidates, which no mark touches, counts as the mean of those.
            mean = -(outside * logprobs).sum(1) / others.clamp(min=1e-30)
            rest = (others / p.amax(1)).numpy().astype(float)
            top, found = logits.gather(1, ids).numpy(), np.zeros(len(contexts))
            self.kl[name].append(self._divergence(scheme, ids.numpy(), p.gather(1, ids).numpy(), contexts))
            nll = np.concatenate([-logprobs.gather(1, ids).numpy(), mean[:, None].numpy()], 1)
            for _ in range(self._n_keys):
                marker = Marker(MarkKey(scheme, self._rng.bytes(32)), self._rng, temperature=self._temperature)
                chosen, _ = marker.choose(ids.numpy(), top, rest, contexts, [set() for _ in contexts])
                at = np.where(chosen < 0, scheme.top, (ids.numpy() == chosen[:, None]).argmax(1))
                found += nll[np.arange(len(contexts)), at]
            self.excess[name].append(found / self._n_keys - entropy)

    def _divergence(self, scheme: Scheme, ids: Any, p: Any, contexts: list[list[int]]) -> Any:
        """KL(marked, model) of one key, [rows]: delta * (green share after) - ln(normaliser). None under Gumbel marks,
        whose law over keys is the model's own."""
        if scheme.kind != "green":
            return np.zeros(len(contexts))
        windows = np.array([window_code(context[-scheme.k :]) for context in contexts], dtype=np.uint64)
        green = green_bias(MarkKey(scheme, self._rng.bytes(32)).lane, windows, ids, scheme) > 0
        raised = np.exp(scheme.delta) * (p * green).sum(1).astype(float)
        norm = 1 + (1 - np.exp(-scheme.delta)) * raised
        return scheme.delta * raised / norm - np.log(norm)


class _Nll:
    """A logits processor that notes each token's NLL under the model, after `draw` has chosen it."""

    def __init__(self, draw: MarkedDraw, probe: Probe | None) -> None:
        self._draw, self._probe = draw, probe
        self.nll: list[list[float]] = []
        self.ids: list[list[int]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        forced = self._draw(input_ids, scores)
        if self._probe:
            self._probe.look(input_ids, scores)
        chosen = forced.argmax(dim=1, keepdim=True)
        self.ids.append(chosen[:, 0].tolist())
        self.nll.append(
            (scores.float().logsumexp(dim=1, keepdim=True) - scores.float().gather(1, chosen))[:, 0].tolist()
        )
        return forced


def answers(
    model: Any, batch: list[list[int]], scheme: Scheme | None, given: tuple[Generator, int, int, float, Probe | None]
) -> Any:
    """Sums of NLL and lengths of the answers of a batch, without the end's token."""
    import torch

    rng, n_tokens, end, temperature, probe = given
    key = MarkKey(scheme or Scheme("gumbel", 8), rng.bytes(32))
    made = Marker if scheme else _Unmarked
    marker = made(key, rng, temperature=temperature)
    note = _Nll(MarkedDraw(marker, batch), probe)
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
    """Never has a window, and so never marks."""

    def step(self, logits: Any, contexts: Any, used: Any, accounts: Any = None) -> Any:
        return super().step(logits, [[]] * len(contexts), used, accounts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--keys", type=int, default=64)
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
    probes: list[Probe] = []
    for number, (name, scheme) in enumerate(arms(args.k).items()):
        rng, began = Generator(Philox([args.seed, number])), time.perf_counter()
        found: list[Any] = []
        for start in range(0, len(ids), args.batch):
            probe = None
            if number == 0:
                marks = {other: mark for other, mark in arms(args.k).items() if mark}
                probe = Probe(marks, args.keys, rng, end, args.temperature)
                probes.append(probe)
            found += answers(
                model, ids[start : start + args.batch], scheme, (rng, args.tokens, end, args.temperature, probe)
            )
        if number == 0:
            for row in next_token(probes, args.seed):
                rows.append(row)
                show(row)
        table = np.array(found, dtype=np.float64)
        plain = table if plain is None else plain
        rows.append({"arm": name, **summary(table, plain, args.seed), "seconds": time.perf_counter() - began})
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def next_token(probes: list[Probe], seed: int) -> Iterator[dict[str, Any]]:
    """Excess NLL of one more token, nats, of each scheme; prompts are what is resampled."""
    alive = np.concatenate([np.array(probe.alive).T for probe in probes])
    picks = Generator(Philox(seed)).integers(0, len(alive), (RESAMPLES, len(alive)))
    counts = alive.sum(1)
    entropy = (np.concatenate([np.array(probe.entropy).T for probe in probes]) * alive).sum() / counts.sum()
    for name in probes[0].excess:
        sums = (np.concatenate([np.array(probe.excess[name]).T for probe in probes]) * alive).sum(1)
        spread = sums[picks].sum(1) / counts[picks].sum(1)
        low, high = np.quantile(spread, [0.025, 0.975])
        kl = (np.concatenate([np.array(probe.kl[name]).T for probe in probes]) * alive).sum() / counts.sum()
        yield {
            "next_token": name,
            "excess_nll": float(sums.sum() / counts.sum()),
            "low": float(low),
            "high": float(high),
            "kl": float(kl),
            "mean_nll": float(entropy),
            "places": int(counts.sum()),
        }


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
