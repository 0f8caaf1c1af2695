"""Marks in transformers and in vLLM: the same tokens as the sampler's own, in batches and with padding."""

import itertools
import json
import sys
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox
from tests.tiny_model import tiny_model

from stillproof.errors import ConfigError, CustodyError, InputError, MissingExtraError
from stillproof.watermark import Marker, MarkKey, Scheme, green_bias, prompt_windows, top_candidates, window_code
from stillproof.watermark import vllm_adapter as vllm
from stillproof.watermark.tensors import step_on_device, step_tensor
from stillproof.watermark.transformers_adapter import GreenBias, MarkedDraw

SECRET = bytes(range(32))
SCHEMES = [Scheme("green", 2, top=16), Scheme("gumbel", 2, top=16), Scheme("gumbel", 1, top=300)]
PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [42]]
PAD = 258


def rng() -> Generator:
    return Generator(Philox(11))


def generated(prompts: list[list[int]], processor: object, n: int, *, sample: bool = False) -> list[list[int]]:
    """Answers of the tiny model, prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    out = tiny_model().generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=n,
        do_sample=sample,
        eos_token_id=None,
        pad_token_id=PAD,
        logits_processor=[processor],
    )
    return out[:, width:].tolist()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.kind}-{scheme.k}")
def test_generate_serves_what_the_marker_draws_token_for_token(scheme: Scheme) -> None:
    key = MarkKey(scheme, SECRET)
    answers = generated(PROMPTS, MarkedDraw(Marker(key, rng()), PROMPTS), 20)
    # The same model one row at a time, without padding and cache; the marker sees the whole batch at each step.
    marker, model = Marker(key, rng()), tiny_model()
    used = [prompt_windows(prompt, scheme.k) for prompt in PROMPTS]
    ours: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(20):
        with torch.inference_mode():
            rows = [model(torch.tensor([p + a])).logits[0, -1].numpy() for p, a in zip(PROMPTS, ours, strict=True)]
        for answer, token in zip(ours, marker.step(np.stack(rows), ours, used).tolist(), strict=True):
            answer.append(token)
    assert answers == ours


def test_a_batch_of_one_is_served_alike() -> None:
    key = MarkKey(SCHEMES[1], SECRET)
    answers = generated(PROMPTS[:1], MarkedDraw(Marker(key, rng()), PROMPTS[:1]), 12)
    marker, model, used = Marker(key, rng()), tiny_model(), [prompt_windows(PROMPTS[0], 2)]
    ours: list[int] = []
    for _ in range(12):
        with torch.inference_mode():
            logits = model(torch.tensor([PROMPTS[0] + ours])).logits[0, -1:].numpy()
        ours.append(int(marker.step(logits, [ours], used)[0]))
    assert answers == [ours]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.kind}-{scheme.k}")
def test_candidates_selected_on_a_device_give_the_same_tokens(scheme: Scheme) -> None:
    key, logits = MarkKey(scheme, SECRET), torch.from_numpy(rng().normal(0, 3, (400, 90)).astype(np.float32))
    contexts = [[i % 80, i // 80] for i in range(400)]
    here = step_tensor(Marker(key, rng()), logits, contexts, [set() for _ in contexts])
    there = step_on_device(Marker(key, rng()), logits, contexts, [set() for _ in contexts])
    assert (here == there).mean() > 0.995  # a sum of float32 may round to another side
    assert not np.isin(there, top_candidates(logits.numpy(), 16)[:1]).all()


def test_windows_of_the_prompt_are_not_marked() -> None:
    scheme = Scheme("gumbel", 1, second_share=0.0, top=50)
    key, logits = MarkKey(scheme, SECRET), np.zeros((300, 50), np.float32)
    fresh = Marker(key, rng()).step(logits, [[7]] * 300, [prompt_windows([8], 1) for _ in range(300)])
    read = Marker(key, rng()).step(logits, [[7]] * 300, [prompt_windows([8, 7], 1) for _ in range(300)])
    assert np.unique(fresh).size == 1
    assert np.unique(read).size > 30


def test_a_processor_is_for_one_run_and_its_batch() -> None:
    draw = MarkedDraw(Marker(MarkKey(SCHEMES[1], SECRET), rng()), PROMPTS)
    generated(PROMPTS, draw, 3)
    with pytest.raises(InputError, match="two calls"):
        generated(PROMPTS, draw, 3)
    with pytest.raises(InputError, match="rows for"):
        generated(PROMPTS[:2], MarkedDraw(Marker(MarkKey(SCHEMES[1], SECRET), rng()), PROMPTS), 3)


def test_a_green_bias_is_delta_times_temperature_on_green_candidates_alone() -> None:
    scheme = Scheme("green", 2, delta=1.5, top=16)
    key = MarkKey(scheme, SECRET)
    bias = GreenBias(key, [[1, 2], [3, 4]], temperature=0.5)
    scores = torch.from_numpy(rng().normal(0, 2, (2, 90)).astype(np.float32))
    assert torch.equal(bias(torch.tensor([[1, 2], [3, 4]]), scores), scores)
    assert torch.equal(bias(torch.tensor([[1, 2, 5], [3, 4, 5]]), scores), scores)
    added = (bias(torch.tensor([[1, 2, 5, 6], [3, 4, 3, 4]]), scores) - scores).numpy()
    ids = top_candidates(scores.numpy(), 16)[:1]
    expected = np.zeros(90)
    expected[ids[0]] = 0.5 * green_bias(key.lane, np.array([window_code([5, 6])], np.uint64), ids, scheme)[0]
    assert added[0] == pytest.approx(expected, abs=1e-5)
    assert expected.any()
    assert not added[1].any()  # [3, 4] stands in its prompt


def test_a_bias_cannot_mark_what_a_draw_must() -> None:
    for scheme in (Scheme("gumbel", 2), Scheme("green", 2, account_share=0.2)):
        with pytest.raises(ConfigError, match="MarkedDraw"):
            GreenBias(MarkKey(scheme, SECRET), [[1]])
    with pytest.raises(ConfigError, match="temperature"):
        GreenBias(MarkKey(Scheme("green", 2), SECRET), [[1]], temperature=0.0)


def test_transformers_samples_under_a_green_bias() -> None:
    key = MarkKey(Scheme("green", 1, delta=8.0, top=261), SECRET)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        answer = generated([[5, 6, 7]], GreenBias(key, [[5, 6, 7]]), 60, sample=True)[0]
    pairs = [(a, b) for a, b in itertools.pairwise(answer) if a not in (5, 6, 7)]
    bias = [green_bias(key.lane, np.array([a], np.uint64), np.array([[b]]), key.scheme)[0, 0] for a, b in pairs]
    assert np.mean(np.array(bias) > 0) > 0.8


# --- vLLM: a fake of its documented interface -----------------------------------------------------------------


class Direction(Enum):
    UNIDIRECTIONAL = 1
    SWAP = 2


@dataclass
class Params:
    temperature: float = 1.0
    seed: int | None = 5
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    extra_args: dict[str, object] | None = field(default_factory=lambda: {vllm.MARK_ARG: 1})


class FakeEngine:
    """A persistent batch as vLLM keeps it: rows come, go and move, and output lists are shared."""

    def __init__(self, processor: object) -> None:
        self.processor, self.outputs = processor, {}

    def change(self, removed: object = (), added: object = (), moved: object = ()) -> None:
        self.processor.update_state(SimpleNamespace(batch_size=0, removed=removed, added=added, moved=moved))

    def step(self, logits: np.ndarray, rows: dict[int, list[int]]) -> dict[int, int]:
        self.processor.update_state(None)
        scores = self.processor.apply(torch.from_numpy(logits.copy()))
        served = {}
        for row, output in rows.items():
            served[row] = int(scores[row].argmax())
            assert torch.isfinite(scores[row]).sum() == 1
            output.append(served[row])
        return served


class Base:
    """In place of vLLM's LogitsProcessor."""


