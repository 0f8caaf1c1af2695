"""student.py: which layers stay, and which vocabularies belong together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_model import tiny_model

from stillproof.distill.student import choose_layers, common_vocabulary, drop_layers
from stillproof.errors import ConfigError, MismatchError


@given(n_teacher=st.integers(1, 80), data=st.data())
def test_chosen_layers_are_distinct_in_order_and_as_many_as_asked(n_teacher, data):
    n_student = data.draw(st.integers(1, n_teacher))
    layers = choose_layers(n_teacher, n_student)
    assert len(set(layers)) == n_student
    assert list(layers) == sorted(layers)
    assert layers[0] >= 0 and layers[-1] < n_teacher


def test_both_ends_stay_where_there_is_room():
    layers = choose_layers(30, 12)
    assert layers[:3] == (0, 1, 2)
    assert layers[-3:] == (27, 28, 29)


def test_keeping_every_layer_changes_nothing():
    model, same = tiny_model(), drop_layers(tiny_model(), choose_layers(2, 2))
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, same(ids).logits)


def test_a_dropped_layer_is_gone_from_weights_and_config():
    student = drop_layers(tiny_model(), (1,))
    assert student.config.num_hidden_layers == 1
    assert len(student.model.layers) == 1
    generated = student.generate(torch.arange(5)[None], max_new_tokens=3, do_sample=False)
    plain = student(generated[:, :-1]).logits[:, 4:].argmax(-1)
    assert torch.equal(generated[:, 5:], plain)  # the cache of a shortened model is indexed by the new layer numbers


def test_layers_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match=r"\[7\]"):
        drop_layers(tiny_model(), (0, 7))
    with pytest.raises(ConfigError, match="cannot keep 3 of 2"):
        choose_layers(2, 3)


def test_padded_vocabularies_of_one_family_share_the_tokenizers_ids():
    assert common_vocabulary(151_665, 152_064, 151_936) == 151_665


@pytest.mark.parametrize("teacher, student", [(100, 200), (200, 100)])
def test_a_model_without_rows_for_the_tokenizers_ids_is_refused(teacher, student):
    with pytest.raises(MismatchError, match="150"):
        common_vocabulary(150, teacher, student)
