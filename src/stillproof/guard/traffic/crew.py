"""The pool of accounts behind a simulated campaign: who works when, from where, and what else the accounts send.

What real pools have in common is a queue that workers pull from. Everything else (hours, even or uneven shares,
aged accounts, shared exits, faked follow-ups, what system prompt is sent) is drawn for each campaign, so that no
single tell is always there. Parameters after the providers' disclosures of 2026: 13 to 850 exchanges an account and
day, sign-ups in batches, residential proxies, disposable payment, a few client builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import ConfigError
from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.stream import DAY_US, HOUR_US, AccountFacts, Arrivals, Pools, Stream, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE_US = 60_000_000


@dataclass
class Crew:
    """One campaign's accounts and habits."""

    size: int
    world: Window
    window: Window
    """When the campaign runs."""
    rng: np.random.Generator
    arrivals: Arrivals
    pools: Pools
    settings: dict[str, Any]
    rate: float
    """Exchanges an account and day, camouflage included."""
    camouflage: float
    hours: NDArray[np.float64]
    """(24,) weights of the hours, UTC."""
    runs: list[tuple[int, int]]
    """Spans in which the queue moves; one span where it always does."""
    shares: NDArray[np.float64] | None
    """(size,) uneven shares of the queue; None: the workers take turns."""
    active_us: NDArray[np.int64]
    """(size,) when each account takes up work; ascending."""
    facts: AccountFacts
    network: NDArray[np.int64]
    client: list[str]
    system: str | None
    follow: float
    retry: float

    @property
    def volume(self) -> int:
        """Items that the queue hands out, drawn at the rate."""
        busy = np.clip(self.window.end_us - self.active_us, 0, None).sum() / DAY_US
        extra = 1 + self.follow + self.retry
        return int(self.rng.poisson(self.rate * (1 - self.camouflage) * busy / extra))


def crew(
    size: int,
    window: Window,
    rng: np.random.Generator,
    given: tuple[Arrivals, Pools, dict[str, Any]],
    rates: tuple[float, float],
) -> Crew:
    """Draw a campaign. `rates`: exchanges an account and day between which the default is drawn, log-uniformly.

    settings: rate_per_day, camouflage (0 to 0.8), start_day, days, system, daytime, aged, follow_up, sigma, ramp (part
    of the campaign over which accounts join), pool (of prompts), harnesses and catalogue of the world: each fixes what
    is drawn otherwise. Raises ConfigError for a camouflage or window that leaves no campaign.
    """
    arrivals, pools, settings = given
    camouflage = float(settings.get("camouflage", rng.uniform(0.0, 0.6)))
    if not 0 <= camouflage <= 0.95:
        raise ConfigError("camouflage is a share of an account's traffic", str(camouflage), "give 0 to 0.95")
    span = _span(window, rng, settings)
    active = _activation(rng, size, span, settings)
    sigma = float(settings.get("sigma", 0.0 if rng.random() < 0.55 else rng.uniform(0.2, 0.6)))
    aged = bool(settings.get("aged", rng.random() < 0.3))
    facts = _facts(rng, active, aged)
    return Crew(
        size,
        window,
        span,
        rng,
        arrivals,
        pools,
        settings,
        rate=float(settings.get("rate_per_day", np.exp(rng.uniform(*np.log(rates))))),
        camouflage=camouflage,
        hours=_hours(rng, bool(settings.get("daytime", rng.random() < 0.3))),
        runs=_runs(rng, span),
        shares=rng.lognormal(0.0, sigma, size) if sigma or rng.random() < 0.5 else None,
        active_us=active,
        facts=facts,
        network=_networks(rng, size),
        client=_clients(rng, size),
        system=_system(rng, settings),
        follow=float(settings.get("follow_up", rng.uniform(0.05, 0.3) if rng.random() < 0.3 else 0.0)),
        retry=float(rng.uniform(0.002, 0.03)),
    )


