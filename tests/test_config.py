"""config.py: every fault at once, in words that help; what is written beside an output reads back as it was."""

import pytest

from stillproof.config import DistillConfig, dump, load
from stillproof.errors import ConfigError


def test_all_faults_are_told_at_once_each_with_its_remedy():
    words = ["train.rows_per_step=0", "data.trian=x", "trian.loss=y", "nonsense"]
    with pytest.raises(ConfigError) as caught:
        load(DistillConfig, None, words)
    told = str(caught.value)
    assert "4 fault(s)" in told
    assert "train.rows_per_step" in told and "greater than or equal to 1" in told
    assert "'data.trian'; the nearest known one is 'data.train'" in told
    assert "'trian'; the nearest known one is 'train'" in told
    assert "'nonsense' is not key=value" in told
    assert caught.value.exit_code == 2


def test_words_win_over_the_file(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 1\n[train]\nepochs = 2\n")
    config = load(DistillConfig, tmp_path / "c.toml", ["train.epochs=3", "data.max_tokens=20_000"])
    assert (config.seed, config.train.epochs, config.data.max_tokens) == (1, 3, 20_000)


def test_one_text_stands_for_a_list_of_one_and_nothing_for_none():
    config = load(DistillConfig, None, ["eval.elsewhere=python-docs", "data.max_tokens=", "data.control="])
    assert config.eval.elsewhere == ("python-docs",)
    assert config.data.max_tokens is None and config.data.control is None


def test_the_config_beside_an_output_reads_back_as_it_was(tmp_path):
    config = load(DistillConfig, None, ["seed=9", "train.betas=[0.8, 0.99]", "eval.elsewhere=python-docs"])
    (tmp_path / "config.json").write_text(dump(config))
    assert load(DistillConfig, tmp_path / "config.json") == config


@pytest.mark.parametrize("text", ["seed = ", "[train\n", "\xff"])
def test_a_file_that_is_no_toml_is_named(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load(DistillConfig, path)


def test_a_folder_as_config_names_the_file_in_it(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        load(DistillConfig, tmp_path)


def test_a_missing_file_is_wrong_use(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load(DistillConfig, tmp_path / "none.toml")


@pytest.mark.parametrize(
    "words, told",
    [
        (["teacher.kind=openai", "student.model=x"], "does not give; set train.loss='cross_entropy'"),
        (["teacher.kind=openai", "train.loss=cross_entropy"], "no weights to start the student from"),
        (
            ["teacher.kind=openai", "train.loss=cross_entropy", "student.model=x", "eval.max_kl_nats=1"],
            "weights are at",
        ),
        (["eval.min_answer_share=0.9"], "needs eval.answers=true"),
    ],
)
def test_settings_that_cannot_work_together_are_refused_before_anything_is_paid(words, told):
    with pytest.raises(ConfigError, match=told):
        load(DistillConfig, None, words)
