"""Honest people who have something in common: a class, a campus, a customer, a key, a language, an app of the week."""

from __future__ import annotations

from typing import Any

import numpy as np

from stillproof.guard.traffic import habits, wording
from stillproof.guard.traffic.honest_programs import made, product, spread
from stillproof.guard.traffic.honest_suites import chat
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


def team_key(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """Accounts whose one key a whole team uses: many networks and clients, hours of several people, no common text."""
    facts = habits.facts(rng, size, window, fresh=0.1, plans=(0.0, 0.3, 0.6, 0.1))
    rate = habits.rates(rng, size, settings.get("rate_per_day", 25.0), 1.1)
    people = rng.integers(3, 30, size)
    zone = rng.normal(float(settings.get("tz_offset_h", 0.0)), 3.0, size)
    times = together([arrivals.human(rng, size, rate / 3, zone + shift, window) for shift in (-2.0, 0.0, 5.0)])
    times = habits.after(times, facts.signup_us)
    stream = chat(rng, times, pools, settings.get("pool"))
    person = np.asarray([hash_place(s) for s in times.session.tolist()], np.int64) % people[times.account]
    # Negative: networks of the account's own, one for each of its people.
    stream.network = -1 - person
    stream.client = [habits.CLIENTS[k % len(habits.CLIENTS)] for k in person.tolist()]
    systems: list[str | None] = [wording.harness(rng) for _ in range(size)]
    stream.system = habits.per_account(systems, stream.account)
    return stream, facts


def hash_place(number: int) -> int:
    """A fixed scatter of small integers (Knuth's multiplicative hash)."""
    return (number * 2_654_435_761) % 2**32 >> 8


def gateway(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """A declared customer that resells with consent: one sub-account an end user, its prefix on all, few networks.

    Larger groups are several such customers of some 120 accounts.
    """
    part = habits.parts(rng, size)
    signup = habits.signups(rng, size, window, 0.3)
    facts = AccountFacts.of(signup, plan="enterprise", payment=part.tolist(), organisation=part.tolist())
    products = [product(rng, system=1.0) for _ in range(int(part.max()) + 1)]
    rate = habits.rates(rng, size, settings.get("rate_per_day", 10.0))
    times = habits.after(arrivals.human(rng, size, rate, rng.normal(0, 5, size), window), signup)
    stream = chat(rng, times, pools, settings.get("pool"))
    stream.system = [products[k].system for k in part[stream.account].tolist()]
    stream.client = [products[k].client for k in part[stream.account].tolist()]
    stream.network = part[stream.account] * 4 + rng.integers(0, 4, len(stream))
    return stream, facts


def classroom(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """New free accounts on one pasted assignment: class hours twice a week, then the nights before the deadline.

    Larger groups are several classes with an assignment each.
    """
    part = habits.parts(rng, size, per=100, most=150)
    classes = int(part.max()) + 1
    begin = window.start_us + (rng.uniform(0.0, 0.5, classes) * window.days * DAY_US).astype(np.int64)
    deadline = np.minimum(begin + (rng.uniform(4, 10, classes) * DAY_US).astype(np.int64), window.end_us - 1)
    signup = begin[part] - (rng.exponential(0.5, size) * DAY_US).astype(np.int64)
    facts = AccountFacts.of(signup, plan="free", payment=None)
    total = habits.rates(rng, size, settings.get("rate_per_day", 4.0) * 7, 1.0)
    counts = np.maximum(rng.poisson(total), 1)
    owner = np.repeat(np.arange(size, dtype=np.int32), counts)
    group = part[owner]
    span = (deadline - begin)[group]
    late = begin[group] + (span * rng.beta(5.0, 1.0, len(owner))).astype(np.int64)
    zone = float(settings.get("tz_offset_h", 0.0))
    lesson = (begin[group] // DAY_US + 3 * rng.integers(0, 3, len(owner))) * DAY_US
    lesson = lesson + ((10.0 - zone + rng.uniform(0, 2, len(owner))) * HOUR_US).astype(np.int64)
    moment = np.where(rng.random(len(owner)) < 0.5, lesson, late)
    keep = (moment < window.end_us) & (moment >= np.maximum(signup, window.start_us)[owner])
    times = _by_session(owner[keep], moment[keep])
    stream = chat(rng, times, pools, settings.get("pool"))
    tasks = [_assignment(rng, pools, settings.get("pool")) for _ in range(classes)]
    opening = rng.random(len(stream)) < 0.45
    number = part[stream.account].tolist()
    stream.prompt = [
        f"{tasks[number[k]]}\n\n{text}" if first else text
        for k, (first, text) in enumerate(zip(opening.tolist(), stream.prompt, strict=True))
    ]
    on_campus = rng.random(len(stream)) < 0.6
    stream.network = np.where(on_campus, part[stream.account], -1).astype(np.int64)
    return stream, facts


def _assignment(rng: np.random.Generator, pools: Pools, pool: str | None) -> str:
    """The handed-out text of a task, pasted before a student's own question."""
    course, teacher = wording.draw(rng, "product", 1)[0], wording.draw(rng, "name", 1)[0]
    steps = pools.draw(rng, int(rng.integers(2, 5)), pool)
    listed = "\n".join(f"{number}. {text[:220]}" for number, text in enumerate(steps, 1))
    return f"Assignment {int(rng.integers(1, 9))} of {course}, set by {teacher}\n{listed}"


def _by_session(owner: np.ndarray[Any, np.dtype[Any]], moment: np.ndarray[Any, np.dtype[Any]]) -> Times:
    """Times in sessions: an account's exchanges without a pause of half an hour."""
    order = np.lexsort((moment, owner))
    owner, moment = owner[order], moment[order]
    pause = np.diff(moment, prepend=moment[:1]) > HOUR_US // 2
    other = np.diff(owner, prepend=owner[:1]) != 0
    return Times(owner, moment, np.cumsum(pause | other))


def university_nat(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """A campus behind one address: students and staff with nothing in common but the network."""
    facts = habits.facts(rng, size, window, fresh=0.4, plans=(0.8, 0.2, 0.0, 0.0))
    rate = habits.rates(rng, size, settings.get("rate_per_day", 4.0))
    zone = float(settings.get("tz_offset_h", 0.0))
    times = habits.after(arrivals.human(rng, size, rate, zone, window), facts.signup_us)
    stream = chat(rng, times, pools, settings.get("pool"))
    stream.network = np.where(rng.random(len(stream)) < 0.85, 0, -1).astype(np.int64)
    return stream, facts


def non_english(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """People of one language who found the same helper app in a forum and reach the service through one VPN.

    settings: `language`, a name of wording.languages(). Pooled prompts are put into that script word by word.
    """
    known = wording.languages()
    language = settings.get("language") or known[int(rng.integers(0, len(known)))]
    place = known.index(language) if language in known else 0
    facts = habits.facts(rng, size, window, fresh=0.3, plans=(0.6, 0.3, 0.1, 0.0))
    rate = habits.rates(rng, size, settings.get("rate_per_day", 5.0))
    zone = float(settings.get("tz_offset_h", 0.0))
    times = habits.after(arrivals.human(rng, size, rate, zone, window), facts.signup_us)
    stream = chat(rng, times, pools, settings.get("pool"))
    n = len(stream)
    app = wording.template(rng, "prompt")
    free = wording.other_scripts(rng, n, known[place])
    inside = [free if kind == "prompt" else wording.draw(rng, kind, n) for kind in app.kinds]
    framed = [habits.foreign(text, place) for text in app.around(*inside)]
    uses = rng.random(size) < 0.6
    through = uses[stream.account].tolist()
    stream.prompt = [framed[k] if app_user else free[k] for k, app_user in enumerate(through)]
    stream.network = rng.integers(0, 3, n)
    return stream, facts


def niche_launch(
    size: int, window: Window, rng: np.random.Generator, arrivals: Arrivals, pools: Pools, settings: dict[str, Any]
) -> tuple[Stream, AccountFacts]:
    """An app goes round: within days many people, most of them new here, sign up and use it with its rare template.

    Use decays with each account's own half-life. Larger groups are several apps. Bass diffusion (1969).
    """
    part = habits.parts(rng, size, per=400, most=1000)
    apps = int(part.max()) + 1
    launch = rng.uniform(0.05, 0.6, apps)
    share = launch[part] + rng.gamma(2.0, 0.06, size)
    adopted = window.start_us + (np.minimum(share, 0.95) * window.days * DAY_US).astype(np.int64)
    new = rng.random(size) < 0.75
    signup = np.where(new, adopted - rng.integers(0, HOUR_US, size), habits.signups(rng, size, window, 0.0))
    plan = rng.choice(["free", "pro"], size, p=(0.7, 0.3)).tolist()
    payment = [None if name == "free" else k for k, name in enumerate(plan)]
    facts = AccountFacts.of(signup, plan=plan, payment=payment)
    products = [product(rng, tools=0.3) for _ in range(apps)]
    rate = habits.rates(rng, size, 2.0 * settings.get("rate_per_day", 5.0), 1.4)
    zone = rng.normal(float(settings.get("tz_offset_h", 0.0)), 3.0, size)
    times = habits.after(arrivals.human(rng, size, rate, zone, window), adopted)
    age = (times.time_us - adopted[times.account]) / (DAY_US * rng.lognormal(1.5, 0.7, size)[times.account])
    keep = rng.random(len(age)) < np.exp(-age)
    times = Times(times.account[keep], times.time_us[keep], times.session[keep])
    columns = spread(rng, times, products, part, pools, settings.get("pool"))
    turn = habits.turns(times.session)
    columns["conversation"] = habits.conversations(times.session)
    return made(rng, times, columns | {"turn": turn, "network": habits.roaming(rng, times)}), facts


PEOPLE: dict[str, Builder] = {
    "team_key": team_key,
    "gateway": gateway,
    "classroom": classroom,
    "university_nat": university_nat,
    "non_english": non_english,
    "niche_launch": niche_launch,
}
