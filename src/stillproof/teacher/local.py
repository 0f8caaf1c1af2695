"""LocalTeacher: weights on this machine that answer in batches.

`load_weights`, `smollm2_path` and the hashes are in `weights.py`; they are public here too.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.device import best_device, native_bf16
from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, ResponseTokens, Sampling
from stillproof.teacher import Identity, Request, asked, now, with_licence
from stillproof.teacher.gguf import file_sha256, gguf_metadata
from stillproof.teacher.pieces import Pieces
from stillproof.teacher.weights import (
    HUB_NAME,
    SMOLLM2,
    hash_chat_template,
    hash_template,
    hash_tokenizer,
    hash_vocabulary,
    hash_weights,
    hub_folder,
    load_weights,
    smollm2_path,
    weights_folder,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillproof.config import TeacherConfig
    from stillproof.teacher.draw import Draw

__all__ = [
    "LocalTeacher",
    "hash_chat_template",
    "hash_tokenizer",
    "hash_weights",
    "identify_local",
    "load_weights",
    "open_local",
    "smollm2_path",
    "weights_folder",
]

DEFAULT_MAX_TOKENS = 512
WINDOW_BATCHES = 8


def open_local(config: TeacherConfig, *, seed: int = 0) -> LocalTeacher:
    """The teacher of kind smollm2, weights or gguf; bf16 where the machine has it, else fp32."""
    source = "smollm2" if config.kind == "smollm2" else config.model
    device = best_device()
    model, tokenizer = load_weights(source, dtype="bf16" if native_bf16(device) else "fp32")
    placed: Any = model
    return LocalTeacher(placed.to(device), tokenizer, identify_local(config), batch_size=config.batch_size, seed=seed)


# --- Identity -------------------------------------------------------------------------------------------------


def identify_local(config: TeacherConfig) -> Identity:
    """Who the weights are: from GGUF metadata, or a folder's files. Loads none of them; hashes them (1.5 GB/s)."""
    if config.kind == "smollm2":
        identity = replace(_identify_gguf(smollm2_path()), model=SMOLLM2, kind="smollm2")
    elif config.kind == "gguf":
        identity = _identify_gguf(Path(config.model).expanduser())
    else:
        identity = _identify_weights(config.model)
    return with_licence(identity, config.licence)


def _identify_gguf(path: Path) -> Identity:
    metadata = gguf_metadata(path)
    tokens = metadata.get("tokenizer.ggml.tokens")
    return Identity(
        model=str(metadata.get("general.name") or path.stem),
        kind="gguf",
        weights=file_sha256(path),
        tokenizer=hash_vocabulary({token: number for number, token in enumerate(tokens)}) if tokens else None,
        chat_template=hash_template(metadata.get("tokenizer.chat_template")),
        licence=metadata.get("general.license"),
    )


def _identify_weights(source: str) -> Identity:
    path = Path(source).expanduser()
    if path.is_dir():
        return _identify_folder(path, path.resolve().name, None)
    if not HUB_NAME.fullmatch(source):
        raise InputError("no such weights", source, "give a model folder, or owner/name at the hub")
    folder = hub_folder(source)
    # A snapshot's folder is named after the commit it holds.
    return _identify_folder(folder, source, folder.name) if folder else Identity(model=source, kind="weights")


