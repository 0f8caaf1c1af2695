"""Honest programs: many unrelated accounts that run one product, script or cookbook recipe on data of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.ordinary import together
from stillproof.guard.traffic.stream import (
    DAY_US,
    HOUR_US,
    AccountFacts,
    Arrivals,
    Builder,
    Pools,
    Stream,
    Times,
    Window,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Product:
    """What the accounts of one product share, beside its template."""

    template: wording.Template
    system: str | None
    tools: str | None
    client: str


def product(rng: np.random.Generator, *, system: float = 0.7, tools: float = 0.2, kind: str | None = None) -> Product:
    """A product with a rare template; `system` and `tools` are the chances that it has those."""
    name = wording.draw(rng, "product", 1)[0]
    return Product(
        wording.template(rng, kind),
        wording.harness(rng) if rng.random() < system else None,
        habits.tools_json(rng) if rng.random() < tools else None,
        f"{name.lower()}/{int(rng.integers(0, 4))}.{int(rng.integers(0, 20))}",
    )


def spread(
    rng: np.random.Generator,
    times: Times,
    products: list[Product],
    part: NDArray[np.int64],
    pools: Pools,
    pool: str | None,
) -> dict[str, Any]:
    """Columns prompt, system, tools and client of exchanges whose accounts use product `part[account]`."""
    which = part[times.account]
    prompt = np.empty(len(which), dtype=object)
    rows = [np.flatnonzero(which == place) for place in range(len(products))]
    jobs = [(item.template, len(places)) for item, places in zip(products, rows, strict=True)]
    for places, texts in zip(rows, habits.filled_all(rng, jobs, pools, pool), strict=True):
        prompt[places] = texts
    chosen = [products[place] for place in which.tolist()]
    return {
        "prompt": prompt.tolist(),
        "system": [item.system for item in chosen],
        "tools": [item.tools for item in chosen],
        "client": [item.client for item in chosen],
    }


def made(rng: np.random.Generator, times: Times, columns: dict[str, Any]) -> Stream:
    """A Stream of programs: 1% of requests hit a rate limit."""
    status = np.where(rng.random(len(times.account)) < 0.01, 429, 200)
    named = {name: value for name, value in columns.items() if name != "prompt"}
    return Stream.of(times.account, times.time_us, columns["prompt"], **({"status": status} | named))


def started(rng: np.random.Generator, n: int, window: Window, facts: AccountFacts) -> NDArray[np.int64]:
    """(n,) since when each account uses the product: adopted, and signed up."""
    return np.maximum(facts.signup_us, habits.adoption(rng, n, window))


def batch_labelling(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """Labelling jobs: bursts of thousands of rows through the label prompt of one open-source tool, temperature 0."""
    facts = habits.facts(rng, size, window, plans=(0.1, 0.6, 0.2, 0.1))
    part = habits.parts(rng, size)
    products = [product(rng, kind="passage") for _ in range(int(part.max()) + 1)]
    per_run = habits.rates(rng, size, 3.0 * settings.get("rate_per_day", 15.0), 1.5)
    times = arrivals.cron(
        rng, size, per_run, window, hour=rng.uniform(0, 72, size), every_h=72.0, jitter_s=7200.0, gap_s=0.7
    )
    times = habits.after(times, started(rng, size, window, facts))
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    return made(rng, times, columns | {"temperature": 0.0, "max_tokens": 8, "model": "small-1"}), facts


def synthetic_data(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """Makers of test data: a third are declared customers with several keys, others single accounts on a cookbook's
    instruction-writing prompt (the shape of Self-Instruct, arXiv 2212.10560) for data sets of their own.
    """
    facts = habits.facts(rng, size, window, plans=(0.05, 0.45, 0.3, 0.2))
    customers = np.minimum(rng.geometric(0.2, size), 12)
    number = np.repeat(np.arange(size), customers)[:size]
    facts.organisation = [
        int(name) if declared else None for name, declared in zip(number, number % 3 == 0, strict=True)
    ]
    facts.payment = [
        int(name) if declared else 10**6 + k
        for k, (name, declared) in enumerate(zip(number, number % 3 == 0, strict=True))
    ]
    part = habits.parts(rng, size)
    products = [product(rng, system=0.5, kind="prompt") for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 20.0), 1.4)
    times = habits.after(arrivals.poisson(rng, size, rate, window), started(rng, size, window, facts))
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    return made(rng, times, columns | {"temperature": 1.0, "max_tokens": 2048, "model": "@newest"}), facts


def ci_review(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """One review action in the pipelines of unrelated repositories: a request a changed file, in working hours."""
    facts = habits.facts(rng, size, window, plans=(0.2, 0.5, 0.2, 0.1))
    part = habits.parts(rng, size)
    products = [product(rng, tools=0.4, kind="passage") for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 8.0))
    zone = rng.normal(float(settings.get("tz_offset_h", 0.0)), 2.0, size)
    times = habits.after(arrivals.human(rng, size, rate, zone, window), started(rng, size, window, facts))
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    runners = rng.integers(0, 40, len(times.account))
    return made(rng, times, columns | {"temperature": 0.2, "model": "@newest", "network": runners}), facts


def rag_backfill(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """A search product summarises each document of a customer once: days at full rate, day and night, then little."""
    facts = habits.facts(rng, size, window, plans=(0.05, 0.5, 0.3, 0.15))
    part = habits.parts(rng, size)
    products = [product(rng, system=0.5, kind="passage") for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 12.0), 1.4)
    since = started(rng, size, window, facts)
    fast = arrivals.poisson(rng, size, rate * 3, window)
    ends = since + (rng.lognormal(0.8, 0.7, size) * DAY_US).astype(np.int64)
    early = fast.time_us < ends[fast.account]
    fast = Times(fast.account[early], fast.time_us[early], fast.session[early])
    times = habits.after(together([fast, arrivals.poisson(rng, size, rate * 0.1, window)]), since)
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    return made(rng, times, columns | {"temperature": 0.0, "max_tokens": 300, "model": "small-1"}), facts


def fallback_router(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """Routers send here while another provider is down: all accounts at the same hours, each with prompts of its own.

    Also the models of two names in turn after a 429, as pool failover looks.
    """
    facts = habits.facts(rng, size, window, plans=(0.1, 0.5, 0.3, 0.1))
    part = habits.parts(rng, size)
    products = [product(rng, system=0.5) for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 8.0))
    outages = max(2, int(window.days / 3))
    begin = window.start_us + (rng.random(outages) * window.days * DAY_US).astype(np.int64)
    length = (rng.uniform(0.5, 4.0, outages) * HOUR_US).astype(np.int64)
    counts = rng.poisson(np.repeat(rate[:, None] * window.days / outages, outages, axis=1))
    owner = np.repeat(np.arange(size, dtype=np.int32), counts.sum(axis=1))
    which = np.repeat(np.tile(np.arange(outages), size), counts.ravel())
    moment = begin[which] + (rng.random(len(which)) * length[which]).astype(np.int64)
    keep = moment < window.end_us
    times = Times(owner[keep], moment[keep], np.arange(len(owner))[keep])
    times = habits.after(times, started(rng, size, window, facts))
    # Half of the requests are those of the customer's own application, half the router's health checks and retries.
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    own = rng.random(len(times.account)) < 0.6
    free = iter(pools.draw(rng, int(own.sum()), settings.get("pool")))
    columns["prompt"] = [
        next(free) if mine else text for mine, text in zip(own.tolist(), columns["prompt"], strict=True)
    ]
    refused = rng.random(len(times.account)) < 0.06
    model = np.where(refused, "large-1", "small-1").tolist()
    return made(rng, times, columns | {"model": model, "status": np.where(refused, 429, 200)}), facts


def audit_trail(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """A vendor's product in unrelated banks: every decision must come with its written reasons, for the auditor."""
    facts = habits.facts(rng, size, window, plans=(0.0, 0.2, 0.4, 0.4))
    part = habits.parts(rng, size)
    products = [product(rng, system=1.0, kind="passage") for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 10.0))
    times = arrivals.human(rng, size, rate, float(settings.get("tz_offset_h", 0.0)), window)
    times = habits.after(times, started(rng, size, window, facts))
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    case = wording.draw(rng, "name", 1)[0]
    columns["prompt"] = [f"{text}\n{REASONS.format(case=case)}" for text in columns["prompt"]]
    thought = rng.lognormal(6.3, 0.7, len(times.account)).astype(np.int64)
    return made(rng, times, columns | {"reasoning_tokens": thought, "temperature": 0.0, "model": "large-1"}), facts


