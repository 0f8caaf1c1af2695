"""Worlds: what the composer promises about labels, text, time and pseudonyms."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillproof.config import load
from stillproof.errors import ConfigError, InputError, OutputExistsError
from stillproof.guard.log import log_files, log_schema
from stillproof.guard.traffic import GroupConfig, World, write_world
from stillproof.guard.traffic.arrivals import DAY_US, HOUR_US, Arrivals, Window
from stillproof.guard.traffic.habits import blobs, foreign, turns
from stillproof.guard.traffic.honest import HONEST
from stillproof.guard.traffic.ordinary import catalogue
from stillproof.guard.traffic.pools import Pools, read_prompts
from stillproof.guard.traffic.stream import Stream

RECIPES = Path(__file__).parents[1] / "recipes"
WINDOW = Window(1_788_220_800_000_000, 1_788_220_800_000_000 + 10 * DAY_US)


def rng(seed=1):
    return np.random.Generator(np.random.Philox(seed))


def tiny(**changes):
    honest = tuple(GroupConfig(kind="honest_heavy", family=name, size=6) for name in HONEST)
    return World(**({"days": 4, "n_ordinary": 60, "groups": honest, "releases": ()} | changes))


def asked(folder, query):
    with duckdb.connect() as db:
        db.sql(f"create view log as select * from '{folder}/log/*.parquet'")
        for name in ("truth", "accounts", "truth_exchanges"):
            db.sql(f"create view {name} as select * from '{folder}/{name}.parquet'")
        return db.sql(query).fetchall()


@pytest.fixture(scope="module")
def null_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "null"
    return folder, write_world(tiny(), folder)


def test_a_world_is_a_log_with_its_accounts_and_truth(null_world):
    folder, totals = null_world
    files = log_files(folder)
    assert pq.read_schema(files[0]).equals(log_schema())
    assert asked(folder, "select count(*) from log") == [(totals["n_exchanges"],)]
    assert asked(folder, "select count(distinct account) from truth") == [(totals["n_accounts"],)]
    assert asked(folder, "select count(*) from log anti join accounts using (account)") == [(0,)]
    assert asked(folder, "select count(*) from accounts anti join truth using (account)") == [(0,)]
    assert json.loads((folder / "world.json").read_text())["digest"] == totals["digest"]
    assert not (folder / ".spill").exists()


def test_a_null_world_marks_nothing(null_world):
    folder, totals = null_world
    assert totals["n_campaigns"] == totals["n_campaign_exchanges"] == 0
    assert asked(folder, "select count(*) from truth_exchanges") == [(0,)]
    assert asked(folder, "select distinct kind from truth order by 1") == [("honest_heavy",), ("ordinary",)]


def test_every_honest_class_sends_and_at_least_sixteen_exist(null_world):
    folder, _ = null_world
    families = asked(folder, "select distinct family from log join truth using (account) where kind = 'honest_heavy'")
    assert {name for (name,) in families} == set(HONEST)
    assert len(HONEST) >= 16


def test_rows_are_in_time_order_inside_the_window_with_unique_ids(null_world):
    folder, totals = null_world
    window = tiny().window
    for file in log_files(folder):
        times = pq.read_table(file, columns=["time"])["time"].cast("int64").to_numpy()
        assert (np.diff(times) >= 0).all()
        assert window.start_us <= times[0] and times[-1] < window.end_us
    assert asked(folder, "select count(distinct id) from log") == [(totals["n_exchanges"],)]


def test_nobody_sends_before_signing_up(null_world):
    folder, _ = null_world
    assert asked(folder, "select count(*) from log join accounts using (account) where time < signup") == [(0,)]


def test_the_log_carries_no_name_of_a_group(null_world):
    folder, _ = null_world
    names = ("account", "organisation", "conversation", "network", "blob", "id")
    for name in names:
        odd = f"select count(*) from log where {name} is not null and not regexp_matches({name}, '^[0-9a-f]{{32}}$')"
        assert asked(folder, odd) == [(0,)], name


@pytest.mark.parametrize("family", ["ci_review", "batch_labelling", "audit_trail", "niche_launch", "rag_backfill"])
def test_unrelated_honest_accounts_share_a_template_as_campaigns_do(family):
    stream, facts = HONEST[family](60, WINDOW, rng(), Arrivals(), Pools(), {})
    users: dict[tuple[str, ...], set[int]] = {}
    for account, text in zip(stream.account.tolist(), stream.prompt, strict=True):
        for words in (text.split()[:4], text.split()[-4:]):
            users.setdefault(tuple(words), set()).add(account)
    assert max(len(accounts) for accounts in users.values()) >= 30
    assert set(facts.organisation) == {None}


@pytest.mark.parametrize("family", ["nightly_evaluation", "drift_monitor", "release_day"])
def test_unrelated_honest_accounts_share_exact_items_as_sweeps_do(family):
    stream, _ = HONEST[family](60, WINDOW, rng(), Arrivals(), Pools(), {})
    users: dict[str, set[int]] = {}
    for account, text in zip(stream.account.tolist(), stream.prompt, strict=True):
        users.setdefault(text, set()).add(account)
    assert sum(len(accounts) >= 4 for accounts in users.values()) >= 10


def test_only_declared_customers_have_an_organisation(null_world):
    folder, _ = null_world
    rows = asked(
        folder, "select distinct family from truth join accounts using (account) where organisation is not null"
    )
    assert {name for (name,) in rows} <= {"gateway", "synthetic_data"}
    customers = "select count(distinct organisation) from truth join accounts using (account) where family = 'gateway'"
    assert asked(folder, customers) == [(1,)]


def test_a_returned_reasoning_block_was_issued_before_to_the_same_honest_account(null_world):
    folder, _ = null_world
    query = """select count(*) from log a left join log b on a.blob = b.blob_issued and a.account = b.account
               and b.time <= a.time where a.blob is not null and b.id is null"""
    assert asked(folder, query) == [(0,)]
    assert asked(folder, "select count(*) from log where blob is not null")[0][0] > 0


def test_cohorts_are_given_to_ordinary_accounts_at_the_shares_asked_for(tmp_path):
    world = tiny(n_ordinary=3000, groups=(), rate_per_day=0.2, vpn_share=0.2, language_share=0.25, timezone_share=0.5)
    write_world(world, tmp_path / "w")
    rows = dict(asked(tmp_path / "w", "select split_part(cohort, '_', 1), count(*) / 3000 from truth group by 1"))
    assert rows["vpn"] == pytest.approx(0.2, abs=0.03)
    assert rows["language"] == pytest.approx(0.8 * 0.25, abs=0.03)
    assert rows["timezone"] == pytest.approx(0.8 * 0.5, abs=0.03)


def test_the_same_config_gives_the_same_world_and_another_seed_another(tmp_path):
    first = write_world(tiny(), tmp_path / "a")
    again = write_world(tiny(), tmp_path / "b")
    other = write_world(tiny(seed=8), tmp_path / "c")
    assert first["digest"] == again["digest"] != other["digest"]
    for name in ("truth", "accounts"):
        assert pq.read_table(tmp_path / "a" / f"{name}.parquet").equals(
            pq.read_table(tmp_path / "b" / f"{name}.parquet")
        )


def test_adding_a_group_leaves_the_others_as_they_were(tmp_path):
    write_world(tiny(groups=()), tmp_path / "a")
    extra = (GroupConfig(kind="honest_heavy", family="classroom", size=5),)
    write_world(tiny(groups=extra), tmp_path / "b")
    people = "(select * from truth where kind = 'ordinary')"
    query = f"select epoch_us(time), account, prompt, network from log semi join {people} using (account) order by all"
    assert asked(tmp_path / "a", query) == asked(tmp_path / "b", query)


def test_an_earlier_world_is_not_overwritten(null_world):
    with pytest.raises(OutputExistsError):
        write_world(tiny(), null_world[0])


def test_files_and_traces_replace_the_built_in_text_and_rhythm(tmp_path):
    lines = [f"where is parcel number {k} of the {w} shipment" for k in range(40) for w in ("red", "blue", "green")]
    (tmp_path / "p.txt").write_text("\n".join(lines), encoding="utf-8")
    trace = ["TIMESTAMP,ContextTokens,GeneratedTokens"] + [
        f"2023-11-16 18:{k:02d}:01.9799600,300,77" for k in range(60)
    ]
    (tmp_path / "t.csv").write_text("\n".join(trace), encoding="utf-8")
    world = tiny(pools={"p": str(tmp_path / "p.txt")}, traces=(str(tmp_path / "t.csv"),), language_share=0.0)
    totals = write_world(world, tmp_path / "w")
    assert totals["effective"]["base_prompts"] == len(lines)
    assert asked(tmp_path / "w", "select avg(contains(prompt, 'parcel')::int) from log")[0][0] > 0.3
    assert asked(tmp_path / "w", "select max(response_tokens) from log") == [(77,)]
    chats = (
        "select count(distinct prompt) / count(*) from log join truth using (account) where family = 'university_nat'"
    )
    assert asked(tmp_path / "w", chats)[0][0] > 0.6


def test_the_two_halves_of_a_pool_are_disjoint_and_complete(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {k}" for k in range(50)), encoding="utf-8")
    pools = {"p": str(tmp_path / "p.txt")}
    even, odd = (set(tiny(pools=pools, pool_half=half).load_pools().lists["p"]) for half in ("even", "odd"))
    assert not even & odd
    assert len(even | odd) == 50


@pytest.mark.parametrize("name", ["world_null", "world_tiny"])
def test_the_null_recipes_hold_every_honest_class_and_no_campaign(name):
    world = load(World, RECIPES / f"{name}.toml")
    assert {group.family for group in world.groups} == set(HONEST)
    assert all(group.kind == "honest_heavy" for group in world.groups)


def test_the_small_recipe_holds_every_honest_class_and_four_campaigns():
    world = load(World, RECIPES / "world_small.toml")
    assert {group.family for group in world.groups if group.kind == "honest_heavy"} == set(HONEST)
    assert sum(group.count for group in world.groups if group.kind == "campaign") == 4


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "w.toml").write_text('[[groups]]\nkind = "honest_heavy"\nfamily = "clasroom"\nsize = 3\n')
    with pytest.raises(ConfigError, match="classroom"):
        load(World, tmp_path / "w.toml")


@pytest.mark.parametrize("family", sorted(HONEST))
def test_a_builder_is_honest_numbers_its_accounts_and_cites_what_it_is(family):
    told = {"releases": [], "catalogue": catalogue(rng(), WINDOW, 3, 1.1, 3), "tz_offset_h": 2.0}
    stream, facts = HONEST[family](40, WINDOW, rng(), Arrivals(), Pools(), told)
    assert HONEST[family].__doc__
    assert len(facts.signup_us) == len(facts.plan) == len(facts.payment) == len(facts.organisation) == 40
    assert not stream.is_campaign.any()
    assert stream.account.min() >= 0 and stream.account.max() < 40
    assert WINDOW.start_us <= stream.time_us.min() and stream.time_us.max() < WINDOW.end_us
    assert all(stream.prompt)


@pytest.mark.parametrize("family", ["ci_review", "niche_launch", "classroom"])
def test_large_honest_groups_have_templates_of_ten_to_some_hundred_accounts(family):
    stream, _ = HONEST[family](600, WINDOW, rng(), Arrivals(), Pools(), {"rate_per_day": 2.0})
    counts = np.bincount(stream.account, minlength=600)
    assert counts.max() > 10 * max(1.0, float(np.median(counts)))


def test_people_sleep_and_rest_at_weekends_and_programs_do_neither():
    window = Window(WINDOW.start_us, WINDOW.start_us + 28 * DAY_US)
    people = Arrivals().human(rng(), 300, 5.0, 0.0, window)
    programs = Arrivals().poisson(rng(), 300, 5.0, window)
    night = [np.isin(times.time_us % DAY_US // HOUR_US, [1, 2, 3]).mean() for times in (people, programs)]
    weekend = [((times.time_us // DAY_US + 3) % 7 >= 5).mean() for times in (people, programs)]
    assert night[0] < 0.06 < 0.1 < night[1]
    assert weekend[0] < 0.24 < 0.26 < weekend[1]


def test_clocked_runs_of_unrelated_accounts_start_at_the_same_minutes():
    times = Arrivals().cron(rng(), 50, 5, WINDOW, hour=2.0)
    assert (times.time_us % DAY_US // HOUR_US == 2).mean() > 0.99
    assert len(np.unique(times.account)) == 50


def test_a_trace_of_a_day_gives_its_hours(tmp_path):
    rows = [f"{hour * 3600 + k + 86_400 * day},9,3" for day in range(2) for hour in (3, 4) for k in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["Timestamp,Request tokens,Response tokens", *rows]))
    arrivals = Arrivals.from_traces([tmp_path / "t.csv"])
    assert arrivals.hour_weights.argmax() in (3, 4)
    assert [part.tolist() for part in arrivals.lengths(rng(), 2)] == [[9, 9], [3, 3]]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "timestamp\nnever\n"])
def test_a_trace_without_times_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError):
        Arrivals.from_traces([tmp_path / "t.csv"])


FORMS = {
    "a.txt": "one thing\n\ntwo things\n",
    "a.jsonl": '{"id": 1, "question": "one thing"}\nnot json\n{"question": "two things"}\n',
    "a.json": '{"train": [["one thing", "x"], ["two things", "y"]]}',
    "b.json": '[{"instruction": "one thing"}, {"instruction": "two things"}]',
    "c.json": '["one thing", "two things"]',
    "a.csv": "label,text\nx,one thing\ny,two things\n",
    "b.csv": "k,words\n1,one thing\n2,two things\n",
    "a.tsv": "k\tquery\n1\tone thing\n2\ttwo things\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_prompt_file_of_any_kind_gives_its_texts(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_prompts(str(tmp_path / name)) == ["one thing", "two things"]


def test_a_column_can_be_named_and_one_that_is_absent_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,other\nx,one\ny,two\n")
    assert read_prompts(f"{tmp_path / 'a.csv'}#other") == ["one", "two"]
    with pytest.raises(InputError):
        read_prompts(f"{tmp_path / 'a.csv'}#third")
    with pytest.raises(InputError):
        read_prompts(str(tmp_path / "absent.txt"))


@settings(max_examples=60, deadline=None)
@given(content=st.text(max_size=200), kind=st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv"]))
def test_any_text_in_a_prompt_file_gives_texts_or_an_input_error(tmp_path_factory, content, kind):
    path = tmp_path_factory.mktemp("any") / f"a{kind}"
    path.write_text(content, encoding="utf-8")
    try:
        items = read_prompts(str(path))
    except InputError:
        return
    assert items and all(isinstance(item, str) and item.strip() for item in items)


@settings(max_examples=40, deadline=None)
@given(items=st.lists(st.text(min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=20, unique=True))
def test_drawing_edits_and_exact_does_not(items):
    pools = Pools({"p": items})
    assert len(pools.draw(rng(), 30)) == 30
    assert set(pools.exact(rng(), len(items), "p")) == set(items)


def test_ten_draws_of_each_base_prompt_are_mostly_different_texts():
    pools = Pools({"p": [f"how do I cook {k} eggs in a {w} pan" for k in range(10) for w in "abcdefgh"]})
    drawn = pools.draw(rng(), 800)
    assert len(set(drawn)) > 0.95 * 800
    assert len({" ".join(text.split()[:8]) for text in drawn}) > 0.8 * 800


def test_a_stream_fills_what_is_not_named_and_refuses_unknown_or_uneven_columns():
    account, time = np.asarray([0, 1]), np.asarray([5, 6])
    stream = Stream.of(account, time, ["a", "b"], temperature=0.5)
    assert stream.temperature == [0.5, 0.5] and stream.turn.tolist() == [1, 1] and stream.system == [None, None]
    assert Stream.concat([stream, stream.take(np.asarray([True, False]))]).prompt == ["a", "b", "a"]
    with pytest.raises(TypeError):
        Stream.of(account, time, ["a", "b"], temprature=0.5)
    with pytest.raises(ValueError, match="prompt"):
        Stream.of(account, time, ["a"])


def test_turns_count_in_their_session_and_blocks_return_in_it():
    session = np.asarray([0, 0, 0, 4, 9, 9])
    assert turns(session).tolist() == [1, 2, 3, 1, 1, 2]
    sent, issued = blobs(session, np.ones(6, bool))
    assert sent == [None, issued[0], issued[1], None, None, issued[4]]


@settings(deadline=None)
@given(text=st.text(max_size=60), language=st.integers(0, 6))
def test_another_script_keeps_words_numbers_and_repeats(text, language):
    moved = foreign(text, language)
    assert len(moved.split(" ")) == len(text.split(" "))
    assert foreign(text, language) == moved
    assert foreign("17 of 17", language).startswith("17 ")


def test_models_of_a_release_appear_when_it_does(tmp_path):
    world = load(World, None, ["days=4", "n_ordinary=80", 'releases=[{model="x-9", day=2.0}]'])
    write_world(world, tmp_path / "w")
    first = asked(tmp_path / "w", "select epoch_us(min(time)) from log where model = 'x-9'")[0][0]
    assert first >= world.window.start_us + 2 * DAY_US


def test_marked_exchanges_are_of_campaign_accounts_and_camouflage_is_not_marked(tmp_path):
    drive = {"camouflage": 0.4, "rate_per_day": 20}
    group = GroupConfig(kind="campaign", family="template_grid", size=10, count=2, settings=drive)
    totals = write_world(tiny(groups=(group,)), tmp_path / "w")
    assert totals["n_campaigns"] == 2
    assert totals["n_campaign_accounts"] == 20
    joined = "from log join truth using (account) left join truth_exchanges e using (id)"
    assert asked(tmp_path / "w", f"select count(*) {joined} where e.id is not null and kind <> 'campaign'") == [(0,)]
    assert asked(tmp_path / "w", f"select count(*) {joined} where e.campaign <> truth.campaign") == [(0,)]
    share = asked(tmp_path / "w", f"select avg((e.id is null)::int) {joined} where kind = 'campaign'")[0][0]
    assert share == pytest.approx(0.4, abs=0.12)
