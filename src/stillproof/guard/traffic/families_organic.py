"""Campaign families without constant text: other people's requests passed on, prompt lists cut into shards.

Two of them, `serve_and_harvest` and `store_then_replay`, look like the traffic of an honest reseller and are blind
spots, reported apart. What links the accounts of the others is that they work through one list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import ConfigError
from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.crew import Crew, crew, finished, moments, pulled, sent
from stillproof.guard.traffic.pools import read_prompts
from stillproof.guard.traffic.stream import (
    DAY_US,
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

Made = tuple[Stream, AccountFacts]


def _users(team: Crew, n_users: int, per_user_day: float, span: Window) -> tuple[Times, list[str], NDArray[np.int32]]:
    """Another product's users: when they ask, what, and which turn of a conversation each request is."""
    rng = team.rng
    rate = habits.rates(rng, n_users, per_user_day)
    zones = rng.normal(rng.uniform(-8, 9), 1.5, n_users)
    times = team.arrivals.human(rng, n_users, rate, zones, span)
    turn = habits.turns(times.session)
    texts = team.pools.draw(rng, len(turn), team.settings.get("pool"))
    prompts = np.empty(len(turn), dtype=object)
    prompts[:] = habits.converse(rng, texts, times.account, turn)
    foreign = np.flatnonzero((rng.random(n_users) < rng.uniform(0.0, 0.4))[times.account])
    prompts[foreign] = wording.other_scripts(rng, len(foreign))
    return times, prompts.tolist(), turn


def _harness(team: Crew) -> list[str | None]:
    """The system prompts that users' clients send: popular harnesses and none."""
    known: list[str | None] = list(team.settings.get("harnesses") or [])[:6]
    return [*known, None]


def serve_and_harvest(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Requests of another product's users, forwarded as they come (disclosed: 5,380 accounts, 45-50 a day each).

    A blind spot: the content is organic and nothing is constant. settings: sticky (share of sessions kept on an
    account), users_per_account.
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (40.0, 60.0))
    team.follow = 0.0
    per_account = float(settings.get("users_per_account", rng.uniform(3, 30)))
    n_users = max(1, int(size * per_account))
    rate = team.rate * (1 - team.camouflage) / per_account
    times, prompts, turn = _users(team, n_users, rate, team.window)
    order = np.argsort(times.time_us, kind="stable")
    account = np.empty(len(order), np.int32)
    account[order] = pulled(team, times.time_us[order])
    # A session stays where it began, as relays do to keep caches warm.
    sticky = float(settings.get("sticky", rng.choice((0.0, 0.9, 1.0))))
    opening = np.arange(len(turn)) - (turn - 1)
    account = np.where((rng.random(len(turn)) < sticky), account[opening], account).astype(np.int32)
    heads = _harness(team)
    chosen = rng.integers(0, len(heads), n_users).tolist()
    systems = [heads[chosen[user]] for user in times.account.tolist()]
    tokens = habits.tokens_of(prompts, systems) + habits.history_tokens(rng, turn)
    columns = {"system": systems, "turn": turn, "prompt_tokens": tokens}
    columns["conversation"] = habits.conversations(times.session)
    return finished(team, sent(team, account, times.time_us, prompts, **columns))


