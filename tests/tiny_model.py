"""A random 2-layer Llama of a few thousand weights and a byte-level tokenizer, made from a config, not downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.teacher.pieces import _byte_of_character

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_tokenizer(template: str | None = TEMPLATE) -> "PreTrainedTokenizerFast":
    """A tokenizer whose ids 0-255 are the bytes, 256-258 the special tokens, then two merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [character for character, _ in sorted(_byte_of_character().items(), key=lambda item: item[1])]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *SPECIAL, "th", "the"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(seed: int = 0) -> "PreTrainedModel":
    """Random weights with a wide output distribution; vocabulary 261, context 256, in evaluation mode, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=261,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=257,
        eos_token_id=258,
        pad_token_id=258,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_folder(folder: Path, *, card: str | None = None, template: str | None = TEMPLATE) -> Path:
    """The tiny model saved as any transformers reads it."""
    tiny_model().save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return folder
