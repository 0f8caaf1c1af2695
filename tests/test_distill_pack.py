"""pack.py: every token is in its row once, documents do not see each other, only what is learned is learned."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_model import tiny_model, tiny_tokenizer

from stillproof.distill.forward import hidden_states
from stillproof.distill.pack import as_document, pack
from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, document

TOKENIZER = tiny_tokenizer()


def question(prompt, response):
    return Exchange(id="x", messages=(Message("user", prompt),), response=response)


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
