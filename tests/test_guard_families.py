"""Campaign families: sizes, windows, rates and camouflage hold; each family does what its name says."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from stillproof.errors import ConfigError, InputError
from stillproof.guard.traffic import wording
from stillproof.guard.traffic.families import FAMILIES
from stillproof.guard.traffic.stream import DAY_US, HOUR_US, Arrivals, Pools, Window

WINDOW = Window(20_000 * DAY_US, 20_010 * DAY_US)
RELEASES = [(WINDOW.start_us + 5 * DAY_US, "large-2")]
TOLD = {"releases": RELEASES, "harnesses": ["You are Alpha.", "You are Beta, be brief."], "rate_per_day": 15.0}
SHARED_TEXT = sorted(set(FAMILIES) - {"serve_and_harvest", "store_then_replay", "partitioned_shards", "prompt_file"})


def rng(seed=1):
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "list.txt"
    path.write_text("".join(f"question number {place} of the list\n" for place in range(350)))
    return str(path)


def built(family, listed, size=40, seed=1, **settings):
    told = TOLD | ({"path": listed} if family == "prompt_file" else {}) | settings
    return FAMILIES[family](size, WINDOW, rng(seed), Arrivals(), Pools(), told)


def test_there_are_the_families_that_were_disclosed():
    assert len(FAMILIES) >= 16
    assert {"serve_and_harvest", "store_then_replay", "prompt_file"} <= set(FAMILIES)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_is_the_same_for_a_seed_and_another_for_another(family, listed):
    (one, facts), (same, facts_again), (other, _) = (built(family, listed, size=20, seed=seed) for seed in (1, 1, 2))
    assert one.prompt == same.prompt
    assert np.array_equal(one.time_us, same.time_us)
    assert np.array_equal(one.account, same.account)
    assert np.array_equal(facts.signup_us, facts_again.signup_us)
    assert one.blob == same.blob
    assert len(one) != len(other) or not np.array_equal(one.time_us, other.time_us)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("seed", [3, 4])
def test_sizes_windows_and_sign_ups_hold(family, seed, listed):
    stream, facts = built(family, listed, seed=seed)
    assert set(np.unique(stream.account)) <= set(range(40))
    assert len(np.unique(stream.account[stream.is_campaign])) >= 37
    assert len(facts.signup_us) == len(facts.plan) == len(facts.payment) == 40
    assert facts.organisation == [None] * 40
    assert (stream.time_us >= WINDOW.start_us).all()
    assert (stream.time_us < WINDOW.end_us).all()
    assert (stream.time_us >= facts.signup_us[stream.account]).all()
    assert all(stream.prompt)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_campaign_keeps_to_its_days(family, listed):
    stream, _ = built(family, listed, start_day=3.0, days=4.0, camouflage=0.3)
    own = stream.time_us[stream.is_campaign] - WINDOW.start_us
    # Retries and a last turn may run over by minutes.
    assert own.min() >= 3 * DAY_US
    assert own.max() < 7 * DAY_US + 3 * HOUR_US


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_camouflage_has_the_share_that_was_asked(family, share, listed):
    stream, _ = built(family, listed, camouflage=share)
    assert 1 - stream.is_campaign.mean() == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"pool_failover"}))
def test_accounts_send_at_the_rate_that_was_asked(family, listed):
    stream, _ = built(family, listed, size=100, start_day=0.0, ramp=0.0, camouflage=0.4)
    assert len(stream) / 100 / 10 == pytest.approx(15.0, rel=0.2)


@pytest.mark.parametrize("family", SHARED_TEXT)
def test_most_accounts_of_a_family_share_constant_text(family, listed):
    if family in ("logprob_harvest", "blob_replay"):  # these may be linked by other things alone
        return
    stream, _ = built(family, listed, camouflage=0.0, follow_up=0.0)
    grams = defaultdict(set)
    for text, system, account in zip(stream.prompt, stream.system, stream.account.tolist(), strict=True):
        words = f"{system or ''} {text}".split()
        for place in range(max(1, len(words) - 1)):
            grams[tuple(words[place : place + 2])].add(account)
    assert max(len(accounts) for accounts in grams.values()) >= 36


def test_a_fixed_prompt_is_in_every_request(listed):
    for place in ("before", "after", "system"):
        stream, _ = built("fixed_injected_prompt", listed, camouflage=0.0, follow_up=0.0, place=place)
        pieces = {
            "before": [text.split("\n\n")[0] for text in stream.prompt],
            "after": [text.split("\n\n")[-1] for text in stream.prompt],
            "system": stream.system,
        }
        assert len(set(pieces[place])) == 1


def test_a_blocked_pool_is_followed_within_minutes_by_a_standby_pool(listed):
    for seed in range(3):
        stream, _ = built("pool_failover", listed, size=100, seed=seed, rate_per_day=100.0, standby=0.4, camouflage=0.3)
        first, own = stream.account < 60, stream.is_campaign
        refused = (stream.status == 403) & own
        blocked = stream.time_us[refused].min()
        assert (stream.account[refused] < 60).all()
        assert not (own & ~first & (stream.time_us < blocked - HOUR_US)).any()
        takeover = stream.time_us[own & ~first].min()
        # The queue itself may rest for hours.
        resumed = stream.time_us[own & (stream.time_us > blocked + 30 * 60_000_000)].min()
        assert takeover <= resumed + 15 * 60_000_000
        late = stream.time_us > blocked + 12 * HOUR_US
        assert not (late & first).any()
        assert len(np.unique(stream.account[late & own])) == 40
        before = stream.time_us < blocked

        def last_words(rows, stream=stream):
            texts = [stream.prompt[row] for row in np.flatnonzero(rows)]
            return {tuple(text.split()[:1]) for text in texts} | {tuple(text.split()[-1:]) for text in texts}

        assert last_words(before & own & first) & last_words(late & own)


def test_half_of_the_traffic_moves_to_a_new_model_within_a_day(listed):
    stream, _ = built("model_pivot", listed, camouflage=0.0, moved=0.5, start_day=0.0)
    age = (stream.time_us - RELEASES[0][0]) / HOUR_US
    new = np.asarray([name == "@newest" for name in stream.model])
    assert new[age < 0].all()
    assert new[age > 24].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_partition_covers_the_list_and_asks_each_item_of_k_accounts(k, seed, tmp_path):
    items = [f"item {place}" for place in range(50_000)]
    told = TOLD | {"k": k, "camouflage": 0.0, "follow_up": 0.0}
    stream, _ = FAMILIES["partitioned_shards"](50, WINDOW, rng(seed), Arrivals(), Pools({"list": items}), told)
    asked = defaultdict(set)
    for text, account in zip(stream.prompt, stream.account.tolist(), strict=True):
        asked[text].add(account)
    assert set(asked) <= set(items)
    counts = Counter(len(accounts) for accounts in asked.values())
    assert counts[k] >= 0.98 * len(asked)
    assert max(counts) == k
    share = np.bincount(stream.account, minlength=50) / len(stream) * 50
    assert share.min() > 0.1


def test_a_file_is_worked_through_without_replacement_and_then_again(listed):
    stream, _ = built("prompt_file", listed, camouflage=0.0, follow_up=0.0, rate_per_day=15.0)
    done = stream.status == 200
    order = np.argsort(stream.time_us[done], kind="stable")
    texts = [np.asarray(stream.prompt, dtype=object)[done][place] for place in order.tolist()]
    counts = Counter(texts)
    assert len(counts) == 350
    # What was sent again after an error comes late, so neighbouring rounds may overlap a little.
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len(set(texts[:340])) >= 337


def test_a_file_that_is_not_named_or_not_there_is_refused(listed):
    with pytest.raises(ConfigError):
        FAMILIES["prompt_file"](5, WINDOW, rng(), Arrivals(), Pools(), TOLD)
    with pytest.raises(InputError):
        built("prompt_file", listed, path="/nowhere/at-all.txt")
    with pytest.raises(ConfigError):
        built("template_grid", listed, camouflage=1.0)
    with pytest.raises(ConfigError):
        built("partitioned_shards", listed, k=41)
    with pytest.raises(ConfigError):
        built("template_grid", listed, start_day=11.0)


def test_blocks_issued_to_one_account_come_back_from_others(listed):
    stream, _ = built("blob_replay", listed, replayed=0.6)
    owner = {name: account for name, account in zip(stream.blob_issued, stream.account.tolist(), strict=True) if name}
    back = [(name, account) for name, account in zip(stream.blob, stream.account.tolist(), strict=True) if name]
    assert len(back) > 500
    assert np.mean([owner.get(name) != account for name, account in back]) > 0.9


def test_sessions_are_replayed_in_order_on_one_account(listed):
    stream, _ = built("store_then_replay", listed, camouflage=0.0)
    sessions = defaultdict(list)
    for row, name in enumerate(stream.conversation):
        sessions[name].append(row)
    long = [rows for rows in sessions.values() if len(rows) > 3]
    assert len(long) > 50
    for rows in long:
        assert len(set(stream.account[rows].tolist())) == 1
        ordered = sorted(rows, key=lambda row: (int(stream.turn[row]), int(stream.time_us[row])))
        assert max(np.diff(stream.turn[ordered])) == 1
        assert stream.time_us[rows].max() - stream.time_us[rows].min() < 4 * HOUR_US


def test_log_probabilities_are_asked_for_with_every_answer_and_one_cap(listed):
    stream, _ = built("logprob_harvest", listed, camouflage=0.0)
    assert len(set(stream.max_tokens)) == len(set(stream.top_logprobs)) == 1
    assert None not in stream.top_logprobs


def test_no_single_habit_marks_every_campaign(listed):
    campaigns = [built("template_grid", listed, size=20, seed=seed, camouflage=0.3) for seed in range(40)]
    night = [np.bincount(s.time_us[s.is_campaign] // HOUR_US % 24, minlength=24) for s, _ in campaigns]
    flat = [hours.min() > 0.3 * hours.max() for hours in night]
    aged = [np.quantile(WINDOW.start_us - f.signup_us, 0.4) > 100 * DAY_US for _, f in campaigns]
    follow = [(s.turn[s.is_campaign] > 1).any() for s, _ in campaigns]
    systems = [any(system for system, own in zip(s.system, s.is_campaign, strict=True) if own) for s, _ in campaigns]
    for habit in (flat, aged, follow, systems):
        assert 0.05 < np.mean(habit) < 0.95


def test_natural_prompts_are_unique_and_of_natural_length():
    texts = wording.prompts(rng(), 20_000)
    assert len(set(texts)) > 19_990
    lengths = np.asarray([len(text) for text in texts])
    assert 280 < lengths.mean() < 420
    assert np.median(lengths) < lengths.mean()
    openings = Counter(tuple(text.split()[:8]) for text in texts)
    assert len(openings) > 18_500
    assert len({tuple(text.split()[:24]) for text in texts}) > 19_900


def test_templates_and_harnesses_are_unique_and_templates_constant():
    dice = rng()
    templates = [wording.template(dice) for _ in range(800)]
    assert len({item.form for item in templates}) == 800
    assert len({wording.harness(dice) for _ in range(300)}) == 300
    for item in templates[:60]:
        frame = item.form.replace("%%", "%").split("%s")
        for text in item.fill(dice, 3):
            assert text.startswith(frame[0])
            assert text.endswith(frame[-1])
    assert {len(item.kinds) for item in templates} == {1, 2}
    assert wording.prompts(dice, 0) == wording.template(dice).fill(dice, 0) == wording.follow_up(dice, 0) == []


def test_seven_languages_in_their_scripts():
    assert len(wording.languages()) == 7
    texts = wording.other_scripts(rng(), 2000)
    assert len(set(texts)) > 1950
    assert not any("{" in text or "\0" in text for text in texts)
    for language, letter in (("russian", "о"), ("arabic", "ا"), ("hindi", "क"), ("chinese", "的"), ("japanese", "の")):
        assert any(letter in text for text in wording.other_scripts(rng(), 20, language))
        assert wording.trace_wordings(language)
