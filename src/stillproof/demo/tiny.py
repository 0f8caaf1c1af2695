"""Tiny models trained in the run, so that the whole story is real and takes minutes: a teacher, and what students start
from.

Both are Llamas of about a million weights over one byte-level tokenizer, saved as any transformers reads them, trained
by the loop that `distill` trains with.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.demo.sizes import Shape
from stillproof.exchange import Exchange, Message, Provenance, with_ids
from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|user|>", "<|model|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|model|>' if m['role'] == 'assistant' else '<|user|>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|model|>{% endif %}"
)


def chats(prompts: Sequence[str], answers: Sequence[str]) -> list[Exchange]:
    """Prompts with the answers that people wrote to them. An answer has no end: it may go on."""
    source = Provenance("dataset", "composed")
    rows = [
        Exchange(id="", messages=(Message("user", p),), response=a, finish_reason="length", provenance=source)
        for p, a in zip(prompts, answers, strict=True)
    ]
    return list(with_ids(rows))


def learn_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of so many tokens, with the template of the demo's chats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[3]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def fresh(shape: Shape, tokenizer: Any, seed: int) -> Any:
    """Random first weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a tiny model is trained."""

    name: str
    seed: int
    epochs: int
    learning_rate: float
    rows_per_step: int = 16
    row_tokens: int = 256


def teach(
    model: Any, tokenizer: Any, items: Sequence[Exchange], lesson: Lesson, folder: Path, on_event: OnEvent = ignore
) -> float:
    """Train `model` in place on the responses of some exchanges; its last loss, nats a token. `folder` keeps the
    checkpoint while it goes on."""
    import json

    from stillproof.config import TrainConfig
    from stillproof.distill.pack import pack
    from stillproof.distill.train import METRICS, train

    config = TrainConfig(
        loss="cross_entropy",
        learning_rate=lesson.learning_rate,
        epochs=lesson.epochs,
        rows_per_step=lesson.rows_per_step,
        row_tokens=lesson.row_tokens,
        checkpoint_steps=200,
    )
    rows = pack(items, tokenizer, row_tokens=lesson.row_tokens)
    train(
        model, rows, None, config, folder, n_vocab=len(tokenizer), seed=lesson.seed, dtype="fp32", stage=lesson.name,
        on_event=on_event,
    )  # fmt: skip
    last = (folder / METRICS).read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["loss_nats"])


def save(model: Any, tokenizer: Any, folder: Path, card: str) -> Path:
    """The model as a folder that transformers loads; whole, or not there."""
    from stillproof.teacher.gguf import quiet

    made = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(made, ignore_errors=True)
    with quiet():
        model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text(card, encoding="utf-8")
    return made.rename(folder)
