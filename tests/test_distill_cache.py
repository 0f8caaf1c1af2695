"""cache.py: what is stored is what the teacher said, it is made once, and it belongs to one teacher and one text."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.tiny_model import tiny_model, tiny_tokenizer

from stillproof.distill import cache, forward
from stillproof.distill.cache import Cache, CacheKey, build
from stillproof.distill.pack import pack
from stillproof.errors import InputError, MismatchError
from stillproof.exchange import document

TOKENIZER = tiny_tokenizer()
TEXTS = [f"document {n} says the same thing in {n * 7} words" for n in range(40)]


def rows_and_key(top_k=8, n_vocab=261):
    rows = pack([document(text, "t") for text in TEXTS], TOKENIZER, row_tokens=32)
    return rows, CacheKey("teacher", "tokenizer", "template", rows.digest, n_vocab, top_k, "fp32", "apache-2.0")


def test_stored_targets_are_the_teachers_top_k_at_every_learned_position(tmp_path):
    rows, key = rows_and_key()
    teacher = tiny_model()
    stored = build(teacher, rows, key, tmp_path, batch_rows=2)
    wanted_rows = np.array([17, 0, len(rows) - 1, 3])
    logp = torch.cat([x.log_softmax(1) for x in forward.full_logits(teacher, rows.take(wanted_rows), 261, "fp32")])
    top, ids = logp.topk(8, dim=1)
    got = stored.targets(wanted_rows)
    torch.testing.assert_close(got.top_logprobs, top, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(logp.gather(1, got.top_ids), top, rtol=1e-5, atol=1e-5)
    assert set(got.top_ids[5].tolist()) == set(ids[5].tolist())


def test_stored_masses_sum_to_one(tmp_path):
    rows, key = rows_and_key()
    got = build(tiny_model(), rows, key, tmp_path).targets(np.arange(len(rows)))
    total = got.top_logprobs.exp().sum(1) + got.tail_mass
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)
    assert float(got.tail_mass.min()) >= 0


def test_padded_ids_take_no_part(tmp_path):
    rows, key = rows_and_key(n_vocab=259)
    got = build(tiny_model(), rows, key, tmp_path).targets(np.arange(len(rows)))
    assert int(got.top_ids.max()) < 259


def test_fidelity_is_measured_and_gets_better_with_k(tmp_path):
    found = []
    for top_k in (2, 64):
        rows, key = rows_and_key(top_k)
        found.append(build(tiny_model(), rows, key, tmp_path / str(top_k), audit_share=0.5).manifest["fidelity"])
    assert 0 < found[0]["covered_mass_mean"] < found[1]["covered_mass_mean"] <= 1
    assert found[1]["kl_uniform_tail_nats"] < found[0]["kl_uniform_tail_nats"]
    assert found[0]["rounding_l1_mean"] < 2e-3
    assert found[0]["n_positions"] > 100


def test_a_full_vocabulary_cache_loses_only_rounding(tmp_path):
    rows, key = rows_and_key(top_k=261)
    fidelity = build(tiny_model(), rows, key, tmp_path, audit_share=1.0).manifest["fidelity"]
    assert abs(fidelity["kl_uniform_tail_nats"]) < 1e-3


def test_an_audit_of_nothing_is_none_and_still_valid_json(tmp_path):
    rows, key = rows_and_key()
    assert build(tiny_model(), rows, key, tmp_path, audit_share=0.0).manifest["fidelity"] is None


def test_the_audit_reads_the_shards_and_not_the_teacher_alone(tmp_path):
    rows, key = rows_and_key()
    good = build(tiny_model(), rows, key, tmp_path / "good", audit_share=0.5).manifest["fidelity"]
    other = tmp_path / "other"
    cache._begin(other, rows, key, 64) if other.mkdir() is None else None
    for number, part in enumerate([rows.take(slice(0, 64)), rows.take(slice(64, 128))]):
        if len(part):
            cache._write_shard(other / f"shard-{number:05d}.arrow", *cache._score(tiny_model(seed=9), part, key, 8))
    bad = build(tiny_model(), rows, key, other, audit_share=0.5).manifest["fidelity"]
    assert bad["kl_uniform_tail_nats"] > good["kl_uniform_tail_nats"] + 0.1


def test_a_half_made_cache_goes_on_and_ends_with_the_same_bytes(tmp_path):
    rows, key = rows_and_key()
    whole = build(tiny_model(), rows, key, tmp_path / "whole", batch_rows=1)
    stopped = tmp_path / "stopped"
    seen = 0

    def stop_after_two(event):
        nonlocal seen
        seen += 1
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny_model(), rows, key, stopped, batch_rows=1, on_event=stop_after_two)
    with pytest.raises(InputError, match="half made"):
        Cache(stopped)
    (stopped / "shard-00002.tmp").write_bytes(b"torn")
    resumed = build(tiny_model(), rows, key, stopped, batch_rows=1)
    assert resumed.manifest["shards"] == whole.manifest["shards"]


@pytest.mark.parametrize("field", ["teacher", "tokenizer", "chat_template", "rows", "dtype"])
def test_a_cache_of_another_teacher_or_text_is_refused_by_name(tmp_path, field):
    rows, key = rows_and_key()
    stored = build(tiny_model(), rows, key, tmp_path)
    other = dataclasses.replace(key, **{field: "other"})
    with pytest.raises(MismatchError, match=field):
        stored.check(other)
    with pytest.raises(MismatchError, match=field):
        build(tiny_model(), rows, other, tmp_path)


def test_a_changed_shard_is_found(tmp_path):
    rows, key = rows_and_key()
    build(tiny_model(), rows, key, tmp_path)
    shard = tmp_path / "shard-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(MismatchError, match="shard-00000"):
        Cache(tmp_path)


def test_no_cache_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="distill cache"):
        Cache(tmp_path)
