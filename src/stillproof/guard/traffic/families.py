"""Campaign families that share constant text: a fixed prompt, a template, a scaffold, a rubric, a set of wordings.

A family is a builder (see `stream`); `FAMILIES` has those of `families_organic` too. All numbers not given by
settings are drawn anew for each campaign. Common settings: `crew.crew`. Simulated traffic only: texts are made up.
Rates and shapes follow the disclosures of model providers of February and September 2026 and CISA AA26-251A.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.crew import MINUTE_US, Crew, crew, filled, finished, moments, natural, pulled, sent
from stillproof.guard.traffic.families_organic import ORGANIC
from stillproof.guard.traffic.stream import DAY_US, HOUR_US, AccountFacts, Arrivals, Builder, Pools, Stream, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

Made = tuple[Stream, AccountFacts]


@lru_cache(maxsize=1)
def _texts() -> dict[str, dict[str, list[str]]]:
    source = files("stillproof") / "data" / "guard" / "campaigns.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))


def _constant(rng: np.random.Generator, *groups: tuple[str, int]) -> str:
    """Constant text: some sentences of each (group of `campaigns.toml` as 'table.key', how many), filled once."""
    made: list[str] = []
    for name, count in groups:
        table, key = name.split(".")
        patterns = _texts()[table][key]
        chosen = rng.permutation(len(patterns))[:count].tolist()
        made += [wording.fill(patterns[place], rng, 1)[0] for place in chosen]
    return " ".join(made)


def _queue(team: Crew, **columns: Any) -> Stream:
    """A queue with one template, filled with natural contents."""
    time = moments(team, team.volume)
    template = wording.template(team.rng)
    prompts = filled(team, template, len(time))
    return sent(team, pulled(team, time), time, prompts, **columns)


def fixed_injected_prompt(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """One prompt in every request, before or after it or as the system prompt (disclosed: 600-850 an account and day).

    settings: place ('before', 'after', 'system').
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (60.0, 300.0))
    fixed = _constant(rng, ("injected.open", 1), ("injected.rest", int(rng.integers(1, 5))))
    place = settings.get("place", rng.choice(("before", "after", "system"), p=(0.45, 0.35, 0.2)))
    if place == "system":
        team.system = fixed
    time = moments(team, team.volume)
    body = natural(team, len(time))
    if place == "before":
        body = [f"{fixed}\n\n{text}" for text in body]
    elif place == "after":
        body = [f"{text}\n\n{fixed}" for text in body]
    tokens = rng.lognormal(6.6, 0.7, len(time)).astype(np.int64)
    return finished(team, sent(team, pulled(team, time), time, body, response_tokens=tokens))


def template_grid(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """A template over the product of three lists, in the order of the product or shuffled, then once more."""
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 200.0))
    kinds = ("lesson", "people", "style") if rng.random() < 0.5 else ("noun", "place", "quality")
    lists = [list(dict.fromkeys(wording.draw(rng, kind, int(rng.integers(8, 60))))) for kind in kinds]
    grid = [(first, second, third) for first in lists[0] for second in lists[1] for third in lists[2]]
    frame = wording.template(rng).form.split("%s")
    labels = [wording.draw(rng, "ident", 1)[0] for _ in kinds]
    order = rng.permutation(len(grid)) if rng.random() < 0.5 else np.arange(len(grid))
    time = moments(team, team.volume)
    head, tail = frame[0].replace("%%", "%"), frame[-1].replace("%%", "%")
    prompts: list[str] = []
    for number in range(len(time)):
        cells = zip(labels, grid[order[number % len(grid)]], strict=True)
        prompts.append(head + "; ".join([f"{label}={cell}" for label, cell in cells]) + tail)
    temperature = float(rng.choice((0.7, 0.9, 1.0)))
    return finished(team, sent(team, pulled(team, time), time, prompts, temperature=temperature))