def store_then_replay(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """Sessions of a product's users, stored and sent again in their order later (disclosed: 1,500 accounts, 13 a day).

    A blind spot as well. Turns of a session follow each other at machine pace on one account.
    """
    team = crew(size, window, rng, (arrivals, pools, settings), (11.0, 30.0))
    team.follow = 0.0
    n_users = max(1, size * 4)
    days = max(2, int(team.window.days))
    # The recording ends as the campaign starts.
    recorded = Window(team.window.start_us - days * DAY_US, team.window.start_us)
    wanted = team.volume
    times, prompts, turn = _users(team, n_users, wanted / n_users / recorded.days, recorded)
    # The k-th session as recorded is the k-th to be replayed.
    new = np.concatenate([[True], times.session[1:] != times.session[:-1]])[: len(turn)]
    number = np.cumsum(new) - 1
    began = times.time_us[new]
    rank = np.empty(len(began), np.int64)
    rank[np.argsort(began, kind="stable")] = np.arange(len(began))
    starts = moments(team, len(began))
    session = rank[number]
    pace = float(rng.uniform(2, 20)) * 1e6
    time = starts[session] + ((turn - 1) * pace * rng.uniform(0.7, 1.5, len(turn))).astype(np.int64)
    account = pulled(team, starts)[session]
    heads = _harness(team)
    chosen = rng.integers(0, len(heads), n_users).tolist()
    systems = [heads[chosen[user]] for user in times.account.tolist()]
    tokens = habits.tokens_of(prompts, systems) + habits.history_tokens(rng, turn)
    columns = {"system": systems, "turn": turn, "prompt_tokens": tokens}
    columns["conversation"] = habits.conversations(times.session)
    return finished(team, sent(team, account, time, prompts, **columns))


def partitioned_shards(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """One list of natural prompts, cut into shards, each prompt asked of k different accounts and nothing else.

    settings: k (default 2 to 4; with 1 no prompt is asked twice, which is harder to see), system.
    """
    # Every account has its shard from the start.
    team = crew(size, window, rng, (arrivals, pools, {"ramp": 0.0} | settings), (15.0, 150.0))
    k = int(settings.get("k", rng.integers(2, 5)))
    if not 1 <= k <= size:
        raise ConfigError("k is how many accounts are asked each prompt", str(k), f"give 1 to {size}")
    time = moments(team, team.volume // k * k)
    n_items = len(time) // k
    items = pools.exact(rng, n_items, settings.get("pool"))
    # The sweeps over the list run side by side, or after each other.
    place = np.arange(len(time))
    number, sweep = (place // k, place % k) if rng.random() < 0.5 else (place % n_items, place // n_items)
    account = _distinct(team, n_items, k)[number, sweep]
    prompts = [items[item] for item in number.tolist()]
    return finished(team, sent(team, account, time, prompts))


def _distinct(team: Crew, n_items: int, k: int) -> NDArray[np.int32]:
    """(n_items, k) accounts, those of one item all different, in turns or by uneven shares."""
    rng, size = team.rng, team.size
    chosen = np.zeros((n_items, k), np.int32)
    for sweep in range(k):
        if team.shares is None:
            drawn = rng.permutation(n_items) % size
        else:
            drawn = rng.choice(size, n_items, p=team.shares / team.shares.sum())
        chosen[:, sweep] = drawn
        for _ in range(sweep):
            clash = (chosen[:, :sweep] == chosen[:, sweep : sweep + 1]).any(axis=1)
            chosen[clash, sweep] = (chosen[clash, sweep] + 1) % size
    return chosen


def prompt_file(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> Made:
    """A family given by a file of prompts alone: the pool works through the shuffled file, and then again.

    settings: path (as `pools.read_prompts` takes it). Raises ConfigError without it, InputError for a bad file.
    """
    if "path" not in settings:
        raise ConfigError("a prompt_file campaign names no file", "settings.path", 'give settings = {path = "f.txt"}')
    team = crew(size, window, rng, (arrivals, pools, settings), (15.0, 150.0))
    items = read_prompts(str(settings["path"]))
    time = moments(team, team.volume)
    rounds = -(-len(time) // len(items))
    order = np.concatenate([rng.permutation(len(items)) for _ in range(rounds)] or [np.zeros(0, np.int64)])
    prompts = [items[place] for place in order[: len(time)].tolist()]
    return finished(team, sent(team, pulled(team, time), time, prompts))


ORGANIC: dict[str, Builder] = {
    builder.__name__: builder for builder in (serve_and_harvest, store_then_replay, partitioned_shards, prompt_file)
}
