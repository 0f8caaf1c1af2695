import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillproof import stats
from stillproof.distill.pack import Rows
from stillproof.distill.retention import Scores, answer_prompts, exact_match, retention, score
from stillproof.errors import ConfigError, InputError, MismatchError, TrainingError
from stillproof.exchange import Message
from stillproof.finding import Finding, Run

N_VOCAB, PADDED_VOCAB = 100, 128

Sums = NDArray[np.float64]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(seed: int, vocab_size: int = N_VOCAB, scale: float = 0.3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=scale,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def rows_of(lengths: list[list[int]], row_tokens: int = 24, unscored: int = 0) -> Rows:
    """Random documents of these lengths, row by row; the first `unscored` tokens of each are prompt."""
    rng = np.random.Generator(np.random.Philox(9))
    shape = (len(lengths), row_tokens)
    ids, positions = rng.integers(2, N_VOCAB, size=shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    mask, document = np.zeros(shape, dtype=bool), np.full(shape, -1, dtype=np.int32)
    number = 0
    for row, pieces in enumerate(lengths):
        start = 0
        for length in pieces:
            span = slice(start, start + length)
            positions[row, span] = np.arange(length)
            mask[row, start + max(unscored - 1, 0) : start + length - 1] = True
            document[row, span] = number
            number += 1
            start += length
        positions[row, start:] = np.arange(row_tokens - start)
    return Rows(ids, positions, mask, document)


ROWS = rows_of([[7, 9, 8], [20], [11]])


def dense(teacher: Any, model: Any, rows: Rows) -> np.ndarray:
    """[documents, 4]: positions, KL, agreements, NLL; each document alone, all logits at once, in fp64."""
    sums = np.zeros((int(rows.document.max()) + 1, 4))
    for number in range(len(sums)):
        row = int(np.nonzero((rows.document == number).any(axis=1))[0][0])
        at = np.nonzero(rows.document[row] == number)[0]
        ids = torch.tensor(rows.input_ids[row, at].astype(np.int64))[None]
        mask = rows.targets_mask[row, at]
        with torch.no_grad():
            p, q = (m(ids).logits[0, :, :N_VOCAB].double().log_softmax(-1)[mask] for m in (teacher, model))
        gold = ids[0, 1:][mask[:-1]]
        sums[number] = (
            mask.sum(),
            (p.exp() * (p - q)).sum().item(),
            (p.argmax(-1) == q.argmax(-1)).sum().item(),
            -q[torch.arange(len(gold)), gold].sum().item(),
        )
    return sums


@pytest.mark.parametrize("student_vocab", [N_VOCAB, PADDED_VOCAB])
@pytest.mark.parametrize("batch_rows", [1, 8])
def test_scores_are_those_of_each_document_alone_with_all_logits_at_once(student_vocab: int, batch_rows: int) -> None:
    teacher, student = llama(1, PADDED_VOCAB), llama(2, student_vocab)
    scores = score({"teacher": teacher, "student": student}, ROWS, n_vocab=N_VOCAB, batch_rows=batch_rows)
    expected = dense(teacher, student, ROWS)
    assert scores.n_positions.tolist() == expected[:, 0].tolist() == [6, 8, 7, 19, 10]
    np.testing.assert_allclose(scores.kl_nats["student"], expected[:, 1], rtol=1e-4)
    np.testing.assert_array_equal(scores.agreements["student"], expected[:, 2])
    np.testing.assert_allclose(scores.nll_nats["student"], expected[:, 3], rtol=1e-4)
    np.testing.assert_allclose(scores.nll_nats["teacher"], dense(teacher, teacher, ROWS)[:, 3], rtol=1e-4)


def test_chunks_of_positions_change_nothing() -> None:
    """More scored positions than one chunk holds."""
    rows = rows_of([[30, 30]] * 6, row_tokens=60)
    teacher, student = llama(1), llama(2)
    scores = score({"teacher": teacher, "student": student}, rows, n_vocab=N_VOCAB)
    assert scores.n_positions.sum() == 348
    np.testing.assert_allclose(scores.kl_nats["student"], dense(teacher, student, rows)[:, 1], rtol=1e-4)


def test_a_model_is_at_no_distance_from_itself() -> None:
    teacher = llama(1)
    scores = score({"teacher": teacher, "student": teacher}, ROWS, n_vocab=N_VOCAB)
    assert (scores.kl_nats["student"] == 0).all()
    np.testing.assert_array_equal(scores.agreements["student"], scores.n_positions)


def test_only_masked_positions_are_scored() -> None:
    rows = rows_of([[7, 9, 8], [20], [11]], unscored=5)
    teacher, student = llama(1), llama(2)
    scores = score({"teacher": teacher, "student": student}, rows, n_vocab=N_VOCAB)
    assert scores.n_positions.tolist() == [2, 4, 3, 15, 6]
    np.testing.assert_allclose(scores.kl_nats["student"], dense(teacher, student, rows)[:, 1], rtol=1e-4)


def test_padding_is_never_scored_whatever_it_holds() -> None:
    models = {"teacher": llama(1), "student": llama(2)}
    other = ROWS.input_ids.copy()
    other[ROWS.document < 0] = N_VOCAB - 1
    changed = Rows(other, ROWS.position_ids, ROWS.targets_mask, ROWS.document)
    first, second = (score(models, rows, n_vocab=N_VOCAB).kl_nats["student"] for rows in (ROWS, changed))
    np.testing.assert_array_equal(first, second)


def test_a_document_in_two_rows_is_one_cluster() -> None:
    document = ROWS.document.copy()
    document[document == 4] = 3
    models = {"teacher": llama(1), "student": llama(2)}
    apart = score(models, ROWS, n_vocab=N_VOCAB)
    joined = score(models, Rows(ROWS.input_ids, ROWS.position_ids, ROWS.targets_mask, document), n_vocab=N_VOCAB)
    assert joined.n_positions.tolist() == [6, 8, 7, 29]
    assert joined.kl_nats["student"][3] == pytest.approx(apart.kl_nats["student"][3:].sum())


class Bigram(nn.Module):
    """A causal model whose next-token logits are a table's row of the current token; its head is the identity."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(logits)
        self.head = nn.Linear(logits.shape[1], logits.shape[1], bias=True)
        self.head.weight.data.copy_(torch.eye(logits.shape[1]))
        self.head.bias.data.zero_()

    def model(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.table(input_ids)))


def bigram(probabilities: list[float]) -> Bigram:
    return Bigram(torch.tensor(probabilities).log().expand(2, 2).clone())


TWO_TOKENS = Rows(
    np.array([[0, 1, 0, 0, 1]], dtype=np.int32),
    np.arange(5, dtype=np.int32)[None],
    np.array([[True, True, True, True, False]]),
    np.zeros((1, 5), dtype=np.int32),
)


def test_two_known_distributions_give_the_closed_form() -> None:
    models = {"teacher": bigram([0.75, 0.25]), "student": bigram([0.5, 0.5]), "control": bigram([0.25, 0.75])}
    scores = score(models, TWO_TOKENS, n_vocab=2)
    assert scores.kl_nats["student"] / 4 == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert scores.kl_nats["control"] / 4 == pytest.approx(0.5 * math.log(3))
    assert scores.agreements["control"] == [0]
    assert scores.nll_nats["teacher"] == pytest.approx(-2 * math.log(0.75) - 2 * math.log(0.25))


def test_the_bias_of_a_head_counts() -> None:
    biased = bigram([0.5, 0.5])
    biased.head.bias.data.copy_(torch.tensor([math.log(3.0), 0.0]))
    scores = score({"teacher": bigram([0.75, 0.25]), "student": biased}, TWO_TOKENS, n_vocab=2)
    assert scores.kl_nats["student"] == pytest.approx(0, abs=1e-6)


def test_bf16_is_near_fp32() -> None:
    models = {"teacher": llama(1, scale=0.1), "student": llama(2, scale=0.1)}
    fp32, bf16 = (score(models, ROWS, n_vocab=N_VOCAB, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert (fp32.kl_nats["student"] != bf16.kl_nats["student"]).any()
    np.testing.assert_allclose(fp32.kl_nats["student"], bf16.kl_nats["student"], rtol=0.05)


def test_a_models_mode_is_given_back() -> None:
    teacher, student = llama(1), llama(2).train()
    score({"teacher": teacher, "student": student}, ROWS, n_vocab=N_VOCAB)
    assert student.training
    assert not teacher.training


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"90 output rows for a vocabulary of 100.*student"):
        score({"teacher": llama(1), "student": llama(2, 90)}, ROWS, n_vocab=N_VOCAB)


def test_rows_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(MismatchError, match="token id"):
        score({"teacher": llama(1), "student": llama(2)}, ROWS, n_vocab=50)


def test_a_head_that_does_more_than_a_product_is_refused() -> None:
    class Capped(Bigram):
        def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=5 * torch.tanh(super().forward(*args, **kwargs).logits / 5))

    capped = Capped(torch.tensor([0.75, 0.25]).log().expand(2, 2).clone())
    with pytest.raises(MismatchError, match=r"student.*more than a product"):
        score({"teacher": bigram([0.75, 0.25]), "student": capped}, TWO_TOKENS, n_vocab=2)


def test_a_model_that_lets_documents_of_a_row_see_each_other_is_refused() -> None:
    class Leaky(Bigram):
        def model(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.table(input_ids).cumsum(1))

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(logits=self.head(self.table(input_ids).cumsum(1)))

    leaky = Leaky(torch.tensor([0.75, 0.25]).log().expand(2, 2).clone())
    two_documents = Rows(
        TWO_TOKENS.input_ids,
        np.array([[0, 1, 0, 1, 2]], dtype=np.int32),
        np.array([[True, False, True, True, False]]),
        np.array([[0, 0, 1, 1, 1]], dtype=np.int32),
    )
    plain = bigram([0.75, 0.25])
    assert score({"teacher": plain, "student": plain}, two_documents, n_vocab=2).n_positions.tolist() == [1, 2]
    with pytest.raises(MismatchError, match="keep packed documents apart"):
        score({"teacher": plain, "student": leaky}, two_documents, n_vocab=2)


def test_bytes_are_needed_for_scored_documents_only() -> None:
    models = {"teacher": llama(1), "student": llama(2)}
    mask = ROWS.targets_mask & (ROWS.document != 4)
    rows = Rows(ROWS.input_ids, ROWS.position_ids, mask, ROWS.document)
    scores = score(models, rows, n_vocab=N_VOCAB, n_bytes=[10, 20, 30, 40])
    bits = retention(scores, seed=1, resamples=200)["bits_per_byte_teacher"]
    assert bits == pytest.approx(scores.nll_nats["teacher"].sum() / math.log(2) / 100)
    with pytest.raises(MismatchError, match="bytes of 3 documents"):
        score(models, rows, n_vocab=N_VOCAB, n_bytes=[10, 20, 30])


@pytest.mark.parametrize("place", [0, 11])
def test_a_diverged_model_is_named_wherever_it_shows(place: int) -> None:
    ids = np.zeros((1, 12), dtype=np.int32)
    ids[0, place] = 1
    mask = np.ones((1, 12), dtype=bool)
    rows = Rows(np.tile(ids, 2), np.arange(24, dtype=np.int32)[None], np.tile(mask, 2), np.zeros((1, 24), np.int32))
    rows.targets_mask[0, -1] = False
    broken = bigram([0.5, 0.5])
    broken.table.weight.data[1] = math.nan
    with pytest.raises(TrainingError, match=r"not finite \[student\]"):
        score({"teacher": bigram([0.75, 0.25]), "student": broken}, rows, n_vocab=2)


def test_scoring_without_teacher_or_positions_is_refused() -> None:
    with pytest.raises(InputError, match="named 'teacher'"):
        score({"student": llama(1)}, ROWS, n_vocab=N_VOCAB)
    nothing = Rows(ROWS.input_ids, ROWS.position_ids, np.zeros_like(ROWS.targets_mask), ROWS.document)
    with pytest.raises(InputError, match="no scored position"):
        score({"teacher": llama(1)}, nothing, n_vocab=N_VOCAB)


# --- estimates ------------------------------------------------------------------------------------------------


def made_scores(documents: int = 60, *, student_factor: float = 0.5, seed: int = 1) -> Scores:
    rng = np.random.Generator(np.random.Philox(seed))
    n = rng.integers(20, 300, size=documents)
    control: Sums = n * rng.gamma(8, 1 / 8, size=documents) * 1.4
    student: Sums = control * student_factor * np.exp(rng.normal(0, 0.2, size=documents))
    kl: dict[str, Sums] = {"init": (n * 8.0).astype(np.float64), "student": student, "control": control}
    nll: dict[str, Sums] = {"teacher": n * rng.gamma(40, 1 / 20, size=documents)}
    nll |= {name: nll["teacher"] + sums for name, sums in kl.items()}
    shares = {"init": 0.02, "student": 0.65, "control": 0.6}
    agreements = {name: rng.binomial(n, s).astype(float) for name, s in shares.items()}
    return Scores(n.astype(np.int64), nll, kl, agreements, (n * 4.5).astype(np.float64))


def test_estimates_are_ratios_of_sums_with_the_bootstraps_intervals() -> None:
    scores = made_scores()
    result = retention(scores, seed=3, resamples=500)
    n = scores.n_positions.sum()
    assert result["kl_student_nats"] == pytest.approx(scores.kl_nats["student"].sum() / n)
    assert result["agreement_control"] == pytest.approx(scores.agreements["control"].sum() / n)
    assert result["perplexity_student"] == pytest.approx(math.exp(scores.nll_nats["student"].sum() / n))
    assert result["bits_per_byte_teacher"] == pytest.approx(scores.nll_nats["teacher"].sum() / math.log(2) / (4.5 * n))
    assert result["kl_student_over_control"] == pytest.approx(0.5, rel=0.1)
    expected = stats.cluster_bootstrap(
        scores.nll_nats["init"], scores.n_positions, resamples=500, seed=3, bounds=(0, math.inf)
    )
    assert result["perplexity_init_interval"] == pytest.approx([math.exp(expected.low), math.exp(expected.high)])
    assert (result["n_documents"], result["n_positions"], result["confidence"]) == (60, n, 0.95)


def test_every_estimate_has_an_interval_that_holds_it() -> None:
    result = retention(made_scores(), seed=3, resamples=200)
    keys = [key for key in result if f"{key}_interval" in result]
    assert len(keys) == 3 * 2 + 4 * 2 + 1
    for key in keys:
        low, high = result[f"{key}_interval"]
        assert low <= result[key] <= high


def test_a_student_nearer_than_the_control_is_found_and_says_what_it_assumes() -> None:
    run = Run("stillproof distill run", "ab" * 32, "0.1.0", 7)
    (row,) = retention(made_scores(), seed=3, resamples=200, run=run)["findings"]
    finding = Finding.from_json(row)
    assert finding.decision == "found"
    assert finding.kind == "reference_based"
    assert finding.alpha == 0.05
    assert (finding.n, finding.n_unit, finding.n_reference) == (60, "documents", 9999)
    assert finding.claim.endswith("than those of a control that took as many steps under plain cross-entropy")
    assert "the control learned the same text" in finding.assumptions
    assert any("share wordings or prompts are not" in text and "too narrow" in text for text in finding.assumptions)
    assert any("other seeds" in text for text in finding.assumptions)
    assert finding.run == run
    assert finding.effect is not None
    assert finding.effect.high is not None
    assert finding.effect.high < 1


def test_a_control_with_text_of_its_own_is_said_to_have_it() -> None:
    (row,) = retention(made_scores(), seed=3, resamples=200, control_text="gold answers of its own")["findings"]
    assert "the control learned gold answers of its own" in row["assumptions"]
    assert not any("same" in text for text in [row["claim"], *row["assumptions"]])


def test_a_student_no_nearer_than_the_control_is_not_found() -> None:
    (row,) = retention(made_scores(student_factor=1.05), seed=3, resamples=200)["findings"]
    assert row["decision"] == "not_found"


def test_too_few_documents_are_inconclusive_however_large_the_difference() -> None:
    (row,) = retention(made_scores(4, student_factor=0.01), seed=3, resamples=200)["findings"]
    assert row["decision"] == "inconclusive"


def test_one_document_has_estimates_and_no_intervals() -> None:
    result = retention(made_scores(1), seed=3, resamples=200)
    assert result["kl_student_nats"] > 0
    assert result["kl_student_nats_interval"] is None
    assert result["perplexity_student_interval"] is None


def test_what_was_not_measured_is_none_and_makes_no_finding() -> None:
    scores = made_scores()
    kl, nll = ({k: v for k, v in m.items() if k != "control"} for m in (scores.kl_nats, scores.nll_nats))
    partial = Scores(scores.n_positions, nll, kl, {k: v for k, v in scores.agreements.items() if k != "control"})
    result = retention(partial, seed=3, resamples=200)
    for key in ("kl_control_nats", "agreement_control", "perplexity_control", "bits_per_byte_student"):
        assert result[key] is None
        assert result[f"{key}_interval"] is None
    assert result["kl_student_over_control"] is None
    assert result["findings"] == []


def test_documents_without_scored_positions_are_not_counted() -> None:
    scores = made_scores()
    assert scores.n_bytes is not None

    def longer(sums: Mapping[str, Sums]) -> dict[str, Sums]:
        return {name: np.append(values, 0.0) for name, values in sums.items()}

    padded = Scores(
        np.append(scores.n_positions, 0),
        longer(scores.nll_nats),
        longer(scores.kl_nats),
        longer(scores.agreements),
        np.append(scores.n_bytes, 0.0),
    )
    assert retention(padded, seed=3, resamples=200) == retention(scores, seed=3, resamples=200)


# --- answers --------------------------------------------------------------------------------------------------


def test_exact_match_ignores_case_and_blanks_and_nothing_else() -> None:
    result = exact_match({"student": [" Paris\n", "paris.", "Lyon"]}, ["Paris", "Paris", "Paris"])
    assert result["exact_match_student"] == pytest.approx(1 / 3)
    expected = stats.proportion_interval(1, 3)
    assert result["exact_match_student_interval"] == [expected.low, expected.high]
    assert result["n_answers"] == 3


def test_the_last_match_of_the_pattern_is_the_answer() -> None:
    answers = {"teacher": ["first 3, so 3 + 4 = 7", "no number", "12"], "student": ["7", "none either", "13 then 12"]}
    result = exact_match(answers, ["#### 7", "5", "#### 12"], pattern=r"\d+")
    assert result["exact_match_teacher"] == result["exact_match_student"] == pytest.approx(2 / 3)
    assert result["answer_agreement_student"] == pytest.approx(2 / 3), "two answers that are none are not the same"
    assert "answer_agreement_teacher" not in result


def test_a_group_in_the_pattern_is_the_answer() -> None:
    result = exact_match({"student": ["answer: Blue; answer: red"]}, ["red"], pattern=r"answer: (\w+)")
    assert result["exact_match_student"] == 1


def test_no_answer_is_a_wrong_answer() -> None:
    assert exact_match({"student": [None, "a"]}, ["", "a"])["exact_match_student"] == 0.5


def test_no_prompts_give_no_shares() -> None:
    assert exact_match({"student": []}, [])["exact_match_student"] is None


def test_a_broken_pattern_and_a_missing_answer_are_named() -> None:
    with pytest.raises(ConfigError, match="answer_pattern"):
        exact_match({"student": ["a"]}, ["a"], pattern="(")
    with pytest.raises(MismatchError, match="1 answers to 2 prompts"):
        exact_match({"student": ["a"]}, ["a", "b"])


def word_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, N_VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_prompts_are_answered_in_their_order_duplicates_included() -> None:
    model, tokenizer = llama(3), word_tokenizer()
    texts = ["w5 w6 w7 w8", "w9", "w5 w6 w7 w8", "w10 w11"]
    prompts = [(Message("user", text),) for text in texts]
    answers = answer_prompts(model, tokenizer, prompts, max_tokens=4, batch_size=2)
    assert answers[0] == answers[2]
    for text, answer in zip(texts, answers, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for _ in range(4):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        continued = ids[0, len(text.split()) :].tolist()
        wanted = continued[: continued.index(1)] if 1 in continued else continued
        assert (answer or "").split() == str(tokenizer.decode(wanted)).split()


def test_a_prompt_without_room_has_no_answer() -> None:
    long = " ".join(["w5"] * 70)
    answers = answer_prompts(llama(3), word_tokenizer(), [(Message("user", long),), (Message("user", "w5"),)])
    assert answers[0] is None
    assert answers[1] is not None