def _identify_folder(folder: Path, model: str, revision: str | None) -> Identity:
    settings = _json_file(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    vocabulary = _vocabulary(_json_file(folder / "tokenizer.json"))
    return Identity(
        model=model,
        kind="weights",
        revision=revision,
        weights=hash_weights(folder),
        tokenizer=hash_vocabulary(vocabulary) if vocabulary else None,
        chat_template=hash_template(
            template.read_text(encoding="utf-8") if template.exists() else settings.get("chat_template")
        ),
        licence=_card_licence(folder / "README.md"),
    )


def _json_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise InputError(f"not a JSON object: {error}", str(path), "download it again") from error


def _vocabulary(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    added = {entry["content"]: int(entry["id"]) for entry in tokenizer.get("added_tokens", [])}
    return dict(vocabulary) | added


def _card_licence(card: Path) -> str | None:
    """The licence in a model card's front matter; its own name where the tag only says 'other'."""
    if not card.exists():
        return None
    front = re.match(r"\A---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    fields = dict(re.findall(r"^(license|license_name): *['\"]?([^'\"\n]+?)['\"]? *$", front[1] if front else "", re.M))
    licence = fields.get("license")
    return fields.get("license_name", licence) if licence == "other" else licence


# --- Answering ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prompt:
    request: Request
    ids: list[int]


class LocalTeacher:
    """Batched generation with transformers, sorted by length, at the arithmetic type of the model given.

    A request's draws depend on the seed (its own, else this teacher's), its prompt and its sample index, not on the
    other requests of the batch, except through rounding. Temperature 0 is greedy. A sampling parameter of None is
    the model's own (generation_config), else temperature 1 without truncation, and at most 512 tokens.

    Every answer carries tokens: ids, log-probabilities at temperature 1 over the whole vocabulary (nats), the
    `sampling.top_logprobs` likeliest when asked, and pieces where the tokenizer's family is known (`pieces.py`).
    The end-of-sequence token is not part of the response. Where a stop string ends inside a token, tokens is None:
    they would spell more than the response.

    A tokenizer without a chat template means a base model: one single user message is continued as plain text, and
    the exchange's provenance says "plain continuation"; any other conversation raises InputError.

    A prompt that leaves no room in the model's context is an exchange with status 400 and no response, as an
    endpoint would answer it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        identity: Identity,
        *,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._identity = identity
        self._batch_size = batch_size
        self._seed = seed
        self._pieces = Pieces(tokenizer)
        self._tokenizer_hash = hash_tokenizer(tokenizer)
        self._detail = identity.model if tokenizer.chat_template else f"{identity.model} (plain continuation)"
        configured = model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        self._ends = sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def model(self) -> PreTrainedModel:
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        waiting = iter(requests)
        while window := list(islice(waiting, self._batch_size * WINDOW_BATCHES)):
            groups: defaultdict[Sampling, list[_Prompt]] = defaultdict(list)
            for request in window:
                prompt = _Prompt(request, self.prompt_ids(request))
                room = self._context() - len(prompt.ids)
                if room < 1:
                    yield replace(self._asked(prompt), status=400, time=now())
                    continue
                # Answers of equal length at most, so that a batch is never cut short by its longest prompt.
                max_tokens = min(request.sampling.max_tokens or DEFAULT_MAX_TOKENS, room)
                groups[replace(request.sampling, seed=None, max_tokens=max_tokens)].append(prompt)
            for sampling, prompts in groups.items():
                prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)
                for start in range(0, len(prompts), self._batch_size):
                    yield from self._batch(prompts[start : start + self._batch_size], sampling)

    def close(self) -> None:
        pass

    def prompt_ids(self, request: Request) -> list[int]:
        """The ids the model is given for a request. Raises InputError where there is no template and it needs one."""
        if self._tokenizer.chat_template:
            tools = json.loads(request.tools) if request.tools else None
            text = self._tokenizer.apply_chat_template(
                [template_message(message) for message in request.messages],
                tools=tools,
                add_generation_prompt=True,
                tokenize=False,
            )
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(request.messages) != 1 or request.messages[0].role != "user" or request.tools:
            raise InputError(
                "this tokenizer has no chat template, so only a single user message can be continued",
                " ".join(message.role for message in request.messages),
                "use an instruction-tuned teacher, or put everything into one user message",
            )
        return list(self._tokenizer(request.messages[0].content or "")["input_ids"])

    def _asked(self, prompt: _Prompt) -> Exchange:
        return replace(asked(prompt.request, self._identity, self._detail), prompt_tokens=len(prompt.ids))

    def _context(self) -> int:
        return int(getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)

    def _rule(self, sampling: Sampling) -> Any:
        from stillproof.teacher.draw import Rule

        own = self._model.generation_config
        temperature = sampling.temperature if sampling.temperature is not None else own.temperature
        top_p = sampling.top_p if sampling.top_p is not None else own.top_p
        top_k = sampling.top_k if sampling.top_k is not None else own.top_k
        return Rule(1.0 if temperature is None else temperature, top_k or None, None if top_p == 1 else top_p)

    def _seed_of(self, request: Request) -> int:
        return self._seed if request.sampling.seed is None else request.sampling.seed

    def _draw(self, prompts: Sequence[_Prompt], u: torch.Tensor, sampling: Sampling) -> Draw:
        """How the tokens of a batch are drawn. The seam for a teacher that marks them."""
        from stillproof.teacher.draw import Draw

        return Draw(self._rule(sampling), u, sampling.top_logprobs or 0)

    def _batch(self, prompts: list[_Prompt], sampling: Sampling) -> Iterator[Exchange]:
        import numpy as np
        import torch

        from stillproof.teacher.draw import uniforms

        began = time.monotonic()
        longest = max(len(prompt.ids) for prompt in prompts)
        max_new = sampling.max_tokens or DEFAULT_MAX_TOKENS
        rows = [
            uniforms(self._seed_of(prompt.request), prompt.ids, prompt.request.sample, max_new) for prompt in prompts
        ]
        device = self._model.device
        u = torch.from_numpy(np.stack(rows))
        # Apple's GPU has no float64.
        u = u.to(device, torch.float32 if device.type == "mps" else torch.float64)
        draw = self._draw(prompts, u, sampling)
        self._generate(prompts, longest, max_new, draw, sampling.stop or ())
        top = (draw.top_ids, draw.top_logprobs) if sampling.top_logprobs else None
        latency_s = time.monotonic() - began
        for row, (prompt, ids, logprobs) in enumerate(zip(prompts, draw.ids, draw.logprobs, strict=True)):
            n = next((i for i, number in enumerate(ids) if number in self._ends), len(ids))
            tokens = ResponseTokens(ids=tuple(ids[:n]), logprobs=tuple(logprobs[:n]), tokenizer=self._tokenizer_hash)
            if top is not None:
                tokens = self._with_top(tokens, top[0][row][:n], top[1][row][:n])
            yield replace(
                self._answered(prompt, tokens, sampling.stop or (), "length" if n == len(ids) else "stop"),
                latency_s=latency_s,
            )

    def _generate(self, prompts: list[_Prompt], longest: int, max_new: int, draw: Any, stop: Sequence[str]) -> None:
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        pad = self._tokenizer.pad_token_id
        pad = pad if pad is not None else (self._ends or [0])[0]
        ids = torch.tensor([[pad] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts])
        settings = GenerationConfig(
            max_new_tokens=max_new,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self._ends or None,
            pad_token_id=pad,
            use_cache=True,
        )
        criteria = StoppingCriteriaList([_stopped(self._tokenizer, longest, stop)]) if stop else None
        generate: Any = self._model.generate
        with torch.inference_mode():
            generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=settings,
                logits_processor=[draw],
                stopping_criteria=criteria,
            )

    def _with_top(self, tokens: ResponseTokens, ids: list[list[int]], logprobs: list[list[float]]) -> ResponseTokens:
        pieces = [self._pieces.each(row) for row in ids] if self._pieces.known else None
        return replace(
            tokens,
            top_ids=tuple(tuple(row) for row in ids),
            top_logprobs=tuple(tuple(row) for row in logprobs),
            top_pieces=tuple(pieces) if pieces is not None else None,
        )

    def _answered(self, prompt: _Prompt, tokens: ResponseTokens, stop: Sequence[str], finish_reason: str) -> Exchange:
        ids = tokens.ids or ()
        text = self._decode(ids)
        kept: ResponseTokens | None = tokens
        at = min((place for place in (text.find(word) for word in stop) if place >= 0), default=None)
        if at is not None:
            text, finish_reason = text[:at], "stop"
            n = next((n for n in range(len(ids) + 1) if self._decode(ids[:n]) == text), None)
            kept = None if n is None else _first(tokens, n)
        if kept is not None:
            kept = replace(kept, pieces=self._pieces.spelling(kept.ids or (), text))
        return replace(
            self._asked(prompt),
            response=text,
            tokens=kept,
            finish_reason=finish_reason,
            status=200,
            response_tokens=len(ids),
            time=now(),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _first(tokens: ResponseTokens, n: int) -> ResponseTokens:
    def cut(column: Any) -> Any:
        return None if column is None else column[:n]

    return replace(
        tokens,
        ids=cut(tokens.ids),
        logprobs=cut(tokens.logprobs),
        top_ids=cut(tokens.top_ids),
        top_pieces=cut(tokens.top_pieces),
        top_logprobs=cut(tokens.top_logprobs),
    )


def template_message(message: Message) -> dict[str, Any]:
    """A message as chat templates read it; fields that are absent are left out."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        row["name"] = message.name
    if message.tool_calls is not None:
        row["tool_calls"] = json.loads(message.tool_calls)
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _stopped(tokenizer: PreTrainedTokenizerBase, n_prompt: int, stop: Sequence[str]) -> Any:
    """A stopping criterion: rows whose last tokens spell a stop string are done."""
    import torch
    from transformers import StoppingCriteria

    n_tail = max(len(word.encode("utf-8", "surrogatepass")) for word in stop) + 4

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.Tensor:
            tails = tokenizer.batch_decode(input_ids[:, max(n_prompt, input_ids.shape[1] - n_tail) :])
            done = [any(word in tail for word in stop) for tail in tails]
            return torch.tensor(done, device=input_ids.device)

    return Stopped()
