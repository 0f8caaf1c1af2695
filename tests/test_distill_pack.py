"""pack.py: every token is in its row once, documents do not see each other, only what is learned is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_model import SPECIAL, TEMPLATE, tiny_model, tiny_tokenizer

from stillproof.distill.forward import hidden_states
from stillproof.distill.pack import as_document, pack, token_ids
from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, Sampling, document
from stillproof.teacher import Identity, Request
from stillproof.teacher.local import LocalTeacher

TOKENIZER = tiny_tokenizer()
BOS = 257
LLAMA2 = (
    "{% for m in messages %}{{ '[I]' + m.content + '[/I]' if m.role == 'user' else m.content + ' done' }}{% endfor %}"
)
TOOLS = (
    "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }} {{ m.name }} {{ m.tool_calls | tojson if "
    "m.tool_calls }} {{ m.tool_call_id }}]{{ m.content }}{% endfor %}"
)


def question(prompt, response):
    return Exchange(id="x", messages=(Message("user", prompt),), response=response)


def tokenizer_with_bos(template=TEMPLATE):
    """As Gemma's and Llama's: BOS stands before every text that is not told otherwise."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(template)
    bos = SPECIAL[1]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, BOS)])
    return tokenizer


def learned(rows, tokenizer):
    """What is learned, as text."""
    row, position = np.nonzero(rows.targets_mask)
    return tokenizer.decode(rows.input_ids[row, position + 1])


@given(texts=st.lists(st.text("abc \n", min_size=1, max_size=60), min_size=1, max_size=8))
def test_documents_come_back_whole_and_in_order_from_their_rows(texts):
    rows = pack([document(text, "t") for text in texts], TOKENIZER, row_tokens=16)
    for number, text in enumerate(texts):
        ids = rows.input_ids[rows.document == number]
        assert TOKENIZER.decode(ids[:-1]) == text
        assert ids[-1] == TOKENIZER.eos_token_id


def test_only_the_last_row_of_plain_documents_is_padded():
    rows = pack([document("word " * 40, "t"), document("other " * 30, "t")], TOKENIZER, row_tokens=32)
    padding = (rows.document == -1).sum(1)
    assert padding[:-1].max() == 0


def test_the_last_token_of_a_document_predicts_nothing():
    rows = pack([document("ab", "t"), document("cd", "t")], TOKENIZER, row_tokens=8)
    assert rows.targets_mask.tolist() == [[True, True, False, True, True, False, False, False]]


def test_only_response_tokens_and_their_end_are_learned():
    rows = pack([question("hi", "yes")], TOKENIZER, row_tokens=64)
    row, position = np.nonzero(rows.targets_mask)
    assert TOKENIZER.decode(rows.input_ids[row, position + 1]) == "yes<|im_end|>"


def test_an_exchange_with_a_prompt_is_never_split_between_rows():
    items = [question("q" * (n % 7), "a" * (n % 5 + 1)) for n in range(40)]
    rows = pack(items, TOKENIZER, row_tokens=80)
    for number in range(len(items)):
        assert len(np.unique(np.nonzero(rows.document == number)[0])) == 1


def test_an_exchange_longer_than_a_row_is_cut_and_counted():
    rows = pack([question("hi", "y" * 200), question("hi", "no")], TOKENIZER, row_tokens=64)
    assert rows.n_truncated == 1


def test_packed_documents_do_not_see_each_other():
    texts = ["the first one", "a second", "third"]
    model = tiny_model()
    rows = pack([document(text, "t") for text in texts], TOKENIZER, row_tokens=64)
    packed = hidden_states(model, rows).detach()
    alone = [hidden_states(model, pack([document(t, "t")], TOKENIZER, row_tokens=64)).detach() for t in texts]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_prompt_and_its_response_as_plain_text_are_learned_whole():
    rows = pack([as_document(question("two plus two", "four"))], TOKENIZER, row_tokens=32)
    assert TOKENIZER.decode(rows.input_ids[rows.document == 0][:-1]) == "two plus two\nfour"
    assert rows.n_targets == rows.n_tokens - 1
    with pytest.raises(InputError, match="no response"):
        as_document(question("two plus two", None))


def test_a_token_budget_is_kept():
    rows = pack([document("word " * 100, "t")] * 5, TOKENIZER, row_tokens=32, max_tokens=320)
    assert rows.n_tokens == 320


