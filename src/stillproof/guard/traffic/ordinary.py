"""Ordinary accounts: people who chat, small apps, scripts and agents in editors, with what they share by popularity.

Shared harnesses are few and Zipf-distributed; niche apps are many, each with a rare template that some 10 to 1,000
unrelated accounts adopt over weeks. Both are drawn once a world (`catalogue`), so that blocks of accounts share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.stream import DAY_US, AccountFacts, Arrivals, Pools, Stream, Times, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHAT, APP, SCRIPT, AGENT = range(4)
ROLES = (0.60, 0.20, 0.08, 0.12)
ZONES = (-8.0, -5.0, -3.0, 0.0, 1.0, 3.0, 5.5, 8.0, 9.0)
MODELS = ("@newest", "large-1", "small-1")


@dataclass(frozen=True)
class App:
    """A product of somebody that many accounts use with their own key."""

    system: str | None
    template: wording.Template
    tools: str | None
    launch_us: int
    spread_us: float
    temperature: float | None
    max_tokens: int | None


@dataclass(frozen=True)
class Catalogue:
    """What the accounts of a world share by popularity."""

    harnesses: list[tuple[str, str | None]]
    harness_weights: NDArray[np.float64]
    apps: list[App]
    app_weights: NDArray[np.float64]


def catalogue(rng: np.random.Generator, window: Window, n_harnesses: int, zipf: float, n_apps: int) -> Catalogue:
    """Harnesses by Zipf's law and apps of log-normal popularity, most of them launched before the window."""
    harnesses = [
        (wording.harness(rng), habits.tools_json(rng) if rng.random() < 0.5 else None) for _ in range(n_harnesses)
    ]
    ranks = np.arange(1, n_harnesses + 1) ** -zipf
    popularity = rng.lognormal(0.0, 1.4, n_apps)
    apps = [_app(rng, window) for _ in range(n_apps)]
    return Catalogue(harnesses, ranks / ranks.sum(), apps, popularity / popularity.sum() if n_apps else popularity)


def _app(rng: np.random.Generator, window: Window) -> App:
    launch = window.start_us + int(rng.uniform(-1.0, 0.8) * window.days * DAY_US)
    return App(
        system=wording.harness(rng) if rng.random() < 0.7 else None,
        template=wording.template(rng),
        tools=habits.tools_json(rng) if rng.random() < 0.3 else None,
        launch_us=launch,
        spread_us=rng.uniform(0.1, 0.7) * window.days * DAY_US,
        temperature=(None, 0.0, 0.2, 0.7, 1.0)[int(rng.integers(0, 5))],
        max_tokens=(None, 64, 256, 1024, 4096)[int(rng.integers(0, 5))],
    )


@dataclass
class _Accounts:
    """Per-account choices of one block."""

    role: NDArray[np.int64]
    language: list[str | None]
    harness: NDArray[np.int64]
    """Which popular harness, -1 for none."""
    app: NDArray[np.int64]
    """Which app of the catalogue, -1 for a template of its own."""