def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: object, scheme: Scheme) -> object:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(MarkKey(scheme, SECRET).to_json()))
    monkeypatch.setenv(vllm.KEY_ENV, str(path))
    return vllm.processor_class(Base)(None, "cpu", False)


def alone(scheme: Scheme, params: Params, prompt: list[int], logits: list[np.ndarray]) -> list[int]:
    marker = Marker(MarkKey(scheme, SECRET), Generator(Philox(params.seed)), temperature=params.temperature)
    answer, used = [], [prompt_windows(prompt, scheme.k)]
    for row in logits:
        answer.append(int(marker.step(row[None], [answer], used)[0]))
    return answer


def test_requests_keep_their_own_marks_while_vllm_moves_them(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    scheme = Scheme("gumbel", 1, top=16)
    engine = FakeEngine(processor(monkeypatch, tmp_path, scheme))
    steps = rng().normal(0, 2, (3, 4, 80)).astype(np.float32)
    a, b, c = [], [], []
    params = {"a": Params(seed=1), "b": Params(seed=2, temperature=0.7), "c": Params(seed=3)}
    engine.change(added=[(0, params["a"], [1, 2], a), (2, params["b"], None, b)])
    engine.step(steps[0], {0: a, 2: b})
    engine.change(moved=[(0, 2, Direction.SWAP)])
    engine.step(steps[1], {2: a, 0: b})
    engine.change(removed=[0], added=[(1, params["c"], [9], c)], moved=[(2, 0, Direction.UNIDIRECTIONAL)])
    engine.step(steps[2], {0: a, 1: c})
    assert a == alone(scheme, params["a"], [1, 2], [steps[0][0], steps[1][2], steps[2][0]])
    assert b == alone(scheme, params["b"], [], [steps[0][2], steps[1][0]])
    assert c == alone(scheme, params["c"], [9], [steps[2][1]])


def test_requests_that_ask_for_no_mark_pass_untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    made = processor(monkeypatch, tmp_path, Scheme("gumbel", 1))
    plain = Params(extra_args=None)
    engine, logits = FakeEngine(made), torch.zeros(2, 30)
    engine.change(added=[(0, plain, [1], []), (1, Params(temperature=0.0), [1], [])])
    assert made.apply(logits) is logits
    # A marked request that is replaced in its row by another takes its mark with it.
    engine.change(added=[(0, Params(), [1], [])])
    engine.change(added=[(0, plain, [1], [])])
    assert made.apply(logits) is logits
    assert made.is_argmax_invariant() is False
    type(made).validate_params(plain)


def test_without_a_key_the_processor_is_inert_and_marks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm.KEY_ENV, raising=False)
    made, logits = vllm.processor_class(Base)(None, "cpu", False), torch.zeros(1, 9)
    FakeEngine(made).change(added=[(0, Params(extra_args=None), [1], [])])
    assert made.apply(logits) is logits
    with pytest.raises(ConfigError, match=vllm.KEY_ENV):
        type(made).validate_params(Params())


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_p", 0.9), ("top_k", 40), ("min_p", 0.1), ("repetition_penalty", 1.2), ("temperature", 0.0)],
)
def test_a_marked_request_that_the_mark_would_spoil_is_refused(name: str, value: float) -> None:
    key = MarkKey(Scheme("gumbel", 2), SECRET)
    vllm.check_params(Params(), key)
    with pytest.raises(ValueError, match=name):
        vllm.check_params(Params(**{name: value}), key)