def test_digest_changes_with_any_column_and_not_with_the_object():
    rows = pack([document("abc", "t")], TOKENIZER, row_tokens=8)
    again = pack([document("abc", "u")], TOKENIZER, row_tokens=8)
    assert rows.digest == again.digest
    again.targets_mask[0, 0] = False
    assert rows.digest != again.digest


def test_a_prompt_without_a_response_is_refused_with_its_id():
    with pytest.raises(InputError, match="ex-7"):
        pack([Exchange(id="ex-7", messages=(Message("user", "hi"),), response=None)], TOKENIZER, row_tokens=8)


def test_nothing_to_pack_is_an_error():
    with pytest.raises(InputError, match="nothing to learn"):
        pack([], TOKENIZER, row_tokens=8)


# --- how an exchange ends -----------------------------------------------------------------------------------------


def test_a_cut_answer_has_no_end_to_learn():
    cut = replace(question("hi", "it goes on"), finish_reason="length")
    assert learned(pack([cut], TOKENIZER, row_tokens=64), TOKENIZER) == "it goes on"
    assert learned(pack([as_document(cut)], TOKENIZER, row_tokens=64), TOKENIZER) == "i\nit goes on"
    whole = replace(cut, finish_reason="stop")
    assert learned(pack([whole], TOKENIZER, row_tokens=64), TOKENIZER) == "it goes on<|im_end|>"


