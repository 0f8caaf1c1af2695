"""What honest accounts have in common: heavy-tailed rates, sign-ups, conversations, repeats and edits of prompts."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.guard.traffic import wording
from stillproof.guard.traffic.stream import DAY_US, AccountFacts, Pools, Times, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAIN_SLOTS = ("passage", "prompt")
PLANS = ("free", "pro", "team", "enterprise")
CLIENTS = (
    "web/5.2",
    "mobile-ios/5.1",
    "mobile-android/5.1",
    "sdk-python/1.9",
    "sdk-node/4.4",
    "curl/8.5",
    "ide-plugin/2.3",
    "python-requests/2.32",
    "go-http-client/2.0",
)


def rates(rng: np.random.Generator, n: int, mean: float, sigma: float = 1.3) -> NDArray[np.float64]:
    """(n,) log-normal rates with that mean, cut at 60 times the mean so that one account is not the whole world."""
    return np.minimum(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, n), 60 * mean)


def signups(rng: np.random.Generator, n: int, window: Window, fresh: float = 0.15) -> NDArray[np.int64]:
    """(n,) sign-up times: a share `fresh` of accounts signs up inside the window, the others in two years before."""
    before = window.start_us - (rng.exponential(200, n).clip(0, 730) * DAY_US).astype(np.int64)
    inside = window.start_us + (rng.random(n) * 0.9 * window.days * DAY_US).astype(np.int64)
    return np.where(rng.random(n) < fresh, inside, before)


def facts(
    rng: np.random.Generator, n: int, window: Window, *, fresh: float = 0.15, plans: tuple[float, ...] | None = None
) -> AccountFacts:
    """Unrelated accounts: own payment where the plan is paid (3% pay as somebody else does), no declared customer."""
    plan = rng.choice(PLANS, n, p=plans or (0.4, 0.4, 0.15, 0.05)).tolist()
    payer = np.where(rng.random(n) < 0.03, rng.integers(0, n, n), np.arange(n)).tolist()
    payment = [None if name == "free" else payer[place] for place, name in enumerate(plan)]
    return AccountFacts.of(signups(rng, n, window, fresh), plan=plan, payment=payment)


def after(times: Times, since_us: NDArray[np.int64]) -> Times:
    """Only the arrivals of each account after its own (n,) time: sign-up, or adoption of an app."""
    keep = times.time_us >= since_us[times.account]
    return Times(times.account[keep], times.time_us[keep], times.session[keep])


def adoption(rng: np.random.Generator, n: int, window: Window) -> NDArray[np.int64]:
    """(n,) times at which accounts take up an app: logistic around the launch's own date, about a third before."""
    centre = rng.uniform(-0.3, 0.7)
    spread = rng.uniform(0.08, 0.3)
    share = centre + rng.logistic(0.0, spread, n)
    return window.start_us + (np.clip(share, -1.0, 0.85) * window.days * DAY_US).astype(np.int64)


def turns(session: NDArray[np.int64]) -> NDArray[np.int32]:
    """(n,) 1-based place of each exchange in its session; sessions are contiguous."""
    n = len(session)
    if not n:
        return np.zeros(0, np.int32)
    new = np.concatenate([[True], session[1:] != session[:-1]])
    first = np.flatnonzero(new)
    return (np.arange(n) - np.repeat(first, np.diff(np.append(first, n))) + 1).astype(np.int32)


def conversations(session: NDArray[np.int64]) -> list[str | None]:
    return [f"c{number}" for number in session.tolist()]


def converse(
    rng: np.random.Generator, fresh: list[str], account: NDArray[np.int32], turn: NDArray[np.int32]
) -> list[str]:
    """Texts as people send them: some follow-ups in a word, some repeats and edits of the account's last prompt."""
    n = len(fresh)
    chance = rng.random(n)
    same = np.concatenate([[False], account[1:] == account[:-1]])[:n]
    follows = np.flatnonzero((turn > 1) & (chance < 0.3))
    repeats = same & (chance > 0.975)
    edits = same & (chance > 0.94) & (chance <= 0.975)
    out = list(fresh)
    for place, text in zip(follows.tolist(), wording.follow_up(rng, len(follows)), strict=True):
        out[place] = text
    for place in np.flatnonzero(repeats).tolist():
        out[place] = out[place - 1]
    for place in np.flatnonzero(edits).tolist():
        out[place] = f"{out[place - 1]} ({fresh[place][:40]})"
    return out


def history_tokens(rng: np.random.Generator, turn: NDArray[np.int32]) -> NDArray[np.int64]:
    """(n,) tokens of earlier turns that a request carries."""
    return ((turn - 1) * rng.lognormal(5.6, 0.5, len(turn))).astype(np.int64)


def tokens_of(prompt: list[str], system: list[str | None]) -> NDArray[np.int64]:
    """(n,) tokens, at four characters each."""
    sizes = [len(text) + (len(head) if head else 0) for text, head in zip(prompt, system, strict=True)]
    return np.asarray(sizes, np.int64) // 4 + 4


