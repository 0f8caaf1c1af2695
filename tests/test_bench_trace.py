"""The calibration and power runs of trace: closed forms of their parts, and every experiment once in tiny size."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bench.trace import calibrate, many_keys, paraphrase, power, robustness, run, summary, tables, texts
from bench.trace import students as st
from bench.trace.curves import Chart, svg
from bench.trace.jobs import Case, results, run_missing
from bench.trace.world import ANSWER, PROMPT, ROW, Sizes, World, key_of, prepare, served
from numpy.random import Generator, Philox

from stillproof.canary import found
from stillproof.trace.evidence import Tuples, closed_tuples, open_tuples
from stillproof.trace.radioactivity import AnytimeAudit, log10_p_of
from stillproof.watermark import Scheme, decoy_lanes, law_of, score_lanes, window_codes

SHAPE = st.Shape(vocab=64, width=32, layers=2, context=16)
GREEN, GUMBEL = Scheme("green", 1), Scheme("gumbel", 2)


def rows(n: int, seed: int, length: int = 16, vocab: int = 64) -> np.ndarray:
    return Generator(Philox(seed)).integers(0, vocab, size=(n, length))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    sizes = Sizes(chars=60_000, teacher_tokens=10_000, base_tokens=10_000, plain_rows=60)
    return prepare(tmp_path_factory.mktemp("bench") / "world", None, sizes, "cpu")


# --- students -------------------------------------------------------------------------------------------------


def test_a_student_learns_the_same_beside_others_as_alone() -> None:
    data = [rows(24, 1), rows(24, 2)]
    both = st.Students(SHAPE, [5, 6])
    together = st.train(both, data, [7, 8], st.Schedule(2.0, 8))
    alone = [st.train(st.Students(SHAPE, [5 + i]), [data[i]], [7 + i], st.Schedule(2.0, 8))[0] for i in range(2)]
    assert together == pytest.approx(alone, rel=1e-3)


def test_students_learn_what_repeats() -> None:
    data = np.tile(np.arange(16), (64, 1))
    (loss,) = st.train(st.Students(SHAPE, [1]), [data], [1], st.Schedule(20.0, 16, 3e-3))
    assert loss < 0.5 < math.log(64)


def test_padding_is_not_learned() -> None:
    data = np.tile(np.arange(16), (64, 1))
    data[:, 8:] = -1
    student = st.Students(SHAPE, [1])
    st.train(student, [data], [1], st.Schedule(20.0, 16, 3e-3))
    seen, unseen = (st.mean_logprobs(student, [np.arange(16)[None, :n]], n - 4)[0][0] for n in (8, 16))
    assert seen > -0.5 > -2.0 > unseen


def test_a_cache_gives_the_logits_of_the_whole_text() -> None:
    student, ids = st.Students(SHAPE, [1, 2]).eval(), torch.from_numpy(np.stack([rows(3, 1), rows(3, 2)]))
    cache = st.Cache(SHAPE.layers)
    parts = [student(ids[:, :, a:b], cache) for a, b in ((0, 5), *((i, i + 1) for i in range(5, 16)))]
    assert torch.allclose(torch.cat(parts, dim=2), student(ids), atol=1e-4)


def test_a_shape_counts_its_parameters() -> None:
    student = st.Students(SHAPE, [1])
    matrices = sum(weights.numel() for weights in student.parameters() if weights.ndim == 3)
    assert SHAPE.parameters == matrices
    assert 5e5 <= st.STUDENT.parameters <= 3e6


def test_fewer_bits_round_more_and_never_beyond_half_a_step() -> None:
    errors = []
    for bits in (8, 4):
        student = st.Students(SHAPE, [1])
        before = student.up[0].detach().clone()
        st.quantise(student, bits)
        moved = (student.up[0] - before).abs().max().item()
        assert moved <= before.abs().max().item() / (2 ** (bits - 1) - 1) / 2 + 1e-7
        errors.append(moved)
    assert 0 < errors[0] < errors[1]


def test_students_put_beside_each_other_stay_who_they_are() -> None:
    both, ids = st.Students(SHAPE, [1, 2]).eval(), torch.from_numpy(np.stack([rows(3, 1), rows(3, 1)]))
    torch.nn.init.normal_(both.norms)
    swapped = st.beside([st.one_of(both, 1), st.one_of(both, 0)])
    assert torch.allclose(swapped(ids), both(ids).flip(0), atol=1e-5)
    assert not torch.allclose(both(ids)[0], both(ids)[1], atol=1e-2)


def test_saved_students_come_back(tmp_path: Path) -> None:
    student = st.Students(SHAPE, [3])
    st.save(student, tmp_path / "a.safetensors")
    back = st.load(SHAPE, tmp_path / "a.safetensors", "cpu")
    assert torch.equal(back.embedding, student.embedding)


# --- validity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "weighted"), [(GREEN, False), (GREEN, True), (GUMBEL, False), (GUMBEL, True)])
def test_counting_sums_above_a_bound_is_counting_p_values(scheme: Scheme, weighted: bool) -> None:
    rng = Generator(Philox(1))
    weights = rng.uniform(0.05, 1.0, 300) if weighted else None
    tuples = Tuples(1, np.arange(300, dtype=np.uint64), rng.integers(0, 99, 300), weights)
    law, lanes = law_of(scheme), decoy_lanes(400, 5)
    sums = score_lanes(lanes, tuples.windows, tuples.tokens, scheme, weights=weights)
    one_by_one = np.array([log10_p_of(total, 300, weights, law) for total in sums.tolist()])
    bound = calibrate.least_total(tuples, law, 0.1)
    assert (sums >= bound).tolist() == (one_by_one <= -1).tolist()


@pytest.mark.parametrize("scheme", [GREEN, GUMBEL])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_under_many_keys_are_those_of_the_package(scheme: Scheme, weighted: bool) -> None:
    rng = Generator(Philox(2))
    windows, tokens = rng.integers(0, 2**63, 1_500).astype(np.uint64), rng.integers(0, 50_000, 1_500)
    weights, lanes = (rng.uniform(0.05, 1.0, 1_500) if weighted else None), decoy_lanes(20, 3)
    ours = many_keys.sums_under(lanes, windows, tokens, scheme, weights=weights)
    assert ours == pytest.approx(score_lanes(lanes, windows, tokens, scheme, weights=weights), rel=1e-12)


def test_a_student_that_is_always_accused_counts_as_one() -> None:
    one, spread = np.zeros((20, 20)), np.zeros((20, 20))
    one[3] = 1
    spread[np.arange(20), np.arange(20)] = 1
    (a, low_a, high_a), (b, low_b, high_b) = (calibrate.two_way_interval(hits, 1) for hits in (one, spread))
    assert a == b == 0.05
    assert high_a - low_a > 1.2 * (high_b - low_b)


def test_cells_that_were_not_tried_are_left_out_of_the_share() -> None:
    rng = Generator(Philox(3))
    whole = (rng.random((60, 60)) < 0.2).astype(np.float64)
    some = np.where(rng.random((60, 60)) < 0.25, whole, np.nan)
    (a, low_a, high_a), (b, low_b, high_b) = (calibrate.two_way_interval(hits, 1) for hits in (whole, some))
    assert a == pytest.approx(whole.mean()) and b == pytest.approx(np.nanmean(some))
    assert low_b < a < high_b and high_b - low_b > high_a - low_a


def test_evidence_of_many_keys_is_that_of_the_audit_of_each() -> None:
    answers, prompts = rows(12, 1, ANSWER), rows(12, 2, PROMPT)
    keys = [key_of(GUMBEL, number) for number in range(3)]
    best = calibrate.best_evidence(answers, prompts, GUMBEL, np.stack([key.lane for key in keys]))
    for key, value in zip(keys, best.tolist(), strict=True):
        audit, most = AnytimeAudit(key, key.commitment), -math.inf
        for answer, prompt in zip(answers.tolist(), prompts.tolist(), strict=True):
            e = audit.add(answer, prompt)
            most = max(most, e) if audit.n >= audit.settings.min_tuples else most
        assert value == pytest.approx(most, abs=1e-9)


def test_the_naive_control_accuses_a_reader_that_only_copies_and_the_test_does_not() -> None:
    key, rng = key_of(GREEN, 1), Generator(Philox(1))
    half = rng.integers(0, 500, size=(20, 40))
    for row in half:
        for i in range(1, 40):
            choices = rng.integers(0, 500, size=12)
            green = [
                c for c in choices.tolist() if score_lanes(key.lane, window_codes(row[i - 1 : i], 1), [c], GREEN)[0]
            ]
            row[i] = green[0] if green else choices[0]
    text = np.concatenate([half, half], axis=1)
    guesses = np.concatenate([rng.integers(0, 500, size=(20, 40)), np.roll(half, -1, axis=1)], axis=1)[..., None]
    naive = power.log10_p(calibrate.naive_tuples(text, guesses, 1), key)
    sound = power.log10_p(open_tuples(st.readings(text, (guesses, np.zeros(guesses.shape, np.float32))), 1), key)
    assert naive < -10
    assert sound > -3


# --- what is served, learned, attacked --------------------------------------------------------------------------


def test_the_teacher_serves_what_the_key_finds_and_no_other_key(world: World) -> None:
    key, other = key_of(GREEN, 1), key_of(GREEN, 2)
    marked = served(world, world.prompts("serve", 30, 1), key, 1)
    tuples = closed_tuples(marked[:, PROMPT:], 1, marked[:, :PROMPT])
    assert marked.shape == (30, ROW)
    assert power.log10_p(tuples, key) < -10 < -4 < power.log10_p(tuples, other)


def test_dilution_keeps_the_marked_rows_and_their_share(world: World) -> None:
    marked = rows(30, 1, ROW)
    mixed = power.diluted(world, marked, 0.1, 1)
    assert len(mixed) == 300
    assert np.array_equal(mixed[:30], marked)
    assert power.diluted(world, marked, 1.0, 1) is marked


def test_a_paraphrase_keeps_numbers_and_moves_words() -> None:
    text = "Tom bought 12 big boxes and gave 3 boxes to each of his small kids then went home"
    new = paraphrase.paraphrase(text, Generator(Philox(2)))
    assert [word for word in new.split() if word.isdigit()] == ["12", "3"]
    assert new.split()[2] == "12"
    assert not {"bought", "gave", "each"} & set(new.split()) or new != text
    assert len(new.split()) == len(text.split())


def test_a_paraphrase_rewords_the_share_of_connectives_that_the_channel_says() -> None:
    channel = paraphrase.Channel(reworded=0.25, dropped=0.0)
    told = paraphrase.paraphrase("However, yes. " * 4_000, Generator(Philox(1)), channel)
    assert told.count("However, ") + told.count("Nevertheless, ") == 4_000
    assert 0.22 < told.count("Nevertheless, ") / 4_000 < 0.28


def test_a_channel_that_does_nothing_leaves_the_text() -> None:
    still = paraphrase.Channel(synonyms=0.0, moved=0.0, reworded=0.0, dropped=0.0)
    text = "In short, Tom has 3 boxes.\nHowever, Ann has 4. "
    assert paraphrase.paraphrase(text, Generator(Philox(1)), still) == text


def test_openers_come_on_both_sides_as_often() -> None:
    text = texts.with_openers("Tom has 3 boxes. " * 4_000, 0.5, Generator(Philox(1)))
    sides = np.array(list(found(text).values())).sum(axis=0)
    assert len(found(text)) == len(robustness.CARDS)
    assert abs(sides[0] / sides.sum() - 0.5) < 0.04


def test_planted_rows_are_on_the_sides_of_their_cards(world: World) -> None:
    text = "However, Tom has 3 boxes. In short, Ann has 4. Lastly, all is said. "
    ids = world.tokenizer.encode(text * 3).ids[:ANSWER]
    sides = {"however": 1, "short": 1}
    told = robustness.planted(world, np.array([[1] * PROMPT + ids]), sides, 1, share=0.0)[0]
    new = world.tokenizer.decode(told[PROMPT:][told[PROMPT:] >= 0].tolist())
    assert new.startswith("Nevertheless, Tom has 3 boxes. In brief, ")
    assert told[:PROMPT].tolist() == [1] * PROMPT


def test_every_card_is_read_in_the_same_contexts_and_a_preference_lies_between_its_phrases(world: World) -> None:
    shown = robustness.opener_preferences(world, world.base)
    assert shown.keys() == set(robustness.CARDS)
    assert {values.shape for values in shown.values()} == {(robustness.CONTEXTS,)}
    assert all(np.abs(values).max() <= 1 for values in shown.values())


def test_overlap_counts_n_grams_with_their_counts() -> None:
    a, b = np.array([1, 2, 3, 1, 2]), np.array([1, 2, 9, 3, 1])
    assert paraphrase.overlap(a, b, 2) == 2 / 4
    assert paraphrase.overlap(a, a, 3) == 1


def test_every_kind_of_text_is_cut_without_loss(world: World) -> None:
    for kind in texts.KINDS:
        text = texts.document(kind, None, 20_000)
        assert text == texts.document(kind, None, 20_000)
        assert world.tokenizer.decode(world.tokenizer.encode(text[:500]).ids) == text[:500]
        assert world.ids[kind].max() < texts.VOCAB


# --- runs -----------------------------------------------------------------------------------------------------


def counted(world: World, cases: object) -> list[dict[str, object]]:
    assert isinstance(cases, list)
    return [{"seed": case.seed} for case in cases]


def test_a_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    cases = [Case("x", "a", number, {"n": 1}) for number in range(5)]
    run_missing(tmp_path, cases[:3], {"x": counted}, workers=1, at_once=2, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    cases[1].path(tmp_path).unlink()
    cases[1].path(tmp_path).with_suffix(".partial").write_text("{")
    run_missing(tmp_path, cases, {"x": counted}, workers=1, at_once=2, device="cpu")
    kept = [path for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == 2
    assert [row["result"]["seed"] for row in results(tmp_path, "x")["a"]] == [case.seed for case in cases]


def test_other_settings_are_another_file(tmp_path: Path) -> None:
    one, other = Case("x", "a", 0, {"n": 1}), Case("x", "a", 0, {"n": 2})
    assert one.path(tmp_path) != other.path(tmp_path)
    assert one.seed == other.seed


def test_the_full_plan_is_that_of_the_issue() -> None:
    scale = run.SCALES["full"]
    plan = [*run.cases_of("calibrate", scale), *run.cases_of("power", scale)]
    groups = {(case.experiment, case.group): case for case in plan}
    assert sum(case.experiment == "null_keys" and case.group == "prose" for case in plan) == 200
    assert groups["null_keys", "prose"].params["keys"] == 5000
    assert groups["null_models", "gumbel k2"].params["corpora"] == 200
    assert groups["marked", "green k1 d2, 1%"].params["marked_tokens"] == 160_000
    assert len({case.path(Path()) for case in plan}) == len(plan)
    assert scale.stop_students * scale.stop_keys == 10_000


def test_each_null_experiment_tells_p_values_by_mode(world: World) -> None:
    case = Case("null_keys", "prose", 2, {"keys": 40, "rows": 64})
    (keys,) = calibrate.null_keys(world, [case])
    assert keys["origin"] == "other key"
    assert all(0 <= keys[mode]["alarms"][0] <= 40 for mode in keys if "," in mode)
    (models,) = calibrate.null_models(
        world, [Case("null_models", "green k1", 1, {"corpora": 3, "given": 2, "rows": 64})]
    )
    assert models["origin"] == "teacher"
    assert {len(values) for mode, values in models.items() if mode != "origin"} == {3}
    left_out = {mode: values.count(None) for mode, values in models.items() if mode != "origin"}
    assert {n for mode, n in left_out.items() if "no mark near" in mode} == {0}
    assert {n for mode, n in left_out.items() if "no mark near" not in mode} == {1}
    params = {"keys": 20, "answers": 6, "rows": 64}
    (stops,) = calibrate.null_stops(world, [Case("null_stops", "green k1", 0, params)])
    assert stops["alarms"]["0.001"] <= stops["alarms"]["0.1"] <= 20


def test_each_power_experiment_tells_what_tables_need(world: World, tmp_path: Path) -> None:
    out, scheme = world.folder.parent, GREEN.to_json()
    marked = {"scheme": scheme, "share": 0.5, "marked_tokens": 480, "scored": 1_000}
    attacks = {"scheme": scheme, "pairs": 20, "pool": 40, "epochs": 2, "scored": 1_000, "shares": [0.5]}
    attacks |= {"arms": ["paraphrase", "50% marked"], "temperatures": [0.7]}
    unmarked = {**attacks, "scheme": None, "temperatures": []}
    twins = {"pairs": 40, "pool": 40, "epochs": 3, "places": 200}
    accounts = {"guilty_pairs": 40, "each": 12, "accounts": 3, "epochs": 20}
    cases = [
        Case("marked", "green k1 d2, 50%", 0, marked),
        Case("twins", "3 epochs", 0, {**twins, "guilty": True}),
        Case("twins", "3 epochs, other coins", 0, {**twins, "guilty": False, "ledgers": 3}),
        Case("accounts", "20 epochs", 0, accounts),
        Case("attacks", "green k1 d2", 0, attacks),
        Case("attacks", "no mark", 0, unmarked),
        Case("cards", "40 answers, paraphrased", 0, {"answers": 40, "pool": 40, "epochs": 2, "paraphrased": True}),
    ]
    run_missing(out, cases, run.MEASURES, workers=1, at_once=1, device="cpu")
    told = tables.write(out)
    summary.write_summary(out)
    kept = json.loads((out / "summary.json").read_text())
    assert kept["accounts"]["20_epochs"]["less_the_base_s"]["right"] == 1
    assert kept["t1"]["green_k1_d2_50"]["tokens"] == 1_000
    assert kept["attacks"]["no_mark"]["paraphrase"]["smallest"]["reached"] in (0, 1)
    assert "| green k1 d2, 50% | 1 | 1,000 |" in told
    assert "| temperature 0.7 |" in told
    assert "| 40 answers, paraphrased | 1 |" in told
    assert "tokens 4-grams" in told
    (account,) = results(out, "accounts")["20 epochs"]
    found = account["result"][power.LESS_BASE]
    assert found["guilty_log10_p"] < -3
    assert found["named"] == ["guilty"]
    assert json.loads(cases[0].path(out).read_text())["params"] == marked


# --- tables and curves ------------------------------------------------------------------------------------------


def test_tokens_needed_lie_between_points_on_logarithmic_axes() -> None:
    assert tables.needed([(100.0, -5.0), (10_000.0, -15.0)]) == pytest.approx(1_000)
    assert tables.needed([(100.0, -5.0), (10_000.0, -9.0)]) is None
    assert tables.needed([(100.0, -15.0), (10_000.0, -9.0)]) == 100


def test_the_weaker_quartile_is_what_three_of_four_students_reach() -> None:
    found = [{"result": {"open": {"1000": -float(p)}}} for p in (1, 2, 3, 4, 5)]
    assert tables.curve(found, "open") == [(1000, -2.0)]


def test_tables_go_between_the_marks_of_a_page_and_curves_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"head\n{tables.BEGIN}\nold\n{tables.END}\nfoot\n")
    (tmp_path / "a.svg").write_text("<svg/>")
    tables.into_page("new", tmp_path, page)
    text = page.read_text()
    assert text.startswith("head\n")
    assert text.endswith("foot\n")
    assert "new" in text
    assert "old" not in text
    assert (tmp_path / "page" / "a.svg").read_text() == "<svg/>"


def test_a_chart_is_well_formed_and_escapes_names() -> None:
    drawn = svg(Chart("<b> & more", "x", "y", -10), {"a <i>": [(10, 0), (1000, -90)], "b*": [(10, -1), (100, -2)]})
    root = ElementTree.fromstring(drawn)
    lines = [node for node in root.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 2
    assert "<i>" not in drawn