REASONS = (
    "For the {case} audit file write down your full reasoning step by step: each rule you applied, in order, what in "
    "the case it rests on, and only then the decision."
)


def multi_agent(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """An agent framework: planner, worker and critic of one task follow each other, each with the framework's prompt.

    The critic grades answers against a rubric, as reward-model work does; agents return reasoning blocks.
    """
    facts = habits.facts(rng, size, window)
    agents = [product(rng, system=1.0, tools=0.8, kind="prompt") for _ in range(3)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 12.0), 1.4)
    zone = rng.normal(float(settings.get("tz_offset_h", 0.0)), 2.0, size)
    times = habits.after(arrivals.human(rng, size, rate, zone, window), started(rng, size, window, facts))
    turn = habits.turns(times.session)
    acting = (turn - 1) % 3
    prompt = np.empty(len(turn), dtype=object)
    rows = [np.flatnonzero(acting == place) for place in range(len(agents))]
    jobs = [(agent.template, len(places)) for agent, places in zip(agents, rows, strict=True)]
    for places, texts in zip(rows, habits.filled_all(rng, jobs, pools, settings.get("pool")), strict=True):
        prompt[places] = texts
    chosen = [agents[place] for place in acting.tolist()]
    blob, issued = habits.blobs(times.session, np.ones(len(turn), np.bool_))
    columns = {
        "prompt": prompt.tolist(),
        "system": [agent.system for agent in chosen],
        "tools": [agent.tools for agent in chosen],
        "client": agents[0].client,
        "turn": turn,
        "conversation": habits.conversations(times.session),
        "blob": blob,
        "blob_issued": issued,
        "reasoning_tokens": rng.lognormal(5.5, 0.8, len(turn)).astype(np.int64),
        "model": "@newest",
    }
    return made(rng, times, columns), facts


PROGRAMS: dict[str, Builder] = {
    "batch_labelling": batch_labelling,
    "synthetic_data": synthetic_data,
    "ci_review": ci_review,
    "rag_backfill": rag_backfill,
    "fallback_router": fallback_router,
    "audit_trail": audit_trail,
    "multi_agent": multi_agent,
}