def test_an_answer_ends_as_the_template_ends_a_turn_and_a_document_with_eos():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert token_ids(question("hi", "yes"), tokenizer)[0][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert token_ids(document("yes", "t"), tokenizer)[0][-1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_where_the_template_ends_a_turn_in_plain_text_an_answer_ends_with_eos():
    tokenizer = tiny_tokenizer(LLAMA2)
    assert tokenizer.decode(token_ids(question("hi", "yes"), tokenizer)[0]) == "[I]hi[/I]yes<|im_end|>"


def test_without_eos_the_end_of_turn_serves_answers_and_only_them():
    tokenizer = tiny_tokenizer(TEMPLATE)
    tokenizer.eos_token = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert learned(pack([question("hi", "yes")], tokenizer, row_tokens=64), tokenizer) == "yes<|im_end|>"
    with pytest.raises(InputError, match="no token that ends a document"):
        pack([document("yes", "t")], tokenizer, row_tokens=64)
    tokenizer.chat_template = LLAMA2
    with pytest.raises(InputError, match="no token that ends a turn"):
        pack([question("hi", "yes")], tokenizer, row_tokens=64)


def test_the_end_of_turn_is_asked_of_a_tokenizer_once_for_all_exchanges():
    rendered = []

    class Counting:
        def __getattr__(self, name):
            return getattr(TOKENIZER, name)

        def __call__(self, *args, **kwargs):
            return TOKENIZER(*args, **kwargs)

        def apply_chat_template(self, messages, **kwargs):
            rendered.append([message["role"] for message in messages])
            return TOKENIZER.apply_chat_template(messages, **kwargs)

    pack([question("hi", "yes")] * 3, Counting(), row_tokens=64)
    assert sorted(rendered) == [["user"]] * 3 + [["user", "assistant"]]


# --- how an exchange begins ---------------------------------------------------------------------------------------


def test_a_document_begins_with_the_bos_its_tokenizer_adds_which_is_not_learned():
    tokenizer = tokenizer_with_bos()
    rows = pack([document("ab", "t"), document("cd", "t")], tokenizer, row_tokens=8)
    a, b, c, d = b"abcd"
    vocabulary = [tokenizer.convert_tokens_to_ids(chr(byte)) for byte in (a, b, c, d)]
    assert rows.input_ids.tolist() == [[BOS, *vocabulary[:2], 258, BOS, *vocabulary[2:], 258]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert rows.targets_mask.tolist() == [[True, True, True, False, True, True, True, False]]
    assert token_ids(document("ab", "t"), tokenizer)[1] == 1
    assert token_ids(document("ab", "t"), TOKENIZER)[1] == 0


@given(
    texts=st.lists(st.text("abc \n", min_size=1, max_size=60), min_size=1, max_size=8),
    max_tokens=st.none() | st.integers(4, 200),
)
def test_each_piece_of_a_cut_document_begins_with_bos_and_the_budget_holds(texts, max_tokens):
    tokenizer = tokenizer_with_bos()
    rows = pack([document(text, "t") for text in texts], tokenizer, row_tokens=16, max_tokens=max_tokens)
    real = rows.document != -1
    assert (rows.input_ids[real & (rows.position_ids == 0)] == BOS).all()
    assert (rows.input_ids[real & (rows.position_ids > 0)] != BOS).all()
    assert (real.sum(1)[:-1] >= 15).all()
    assert rows.n_tokens <= (max_tokens or rows.n_tokens)
    own = [
        str(tokenizer.decode(ids[ids != BOS]))
        for n in range(len(texts))
        if len(ids := rows.input_ids[rows.document == n])
    ]
    whole = "".join(f"{text}<|im_end|>" for text in texts)
    assert "".join(own) == whole if max_tokens is None else whole.startswith("".join(own))
    assert rows.n_left_out == len(texts) - len(own)


def test_no_special_token_stands_twice_where_two_parts_meet():
    tokenizer = tokenizer_with_bos("<|im_start|>{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    ids, n_prompt = token_ids(question("q", "a"), tokenizer)
    assert (tokenizer.decode(ids), n_prompt) == ("<|im_start|>q<|im_end|>a<|im_end|>", 3)
    spelled_out = token_ids(question("q", "<|im_end|>a<|im_end|>"), tokenizer)
    assert spelled_out == (ids, n_prompt)
    assert token_ids(document("<|im_start|>a<|im_end|>", "t"), tokenizer) == token_ids(document("a", "t"), tokenizer)


# --- what the prompt is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer", [TOKENIZER, tokenizer_with_bos(), tokenizer_with_bos(None), tiny_tokenizer(TOOLS)]
)
def test_the_prompt_is_token_for_token_what_a_local_teacher_reads(tokenizer):
    identity = Identity("m", "weights", None, None, None, None, None, None)
    teacher = LocalTeacher(tiny_model(), tokenizer, identity)
    item = question("two plus two", "four")
    ids, n_prompt = token_ids(item, tokenizer)
    assert ids[:n_prompt] == teacher.prompt_ids(Request(item.messages, Sampling()))
    assert tokenizer.decode(ids[n_prompt:]) == "four<|im_end|>"


def test_tools_their_calls_and_names_reach_the_template():
    messages = (
        Message("user", "sum", name="ann"),
        Message("assistant", "", tool_calls='[{"id":"c1"}]'),
        Message("tool", "4", tool_call_id="c1"),
    )
    item = Exchange(id="x", messages=messages, response="four", tools='[{"name":"add"}]')
    tokenizer = tiny_tokenizer(TOOLS)
    ids, n_prompt = token_ids(item, tokenizer)
    assert tokenizer.decode(ids[:n_prompt]) == (
        '[{"name": "add"}][user ann  ]sum[assistant  [{"id": "c1"}] ][tool   c1]4'
    )


def test_without_a_template_only_a_single_user_message_is_continued():
    tokenizer = tiny_tokenizer(None)
    assert tokenizer.decode(token_ids(question("two plus ", "two"), tokenizer)[0]) == "two plus two<|im_end|>"
    single = question("hi", "yes")
    for item in (
        replace(single, messages=(Message("system", "be kind"), *single.messages)),
        replace(single, messages=(Message("system", "be kind"),)),
        replace(single, tools='[{"name":"add"}]'),
    ):
        with pytest.raises(InputError, match=r"no chat template.*data\.form: plain"):
            pack([item], tokenizer, row_tokens=64)


# --- what is counted ----------------------------------------------------------------------------------------------


def test_what_a_token_budget_leaves_out_is_counted_to_the_last_item():
    items = iter([document("word " * 10, "t") for _ in range(5)])
    rows = pack(items, TOKENIZER, row_tokens=32, max_tokens=60)
    assert (rows.n_tokens, rows.n_left_out) == (60, 3)
    assert next(items, None) is None
    assert pack([question("hi", "yes")] * 4, TOKENIZER, row_tokens=64, max_tokens=1).n_left_out == 3
    assert pack([question("hi", "yes")] * 4, TOKENIZER, row_tokens=64).n_left_out == 0
    assert rows.take(slice(0, 1)).n_left_out == 0


def test_a_row_of_one_token_is_refused():
    with pytest.raises(InputError, match="none to predict"):
        pack([document("ab", "t")], tokenizer_with_bos(), row_tokens=1)
