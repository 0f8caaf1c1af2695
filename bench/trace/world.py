"""What all runs share: tokenizer, text, teacher, the base that students begin from; and what the teacher serves.

Made once below a folder and read from there by every worker. The prose is split: the first part trains the teacher and
the base, the second gives prompts that were served, the last prompts and readings of audits. No key has touched any of
it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from bench.trace import students as st
from bench.trace import texts
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stillproof.device import best_device
from stillproof.watermark import Marker, MarkKey, Scheme

Ids = NDArray[np.int64]

PROMPT, ANSWER = 16, 48
"""Tokens of a prompt and of an answer; a row is both."""

ROW = PROMPT + ANSWER
SERVED_AT_A_TIME = 512


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is learned, in tokens and characters."""

    chars: int = texts.CHARS
    teacher_tokens: int = 1_600_000
    base_tokens: int = 1_000_000
    plain_rows: int = 12_000
    """Of unmarked text by the teacher."""
    vocab: int = texts.VOCAB


@dataclass(frozen=True)
class World:
    folder: Path
    device: str | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def shape(self, shape: st.Shape) -> st.Shape:
        """With this world's vocabulary."""
        return replace(shape, vocab=self.tokenizer.get_vocab_size())

    @cached_property
    def ids(self) -> dict[str, Ids]:
        """Token ids of each kind of text."""
        with np.load(self.folder / "texts.npz", allow_pickle=False) as kept:
            return {name: kept[name].astype(np.int64) for name in kept.files}

    def part(self, kind: str, name: str) -> Ids:
        """'learn', 'serve' or 'audit' of a kind of text."""
        ids = self.ids[kind]
        a, b = int(0.6 * ids.size), int(0.8 * ids.size)
        return {"learn": ids[:a], "serve": ids[a:b], "audit": ids[b:]}[name]

    @cached_property
    def teacher(self) -> st.Students:
        return st.load(self.shape(st.TEACHER), self.folder / "teacher.safetensors", self.device)

    @cached_property
    def base(self) -> st.Students:
        return st.load(self.shape(st.STUDENT), self.folder / "base.safetensors", self.device)

    @cached_property
    def plain(self) -> Ids:
        """Rows of unmarked text by the teacher, [n, ROW]: what audits in open mode read, and clean training text."""
        with np.load(self.folder / "plain.npz", allow_pickle=False) as kept:
            return kept["rows"].astype(np.int64)

    def prompts(self, part: str, n: int, seed: int, kind: str = "prose") -> Ids:
        return texts.rows_of(self.part(kind, part), n, PROMPT, seed)


def prepare(folder: Path, data: Path | None, sizes: Sizes, device: str | None = None) -> World:
    """Make what is missing of a world."""
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, float] = {}
    if not (folder / "tokenizer.json").exists() or not (folder / "texts.npz").exists():
        documents = {kind: texts.document(kind, data, sizes.chars) for kind in texts.KINDS}
        tokenizer = texts.learn_tokenizer([text[: sizes.chars // 10] for text in documents.values()], sizes.vocab)
        tokenizer.save(str(folder / "tokenizer.json"))
        cut = {kind: texts.encoded(tokenizer, text).astype(np.uint16) for kind, text in documents.items()}
        np.savez(folder / "texts.npz", allow_pickle=False, **cut)
    world = World(folder, device)
    for name, shape, tokens, seed in (
        ("teacher", st.TEACHER, sizes.teacher_tokens, 1),
        ("base", st.STUDENT, sizes.base_tokens, 2),
    ):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = st.Students(world.shape(shape), [seed]).to(device or best_device())
            rows = texts.rows_of(world.part("prose", "learn"), tokens // ROW, ROW, seed)
            (loss,) = st.train(model, [rows], [seed], st.Schedule(1.0, 64, 3e-3))
            st.save(model, path)
            told[f"{name}_loss_nats"] = loss
    if not (folder / "plain.npz").exists():
        prompts = world.prompts("serve", sizes.plain_rows, 3)
        rows = np.concatenate([prompts, st.answers(world.teacher, [prompts], ANSWER, [4])[0]], axis=1)
        np.savez_compressed(folder / "plain.npz", allow_pickle=False, rows=rows.astype(np.uint16))
    if told:
        (folder / "world.json").write_text(json.dumps(told))
    return world


@torch.inference_mode()
def served(world: World, prompts: Ids, key: MarkKey | None, seed: int) -> Ids:
    """What the teacher answers to prompts [n, PROMPT], marked under a key: rows [n, ROW], prompt and answer.

    The mark runs through the answer; its first windows reach into the prompt, as they do when serving.
    """
    if key is None:
        return np.concatenate([prompts, st.answers(world.teacher, [prompts], ANSWER, [seed])[0]], axis=1)
    marker = Marker(key, Generator(Philox(seed)))
    done: list[Ids] = []
    for start in range(0, len(prompts), SERVED_AT_A_TIME):
        block = prompts[start : start + SERVED_AT_A_TIME]
        contexts: list[list[int]] = block.tolist()
        used: list[set[int]] = [set() for _ in contexts]
        cache, ids = st.Cache(world.teacher.shape.layers), torch.from_numpy(block)[None].to(world.teacher.device)
        for _ in range(ANSWER):
            logits = world.teacher(ids, cache)[0, :, -1].float().cpu().numpy()
            tokens = marker.step(logits, contexts, used)
            for context, token in zip(contexts, tokens.tolist(), strict=True):
                context.append(token)
            ids = torch.from_numpy(tokens)[None, :, None].to(world.teacher.device)
        done.append(np.array(contexts, dtype=np.int64))
    return np.concatenate(done)


def key_of(scheme: Scheme, number: int) -> MarkKey:
    """A key of a run: the same on every machine. A benchmark's key is no secret."""
    return MarkKey(scheme, Generator(Philox(number)).bytes(32))