def _span(window: Window, rng: np.random.Generator, settings: dict[str, Any]) -> Window:
    start = window.start_us + int(float(settings.get("start_day", rng.uniform(0.0, 0.25) * window.days)) * DAY_US)
    days = float(settings.get("days", window.days))
    end = min(window.end_us, start + int(days * DAY_US))
    if end <= start:
        raise ConfigError("a campaign starts after the world ends", f"start_day, days {days}", "start it earlier")
    return Window(start, end)


def _activation(rng: np.random.Generator, size: int, span: Window, settings: dict[str, Any]) -> NDArray[np.int64]:
    """Half of the pools start at once, the others add accounts over the first part of the campaign."""
    length = span.end_us - span.start_us
    ramp = float(settings.get("ramp", 0.0 if rng.random() < 0.5 else rng.uniform(0.05, 0.4)))
    active = span.start_us + np.sort((rng.random(size) * ramp * length).astype(np.int64))
    active[0] = span.start_us
    return active


def _facts(rng: np.random.Generator, active_us: NDArray[np.int64], aged: bool) -> AccountFacts:
    """Sign-ups in batches days to months before use (a part bought aged); plans mixed; some payments shared."""
    size = len(active_us)
    batches = max(1, int(size / rng.uniform(8, 60)))
    lead = np.exp(rng.uniform(np.log(0.5), np.log(60.0), batches)) * DAY_US
    batch = np.sort(rng.integers(0, batches, size))
    signup = active_us - (lead[batch] + rng.exponential(2.0, size) * HOUR_US).astype(np.int64)
    if aged:
        old = rng.random(size) < rng.uniform(0.3, 0.9)
        signup = np.where(old, active_us - (rng.uniform(90, 900, size) * DAY_US).astype(np.int64), signup)
    weights = rng.dirichlet((1.0, 3.0, 1.0, 0.2))
    plan = rng.choice(habits.PLANS, size, p=weights).tolist()
    shared = rng.random(size) < rng.choice((0.0, 0.05, 0.25))
    cards = rng.integers(size, size + max(1, size // 12), size)
    number = np.where(shared, cards, np.arange(size)).tolist()
    payment = [None if name == "free" else card for name, card in zip(plan, number, strict=True)]
    return AccountFacts.of(signup, plan=plan, payment=payment, tz_offset_h=rng.integers(-8, 10, size).astype(float))


def _hours(rng: np.random.Generator, daytime: bool) -> NDArray[np.float64]:
    if not daytime:
        return np.ones(24) + (rng.uniform(0, 0.2) * np.sin(2 * np.pi * (np.arange(24) / 24 + rng.random())))
    first, length = int(rng.integers(0, 24)), int(rng.integers(9, 15))
    return np.where((np.arange(24) - first) % 24 < length, 1.0, 0.02)


def _runs(rng: np.random.Generator, span: Window) -> list[tuple[int, int]]:
    """70% of queues always move; the others in 3 to 12 runs that start and stop for all."""
    if rng.random() < 0.7:
        return [(span.start_us, span.end_us)]
    count = int(rng.integers(3, 13))
    edges = np.linspace(span.start_us, span.end_us, count + 1)
    width = (edges[1] - edges[0]) * rng.uniform(0.3, 0.9, count)
    starts = edges[:-1] + (edges[1] - edges[0] - width) * rng.random(count)
    return [(int(start), int(start + length)) for start, length in zip(starts, width, strict=True)]


def _networks(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Own residential exits mostly; a share of accounts leaves by a few shared ones, in a fifth of pools a third."""
    share = rng.uniform(0.2, 0.4) if rng.random() < 0.2 else rng.uniform(0.0, 0.1)
    exits = rng.integers(0, max(1, size // 20), size)
    return np.where(rng.random(size) < share, exits, -1).astype(np.int64)


def _clients(rng: np.random.Generator, size: int) -> list[str]:
    builds = list(rng.permutation(habits.CLIENTS)[: int(rng.integers(1, 5))])
    if rng.random() < 0.3:
        builds[0] = f"{wording.draw(rng, 'product', 1)[0].lower()}-client/0.{int(rng.integers(1, 20))}"
    return [str(builds[place]) for place in rng.integers(0, len(builds), size).tolist()]


def _system(rng: np.random.Generator, settings: dict[str, Any]) -> str | None:
    """Nothing, a popular harness that the requests claim to be of, or a system prompt of the campaign's own."""
    if "system" in settings:
        return settings["system"]
    known = settings.get("harnesses") or []
    draw = rng.random()
    if draw < 0.45 or (draw < 0.8 and not known):
        return None
    return known[int(rng.integers(0, len(known)))] if draw < 0.8 else wording.harness(rng)


def moments(team: Crew, n: int) -> NDArray[np.int64]:
    """(n,) ascending times at which the queue hands out items, within runs and hours."""
    rng = team.rng
    starts = np.asarray([start for start, _ in team.runs], np.float64)
    lengths = np.asarray([end - start for start, end in team.runs], np.float64)
    passed = np.concatenate([[0.0], np.cumsum(lengths)])
    times = np.zeros(0, np.int64)
    top = team.hours.max()
    for _ in range(60):
        draw = rng.random(int((n - len(times)) * 1.3 * top / team.hours.mean()) + 16) * passed[-1]
        run = np.clip(np.searchsorted(passed, draw, side="right") - 1, 0, len(starts) - 1)
        moment = (starts[run] + draw - passed[run]).astype(np.int64)
        keep = rng.random(len(moment)) * top < team.hours[moment // HOUR_US % 24]
        times = np.concatenate([times, moment[keep]])
        if len(times) >= n:
            break
    return np.sort(times[:n])


def pulled(team: Crew, time_us: NDArray[np.int64]) -> NDArray[np.int32]:
    """(n,) the account that takes each item of the queue: in turns, or by shares, among those at work by then."""
    rng, n, size = team.rng, len(time_us), team.size
    if team.shares is None:
        rounds = np.tile(np.arange(size, dtype=np.int32), (n // size + 1, 1))
        account = rng.permuted(rounds, axis=1).ravel()[:n]
    else:
        account = rng.choice(size, n, p=team.shares / team.shares.sum()).astype(np.int32)
    ready = np.searchsorted(team.active_us, time_us, side="right")
    late = account >= ready
    account[late] = (rng.random(int(late.sum())) * np.maximum(ready[late], 1)).astype(np.int32)
    return account


def filled(team: Crew, template: wording.Template, n: int) -> list[str]:
    """n requests of a template; what fills its main slot comes from the pools."""
    return template.around(
        *(
            natural(team, n)
            if kind in ("passage", "prompt") and team.pools.lists
            else template.contents(team.rng, kind, n)
            for kind in template.kinds
        )
    )


def natural(team: Crew, n: int) -> list[str]:
    """n natural prompts of the campaign's pool."""
    return team.pools.draw(team.rng, n, team.settings.get("pool"))


def sent(
    team: Crew, account: NDArray[np.int32], time_us: NDArray[np.int64], prompt: Sequence[str], **columns: Any
) -> Stream:
    """The campaign's requests with networks, clients, system prompt, retries and faked follow-ups."""
    base = {"system": team.system, "model": "@newest", "is_campaign": True}
    base |= {"network": team.network[account], "client": habits.per_account(team.client, account)}
    stream = Stream.of(account, time_us, prompt, **(base | columns))
    return Stream.concat([stream, *_retries(team, stream), *_follow_ups(team, stream)])


def _retries(team: Crew, stream: Stream) -> list[Stream]:
    rows = np.flatnonzero((team.rng.random(len(stream)) < team.retry) & (stream.status == 200))
    again = stream.take(rows)
    stream.status[rows] = team.rng.choice((429, 500, 529), len(rows), p=(0.6, 0.2, 0.2))
    for row in rows.tolist():
        stream.blob_issued[row] = None
    # Backing off doubles from a second; the sum is near exponential.
    again.time_us = again.time_us + (1e6 + team.rng.exponential(8e6, len(rows))).astype(np.int64)
    return [again]


def _follow_ups(team: Crew, stream: Stream) -> list[Stream]:
    """A second turn after some requests, so that the account looks like a conversation."""
    if not team.follow:
        return []
    rows = np.flatnonzero((team.rng.random(len(stream)) < team.follow) & (stream.turn == 1) & (stream.status == 200))
    for row in rows.tolist():
        stream.conversation[row] = f"f{row}"
    later = stream.take(rows)
    later.turn = later.turn + 1
    nothing: list[str | None] = [None] * len(rows)
    later.blob, later.blob_issued = nothing, nothing
    later.prompt = wording.follow_up(team.rng, len(rows))
    later.time_us = later.time_us + team.rng.lognormal(np.log(25e6), 0.6, len(rows)).astype(np.int64)
    return [later]


def finished(team: Crew, stream: Stream) -> tuple[Stream, AccountFacts]:
    """The campaign with its camouflage, inside the world's window, by account and time."""
    parts = [stream, _camouflage(team, int(stream.is_campaign.sum()))]
    whole = Stream.concat(parts)
    inside = (whole.time_us >= team.world.start_us) & (whole.time_us < team.world.end_us)
    kept = np.flatnonzero(inside)
    order = np.lexsort((whole.time_us[kept], whole.account[kept]))
    return whole.take(kept[order]), team.facts


def _camouflage(team: Crew, n_campaign: int) -> Stream:
    """Ordinary use by human hours: free prompts, in part under popular harnesses or the templates of known apps."""
    rng = team.rng
    share = team.camouflage
    wanted = n_campaign * share / (1 - share)
    # Aged accounts are used before the campaign as well.
    early = rng.random() < 0.5
    start = team.world.start_us if early else team.window.start_us
    span = Window(start, team.window.end_us)
    since = np.minimum(team.facts.signup_us, team.active_us) if early else team.active_us
    since = np.clip(since, span.start_us, span.end_us - DAY_US // 4)
    uneven = rng.lognormal(0.0, 0.5, team.size)
    rate = wanted * uneven / uneven.sum() / ((span.end_us - since) / DAY_US)
    times = team.arrivals.human(rng, team.size, rate, team.facts.tz_offset_h, span)
    times = habits.after(times, since)
    turn = habits.turns(times.session)
    prompt = habits.converse(rng, team.pools.draw(rng, len(turn)), times.account, turn)
    known = [text for text in team.settings.get("harnesses") or [] if text]
    systems: list[str | None] = [
        known[int(place)] if known and place < len(known) else None
        for place in rng.integers(0, max(1, 3 * len(known)), team.size)
    ]
    prompt = _with_apps(team, times.account, prompt, systems)
    return Stream.of(
        times.account,
        times.time_us,
        prompt,
        system=habits.per_account(systems, times.account),
        turn=turn,
        conversation=habits.conversations(times.session),
        model="@newest",
        network=team.network[times.account],
        client=habits.per_account(team.client, times.account),
    )


def _with_apps(team: Crew, account: NDArray[np.int32], prompt: list[str], systems: list[str | None]) -> list[str]:
    """A tenth of the accounts hide behind the template of an app that strangers use too; `systems` follows."""
    shared = team.settings.get("catalogue")
    if shared is None or not shared.apps:
        return prompt
    out = np.empty(len(prompt), dtype=object)
    out[:] = prompt
    for place in np.flatnonzero(team.rng.random(team.size) < 0.1).tolist():
        app = shared.apps[int(team.rng.choice(len(shared.apps), p=shared.app_weights))]
        systems[place] = app.system
        rows = np.flatnonzero(account == place)
        out[rows] = filled(team, app.template, len(rows))
    return out.tolist()