def per_account(values: list[Any], account: NDArray[np.int32]) -> list[Any]:
    """A list with one entry an account, spread over exchanges."""
    return [values[place] for place in account.tolist()]


def own_clients(rng: np.random.Generator, n: int, kinds: slice = slice(None)) -> list[str]:
    names = CLIENTS[kinds]
    return [names[place] for place in rng.integers(0, len(names), n).tolist()]


def roaming(rng: np.random.Generator, times: Times, share: float = 0.15) -> NDArray[np.int64]:
    """(n,) networks: the account's own first, in some sessions its second (a phone, a home)."""
    away = np.random.Generator(np.random.Philox(key=int(rng.integers(0, 2**62))))
    if not len(times.session):
        return np.zeros(0, np.int64)
    flags = away.random(int(times.session.max()) + 1) < share
    return np.where(flags[times.session], -2, -1).astype(np.int64)


# Syllables for the languages of `wording.languages()`, in their order. Words are made of them by a digest, so that a
# text keeps its structure (which words repeat, what is a number) and no meaning: cohorts differ in script and length.
SYLLABLES = (
    "ción lla men to rei ba nta de so vi gue ra",
    "ung schen ver ge be lich ten au stra hei mer ost",
    "ра но ти ков ла ми ст во бе ду ше ги",
    "ما لا نو ري تا سي كا دو بر عم في هل",
    "का मा री नी सा ते दो पा लो ही भा ज",
    "的 一 是 在 不 了 有 和 人 这 中 大",
    "の か し て を た ん い る こ と ま",
)


@lru_cache(maxsize=200_000)
def _foreign_word(word: str, language: int) -> str:
    from zlib import crc32

    if not any(letter.isalpha() for letter in word):
        return word
    pieces = SYLLABLES[language % len(SYLLABLES)].split()
    state = crc32(word.lower().encode(), language)
    count = 1 + min(len(word) // 3, 3)
    return "".join(pieces[(state >> (4 * place)) % len(pieces)] for place in range(count))


def foreign(text: str, language: int) -> str:
    """The text with every word exchanged for one in another script; equal words stay equal."""
    return " ".join([_foreign_word(word, language) for word in text.split(" ")])


def filled_all(
    rng: np.random.Generator, jobs: list[tuple[wording.Template, int]], pools: Pools, name: str | None = None
) -> list[list[str]]:
    """For each (template, n) n requests of it. Main slots are filled from the pools where there are any.

    The contents of all jobs are drawn at once: a call for each of many small jobs would cost more than the text.
    """
    need = {kind: sum(n for template, n in jobs for slot in template.kinds if slot == kind) for kind in MAIN_SLOTS}
    drawn = {
        "passage": iter(
            pools.draw(rng, need["passage"], name) if pools.lists else wording.passages(rng, need["passage"])
        ),
        "prompt": iter(pools.draw(rng, need["prompt"], name)),
    }
    return [
        template.around(
            *(list(islice(drawn[kind], n)) if kind in drawn else wording.draw(rng, kind, n) for kind in template.kinds)
        )
        for template, n in jobs
    ]


def filled(
    rng: np.random.Generator, template: wording.Template, n: int, pools: Pools, name: str | None = None
) -> list[str]:
    """n requests of one template, as `filled_all`."""
    return filled_all(rng, [(template, n)], pools, name)[0]


def tools_json(rng: np.random.Generator) -> str:
    """Canonical JSON of one to six tool definitions with made-up names."""
    import json

    names = wording.draw(rng, "ident", int(rng.integers(1, 7)))
    words = wording.draw(rng, "name", len(names))
    return json.dumps(
        [
            {"name": name, "description": f"Use {word} to {name.replace('_', ' ')}", "parameters": {name: "string"}}
            for name, word in zip(names, words, strict=True)
        ],
        separators=(",", ":"),
        sort_keys=True,
    )


def blobs(session: NDArray[np.int64], uses: NDArray[np.bool_]) -> tuple[list[str | None], list[str | None]]:
    """(blob, blob_issued): where `uses` holds, an answer issues a block that the next turn of the session returns."""
    issued: list[str | None] = [f"b{place}" if use else None for place, use in enumerate(uses.tolist())]
    same = np.concatenate([[False], session[1:] == session[:-1]])[: len(session)].tolist()
    return [issued[place - 1] if follows else None for place, follows in enumerate(same)], issued


def parts(rng: np.random.Generator, size: int, per: int = 120, most: int = 300) -> NDArray[np.int64]:
    """(size,) the sub-group of each account; up to `most` accounts stay one, else sub-groups are of log-normal size."""
    if size <= most:
        return np.zeros(size, np.int64)
    weights = rng.lognormal(0.0, 1.0, max(2, size // per))
    return rng.choice(len(weights), size, p=weights / weights.sum())