def test_sub_keys_need_the_account_that_the_gateway_names() -> None:
    key = MarkKey(Scheme("gumbel", 2, account_share=0.3), SECRET)
    vllm.check_params(Params(extra_args={vllm.MARK_ARG: 1, vllm.ACCOUNT_ARG: "p1"}), key)
    with pytest.raises(InputError, match=vllm.ACCOUNT_ARG):
        vllm.check_params(Params(), key)


def test_a_key_file_that_is_none_is_named_and_not_quoted(tmp_path: object) -> None:
    path = tmp_path / "key.json"
    with pytest.raises(InputError, match="cannot read"):
        vllm.key_of({vllm.KEY_ENV: str(path)})
    path.write_text("secret words")
    with pytest.raises(InputError) as caught:
        vllm.key_of({vllm.KEY_ENV: str(path)})
    assert "secret" not in str(caught.value)
    path.write_text("[1]")
    with pytest.raises(CustodyError):
        vllm.key_of({vllm.KEY_ENV: str(path)})
    path.write_bytes(b" " * 70_000)
    with pytest.raises(InputError, match="too large"):
        vllm.key_of({vllm.KEY_ENV: str(path)})


@pytest.mark.skipif("vllm" in sys.modules, reason="vLLM is here")
def test_the_module_is_imported_without_vllm_and_says_what_is_missing() -> None:
    with pytest.raises(MissingExtraError, match="pip install vllm"):
        _ = vllm.MarkProcessor
    with pytest.raises(AttributeError):
        _ = vllm.Nothing