def self_instruct(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """A scaffold with a dozen of example tasks, drawn anew for each request from a pool that the campaign shares.

    The shape is that of Self-Instruct (Wang et al., arXiv 2212.10560).
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (20.0, 120.0))
    scaffold = _constant(rng, ("scaffold.open", 1), ("scaffold.rest", int(rng.integers(1, 5))))
    seeds = [" ".join(text.split()[:18]) for text in natural(team, int(rng.integers(150, 3000)))]
    shown = int(rng.integers(8, 20))
    time = moments(team, team.volume)
    picks = rng.integers(0, len(seeds), (len(time), shown)).tolist()
    prompts = [
        "\n".join([scaffold, *(f"{place}. {seeds[pick]}" for place, pick in enumerate(row, 1)), f"{shown + 1}."])
        for row in picks
    ]
    columns = {"temperature": float(rng.choice((0.7, 1.0))), "max_tokens": int(rng.choice((1024, 2048, 4096)))}
    return finished(team, sent(team, pulled(team, time), time, prompts, **columns))


def benchmark_sweep(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """A list of questions in a wrapper, k samples of each: as `n` of one request, or as k requests.

    settings: k (samples).
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 300.0))
    k = int(settings.get("k", rng.choice((2, 4, 8))))
    inside = bool(rng.random() < 0.5)
    time = moments(team, team.volume)
    n_items = len(time) if inside else -(-len(time) // k)
    items = pools.exact(rng, n_items, settings.get("pool"))
    wrapper = wording.template(rng, "prompt")
    asked = wrapper.around(
        *[items if kind == "prompt" else wording.draw(rng, kind, 1) * n_items for kind in wrapper.kinds]
    )
    prompts = asked if inside else [text for text in asked for _ in range(k)][: len(time)]
    columns = {"n_samples": k if inside else None, "temperature": 1.0, "max_tokens": int(rng.choice((2048, 8192)))}
    return finished(team, sent(team, pulled(team, time), time, prompts, **columns))


def rubric_grader(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Marks for answers by one rubric, to train a reward model: temperature 0, short answers."""
    team = crew(size, window, rng, (arrivals, pools, settings), (60.0, 400.0))
    head = _constant(rng, ("rubric.open", 1), ("rubric.rest", int(rng.integers(1, 6))))
    end = _constant(rng, ("rubric.end", 1)) if rng.random() < 0.7 else ""
    time = moments(team, team.volume)
    pairs = zip(natural(team, len(time)), wording.passages(rng, len(time)), strict=True)
    if rng.random() < 0.3:
        team.system, head = head, ""
    asked, reply = wording.draw(rng, "ident", 2)
    prompts = [f"{head}\n[{asked}]\n{question}\n[{reply}]\n{answer}\n{end}".strip() for question, answer in pairs]
    tokens = rng.integers(5, 200, len(time))
    columns = {"temperature": 0.0, "max_tokens": int(rng.choice((16, 256, 512))), "response_tokens": tokens}
    return finished(team, sent(team, pulled(team, time), time, prompts, **columns))


def reasoning_elicitation(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Dozens of wordings that ask for written reasoning, shared by all accounts, on natural prompts (disclosed: 730).

    settings: wordings (how many).
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 300.0))
    count = int(settings.get("wordings", rng.integers(24, 90)))
    forms = wording.mixed(rng, _texts()["elicitation"]["patterns"], count)
    time = moments(team, team.volume)
    which = rng.choice(count, len(time), p=rng.dirichlet(np.full(count, 2.0))).tolist()
    first = (rng.random(len(time)) < rng.choice((0.0, 0.5, 1.0))).tolist()
    prompts = [
        f"{forms[form]}\n{text}" if before else f"{text}\n{forms[form]}"
        for form, text, before in zip(which, natural(team, len(time)), first, strict=True)
    ]
    columns = {
        "reasoning_tokens": rng.lognormal(6.5, 0.8, len(time)).astype(np.int64),
        "response_tokens": rng.lognormal(6.8, 0.6, len(time)).astype(np.int64),
    }
    return finished(team, sent(team, pulled(team, time), time, prompts, **columns))


def pool_failover(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """A pool is blocked account by account (403, 429); a standby pool takes over the same work within minutes.

    settings: standby (share of the accounts held back), block_day (days after the campaign's start).
    """
    team = crew(size, window, rng, (arrivals, pools, {"ramp": 0.0} | settings), (40.0, 250.0))
    span = team.window
    first = max(1, size - int(size * float(settings.get("standby", rng.uniform(0.3, 0.6)))))
    drawn = rng.uniform(0.3, 0.7) * span.days
    wave = span.start_us + int(float(settings.get("block_day", drawn)) * DAY_US)
    blocked = np.sort(wave + (rng.exponential(rng.uniform(5, 60), first) * MINUTE_US).astype(np.int64))
    joined = np.sort(wave + (rng.exponential(rng.uniform(3, 30), size - first) * MINUTE_US).astype(np.int64))
    n = int(
        rng.poisson(
            team.rate
            * (1 - team.camouflage)
            * (first * (wave - span.start_us) + (size - first) * max(0, span.end_us - wave))
            / DAY_US
        )
    )
    time = moments(team, n)
    template = wording.template(rng)
    account = _handed_over(rng, time, blocked, joined)
    prompts = filled(team, template, len(time))
    team.active_us = np.concatenate([np.full(first, span.start_us), joined])
    stream = sent(team, account, time, prompts)
    refused = _refused(team, template, blocked)
    # Nothing of a blocked account passes afterwards, camouflage neither.
    whole, facts = finished(team, Stream.concat([stream, refused]))
    last = np.concatenate([blocked + 10 * MINUTE_US, np.full(size - first, window.end_us)])
    return whole.take(whole.time_us < last[whole.account]), facts


def _handed_over(
    rng: np.random.Generator, time_us: NDArray[np.int64], blocked: NDArray[np.int64], joined: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Accounts are numbered in the order of their block, then of their start: those at work are always a range."""
    low = np.searchsorted(blocked, time_us, side="right")
    high = len(blocked) + np.searchsorted(joined, time_us, side="right")
    # Where none has joined yet, the last of the pool goes on.
    low = np.minimum(low, high - 1)
    return (low + rng.random(len(time_us)) * (high - low)).astype(np.int32)


def _refused(team: Crew, template: wording.Template, blocked: NDArray[np.int64]) -> Stream:
    """Requests that a block answers with 403 or 429: some an account, within ten minutes."""
    rng = team.rng
    account = np.repeat(np.arange(len(blocked), dtype=np.int32), rng.integers(1, 9, len(blocked)))
    time = blocked[account] + (rng.random(len(account)) * 9.9 * MINUTE_US).astype(np.int64)
    status = np.where(rng.random(len(account)) < 0.7, 403, 429)
    prompts = filled(team, template, len(account))
    return sent(team, account, time, prompts, status=status)


def model_pivot(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Within 24 hours of a release half of the traffic is on the new model (disclosed of a campaign of 13 million).

    settings: releases ((time_us, model) in order of time), moved (share that moves).
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 250.0))
    stream = _queue(team)
    moved = float(settings.get("moved", rng.uniform(0.4, 0.6)))
    hours = rng.uniform(4.0, 22.0)
    releases = np.asarray([moment for moment, _ in settings.get("releases") or []], np.int64)
    place = np.searchsorted(releases, stream.time_us, side="right") - 1
    if len(releases):
        age = (stream.time_us - releases[np.maximum(place, 0)]) / HOUR_US
        stays = (place >= 0) & (rng.random(len(stream)) >= moved * np.clip(age / hours, 0.0, 1.0))
        stream.model = ["@previous" if old else "@newest" for old in stays.tolist()]
    return finished(team, stream)


def logprob_harvest(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Log-probabilities with every answer, one max_tokens; natural prompts, in half of the campaigns in a template."""
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 400.0))
    time = moments(team, team.volume)
    n = len(time)
    prompts = natural(team, n) if rng.random() < 0.5 else filled(team, wording.template(rng), n)
    columns = {
        "top_logprobs": int(rng.choice((5, 10, 20), p=(0.2, 0.2, 0.6))),
        "max_tokens": int(rng.choice((128, 256, 512, 1024))),
        "temperature": float(rng.choice((0.0, 1.0))),
    }
    return finished(team, sent(team, pulled(team, time), time, prompts, **columns))


def low_and_slow(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """About 13 exchanges an account and day (disclosed of 1,500 accounts) by human hours, in one to three templates."""
    team = crew(size, window, rng, (arrivals, pools, settings), (10.0, 16.0))
    rate = team.rate * (1 - team.camouflage) * rng.lognormal(0.0, 0.3, size) / (1 + team.follow + team.retry)
    times = arrivals.human(rng, size, rate, team.facts.tz_offset_h, team.window)
    times = habits.after(times, team.active_us)
    which = rng.integers(0, int(rng.integers(1, 4)), len(times.account))
    prompts = np.empty(len(which), dtype=object)
    for place in range(int(which.max(initial=0)) + 1):
        rows = np.flatnonzero(which == place)
        prompts[rows] = filled(team, wording.template(rng), len(rows))
    return finished(team, sent(team, times.account, times.time_us, prompts.tolist()))


def multilingual_elicitation(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Requests for written reasoning in seven languages (disclosed of a campaign of 100,000 prompts)."""
    team = crew(size, window, rng, (arrivals, pools, settings), (20.0, 150.0))
    time = moments(team, team.volume)
    known = wording.languages()
    which = rng.choice(len(known), len(time), p=rng.dirichlet(np.full(len(known), 2.0)))
    mark = " ".join(wording.draw(rng, "ident", 2))
    prompts = np.empty(len(time), dtype=object)
    for place, language in enumerate(known):
        rows = np.flatnonzero(which == place)
        asks = wording.trace_wordings(language)
        ends = rng.integers(0, len(asks), len(rows)).tolist()
        texts = wording.other_scripts(rng, len(rows), language)
        prompts[rows] = [f"{text}\n{asks[end]} [{mark}]" for text, end in zip(texts, ends, strict=True)]
    tokens = rng.lognormal(6.5, 0.8, len(time)).astype(np.int64)
    return finished(team, sent(team, pulled(team, time), time, prompts.tolist(), reasoning_tokens=tokens))


def blob_replay(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Encrypted reasoning blocks that one account was issued are sent back by others, in part to a smaller model.

    After "Stealing Reasoning Traces from Proprietary LLM APIs" (arXiv 2608.09867). settings: replayed (share).
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (20.0, 120.0))
    share = float(settings.get("replayed", rng.uniform(0.3, 0.9)))
    time = moments(team, int(team.volume / (1 + share)))
    account = pulled(team, time)
    issued = [f"r{number}" for number in range(len(time))]
    tokens = rng.lognormal(6.5, 0.8, len(time)).astype(np.int64)
    asked = sent(team, account, time, natural(team, len(time)), blob_issued=issued, reasoning_tokens=tokens)
    rows = np.flatnonzero(rng.random(len(time)) < share)
    later = time[rows] + rng.lognormal(np.log(rng.uniform(2, 600)), 1.0, len(rows)).astype(np.int64) * MINUTE_US
    kept = later < team.window.end_us
    rows, later = rows[kept], later[kept]
    asks = wording.mixed(rng, _texts()["replay"]["patterns"], int(rng.integers(1, 40)))
    prompts = [asks[place] for place in rng.integers(0, len(asks), len(rows)).tolist()]
    blob = [issued[row] for row in rows.tolist()]
    back = sent(
        team, pulled(team, later), later, prompts, blob=blob, turn=2, model=str(rng.choice(("small-1", "@newest")))
    )
    return finished(team, Stream.concat([asked, back]))


FAMILIES: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        fixed_injected_prompt,
        template_grid,
        self_instruct,
        benchmark_sweep,
        rubric_grader,
        reasoning_elicitation,
        pool_failover,
        model_pivot,
        logprob_harvest,
        low_and_slow,
        multilingual_elicitation,
        blob_replay,
    )
} | ORGANIC