def ordinary(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """A block of ordinary accounts.

    settings: `catalogue` (of the world), `cohorts` (one name an account), `harness_share`, `rate_per_day`.
    Rates are log-normal, as the heavy-tailed use of LLM services is (Wang et al., BurstGPT, arXiv 2401.17644).
    """
    shared: Catalogue = settings["catalogue"]
    cohorts: list[str] = settings.get("cohorts") or ["none"] * size
    zones = np.asarray([zone_of(name, rng) for name in cohorts])
    accounts = _choose(rng, size, shared, cohorts, float(settings.get("harness_share", 0.45)))
    rate = habits.rates(rng, size, float(settings.get("rate_per_day", 4.0)))
    facts = habits.facts(rng, size, window)
    facts.tz_offset_h = zones
    since = np.maximum(facts.signup_us, _adopted(rng, accounts.app, shared.apps))
    times = habits.after(_times(rng, rate, zones, accounts.role, arrivals, window), since)
    return _stream(rng, times, accounts, shared, pools), facts


def zone_of(cohort: str, rng: np.random.Generator) -> float:
    """Hours east of UTC of a cohort; those of no timezone cohort live around UTC."""
    if cohort.startswith("timezone_"):
        return ZONES[int(cohort.removeprefix("timezone_")) % len(ZONES)]
    return float(rng.integers(-2, 3))


def _choose(
    rng: np.random.Generator, size: int, shared: Catalogue, cohorts: list[str], harness_share: float
) -> _Accounts:
    role = rng.choice(4, size, p=ROLES)
    harness = rng.choice(len(shared.harnesses), size, p=shared.harness_weights)
    harness = np.where(rng.random(size) < harness_share, harness, -1)
    app = np.full(size, -1)
    if shared.apps:
        app = np.where(
            (role == APP) & (rng.random(size) < 0.7), rng.choice(len(shared.apps), size, p=shared.app_weights), -1
        )
    known = wording.languages()
    language = [
        known[int(name.removeprefix("language_")) % len(known)] if name.startswith("language_") else None
        for name in cohorts
    ]
    return _Accounts(role, language, harness, app)


def _adopted(rng: np.random.Generator, app: NDArray[np.int64], apps: list[App]) -> NDArray[np.int64]:
    """(n,) since when each account uses its app; 0 where it uses none."""
    waits = rng.exponential(1.0, len(app)).tolist()
    return np.asarray(
        [
            apps[which].launch_us + int(wait * apps[which].spread_us) if which >= 0 else 0
            for which, wait in zip(app.tolist(), waits, strict=True)
        ],
        np.int64,
    )


def _times(
    rng: np.random.Generator,
    rate: NDArray[np.float64],
    zones: NDArray[np.float64],
    role: NDArray[np.int64],
    arrivals: Arrivals,
    window: Window,
) -> Times:
    """People and the users of apps keep hours; half of the scripts run by the clock, half at any time."""
    n = len(rate)
    clocked = (role == SCRIPT) & (rng.random(n) < 0.5)
    steady = (role == SCRIPT) & ~clocked
    kinds = [
        arrivals.human(rng, n, np.where(role == SCRIPT, 0.0, rate), zones, window),
        arrivals.poisson(rng, n, np.where(steady, rate * 1.5, 0.0), window),
        arrivals.cron(rng, n, np.where(clocked, rate * 1.5, 0.0), window, hour=rng.integers(0, 24, n), jitter_s=60.0),
    ]
    return together(kinds)


def together(kinds: list[Times]) -> Times:
    """Several arrivals as one; sessions stay apart."""
    offset = 0
    sessions: list[NDArray[np.int64]] = []
    for times in kinds:
        sessions.append(times.session + offset)
        offset += int(times.session.max()) + 1 if len(times.session) else 0
    account = np.concatenate([times.account for times in kinds])
    moment = np.concatenate([times.time_us for times in kinds])
    session = np.concatenate(sessions)
    order = np.lexsort((moment, session, account))
    return Times(account[order], moment[order], session[order])


def _stream(rng: np.random.Generator, times: Times, accounts: _Accounts, shared: Catalogue, pools: Pools) -> Stream:
    size = len(accounts.role)
    turn = habits.turns(times.session)
    role = accounts.role[times.account]
    prompt = _prompts(rng, times, turn, accounts, shared, pools)
    system, tools = _heads(rng, accounts, shared)
    apps = [shared.apps[which] if which >= 0 else None for which in accounts.app.tolist()]
    temperature = [app.temperature if app else None for app in apps]
    cap = [app.max_tokens if app else None for app in apps]
    talk = (role == CHAT) | (role == AGENT)
    turn = np.where(talk, turn, 1).astype(np.int32)
    thinks = (rng.random(size) < 0.25)[times.account] & talk
    blob, issued = habits.blobs(times.session, thinks)
    sampled = np.where((rng.random(size) < 0.02) & (accounts.role != CHAT), rng.integers(2, 9, size), 0).tolist()
    scored = np.where((rng.random(size) < 0.03) & (accounts.role != CHAT), rng.integers(1, 21, size), 0).tolist()
    systems = habits.per_account(system, times.account)
    model = [MODELS[place] for place in rng.choice(3, size, p=(0.5, 0.3, 0.2)).tolist()]
    conversation = [
        name if talks else None for name, talks in zip(habits.conversations(times.session), talk.tolist(), strict=True)
    ]
    return Stream.of(
        times.account,
        times.time_us,
        prompt,
        system=systems,
        turn=turn,
        conversation=conversation,
        model=habits.per_account(model, times.account),
        tools=habits.per_account(tools, times.account),
        temperature=habits.per_account(temperature, times.account),
        max_tokens=habits.per_account(cap, times.account),
        n_samples=habits.per_account([value or None for value in sampled], times.account),
        top_logprobs=habits.per_account([value or None for value in scored], times.account),
        prompt_tokens=habits.tokens_of(prompt, systems) + habits.history_tokens(rng, turn),
        reasoning_tokens=np.where(thinks, rng.lognormal(5.5, 1.0, len(turn)), 0).astype(np.int64),
        status=np.where(rng.random(len(turn)) < 0.01, 429, 200),
        blob=blob,
        blob_issued=issued,
        client=habits.per_account(habits.own_clients(rng, size), times.account),
        network=_networks(rng, times, size),
    )


def _networks(rng: np.random.Generator, times: Times, size: int) -> NDArray[np.int64]:
    """(n,) networks: a sixth of the accounts sit behind an address that some 40 strangers share."""
    shared = np.where(rng.random(size) < 1 / 6, rng.integers(0, size // 240 + 1, size), -1)[times.account]
    own = habits.roaming(rng, times)
    return np.where((own == -1) & (shared >= 0), shared, own)


def _heads(
    rng: np.random.Generator, accounts: _Accounts, shared: Catalogue
) -> tuple[list[str | None], list[str | None]]:
    """System prompt and tools of each account: an app's, a popular harness', its own, or none."""
    systems: list[str | None] = []
    tools: list[str | None] = []
    own = (rng.random(len(accounts.role)) < 0.4).tolist()
    choices = zip(accounts.app.tolist(), accounts.harness.tolist(), accounts.role.tolist(), own, strict=True)
    for app, harness, role, writes in choices:
        if app >= 0 and shared.apps[app].system:
            systems.append(shared.apps[app].system)
            tools.append(shared.apps[app].tools)
        elif harness >= 0:
            systems.append(shared.harnesses[harness][0])
            tools.append(shared.harnesses[harness][1] if role == AGENT else None)
        elif writes or role == AGENT:
            systems.append(wording.harness(rng))
            tools.append(habits.tools_json(rng) if role == AGENT else None)
        else:
            systems.append(None)
            tools.append(None)
    return systems, tools


def _prompts(
    rng: np.random.Generator,
    times: Times,
    turn: NDArray[np.int32],
    accounts: _Accounts,
    shared: Catalogue,
    pools: Pools,
) -> list[str]:
    """Templates for apps and scripts (of the catalogue, or the account's own), free text for the others."""
    role = accounts.role[times.account]
    out = np.empty(len(turn), dtype=object)
    free = np.flatnonzero((role == CHAT) | (role == AGENT))
    out[free] = habits.converse(rng, pools.draw(rng, len(free)), times.account[free], turn[free])
    app = accounts.app[times.account]
    made = (role == APP) | (role == SCRIPT)
    rows = [np.flatnonzero(made & (app == which)) for which in np.unique(app[made & (app >= 0)]).tolist()]
    templates = [shared.apps[int(app[places[0]])].template for places in rows]
    for account in np.unique(times.account[made & (app < 0)]).tolist():
        first, last = np.searchsorted(times.account, [account, account + 1])
        rows.append(np.arange(first, last))
        templates.append(wording.template(rng))
    jobs = [(template, len(places)) for template, places in zip(templates, rows, strict=True)]
    for places, texts in zip(rows, habits.filled_all(rng, jobs, pools), strict=True):
        out[places] = texts
    return _translated(rng, out, times.account, role, accounts)


def _translated(
    rng: np.random.Generator,
    prompts: NDArray[np.object_],
    account: NDArray[np.int32],
    role: NDArray[np.int64],
    accounts: _Accounts,
) -> list[str]:
    """The texts with those of language cohorts in their language; an app's own frame stays as its maker wrote it."""
    speaks = np.asarray([name or "" for name in accounts.language])[account]
    free = (role == CHAT) | (role == AGENT)
    for language in np.unique(speaks[speaks != ""]).tolist():
        rows = np.flatnonzero((speaks == language) & free)
        prompts[rows] = wording.other_scripts(rng, len(rows), language)
    return prompts.tolist()
