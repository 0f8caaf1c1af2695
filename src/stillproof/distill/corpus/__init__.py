"""Reading text data: documents, prompts with gold answers, prompts alone. And parting training from held-out data.

    source                    what it gives
    python-docs               built in: plain documents
    word-problems:SPLIT       built in: problems with worked solutions; splits train, test, new; alone it is train
    intents:SPLIT             built in: prompts, with gold answers in splits teach, test and gold (which is unlabelled
                              with our answers); `intents` alone is unlabelled
    prompts                   built in: requests to a general small assistant, without answers
    FILE.jsonl                a row a line: fields of `DataConfig`, chat `messages`, or exchanges of `write_jsonl`
    FILE.json                 an array of rows, or of a split that `label_map` names; a row may be [prompt, answer]
    FILE.csv, FILE.parquet    columns of `DataConfig`
    FILE.txt                  documents parted by blank lines; for `read_prompts`, one prompt a line
    a store's folder          its exchanges that were answered
    hub:NAME, hub:NAME#CONFIG a Hugging Face dataset (needs `datasets`); `label_map` names the split, else 'train'

Items are exchanges with ids (see `exchange.document`): content hashes, equal on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stillproof.distill.corpus.formats import (
    BadLine,
    Row,
    TxtUnit,
    csv_rows,
    json_rows,
    jsonl_rows,
    parquet_rows,
    txt_rows,
)
from stillproof.distill.corpus.rows import BadRow, columns_of, to_exchange
from stillproof.errors import InputError, MissingExtraError
from stillproof.exchange import Exchange, sha256_of, with_ids

if TYPE_CHECKING:
    from stillproof.config import DataConfig

__all__ = ["BadLine", "Documents", "Parted", "TxtUnit", "check_no_overlap", "read_documents", "read_prompts", "split"]

BAD_LINES_SHOWN = 20

_Split = TypeVar("_Split", bound=str)


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read, in the order of the source."""

    items: tuple[Exchange, ...]
    source: str
    bad: tuple[BadLine, ...] = ()
    """Records left out because they could not be used; empty unless `on_bad_line` is 'skip'."""

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted ids: which texts, in whatever order."""
        return sha256_of(sorted(item.id for item in self.items))


@dataclass(frozen=True, slots=True)
class Parted:
    """Training and held-out data without a text in common."""

    train: Documents
    heldout: Documents
    overlaps: tuple[str, ...] = ()
    """Ids of the training documents that were dropped because their text is held out."""


def read_documents(source: str, data: DataConfig, *, txt_unit: TxtUnit = "blank_line") -> Documents:
    """Read a source (see the table above), at most `data.max_documents` of it.

    Raises InputError: no such source, nothing in it, or, with `on_bad_line` 'refuse', bad lines, naming the first 20
    with their number in all. MissingExtraError where a hub dataset needs `datasets`.
    """
    items: list[Exchange] = []
    bad: list[BadLine] = []
    for item in _items(source, data, txt_unit):
        if isinstance(item, BadLine):
            bad.append(item)
            continue
        items.append(item)
        if len(items) == data.max_documents:
            break
    if bad and data.on_bad_line == "refuse":
        raise InputError(
            f"{len(bad)} line(s) cannot be used:\n{_shown(bad)}\n",
            source,
            "correct them, or set data.on_bad_line='skip' to go on without them",
        )
    if not items:
        why = f"none of {len(bad)} line(s) can be used:\n{_shown(bad)}\n" if bad else "no document in it"
        raise InputError(why, source, "give a source with at least one document or prompt")
    return Documents(tuple(with_ids(items)), source, tuple(bad))


def read_prompts(source: str, data: DataConfig) -> Documents:
    """Read prompts, with gold answers where the source has them. A .txt file has one prompt a line.

    Raises as `read_documents`, and InputError where an item is a plain document.
    """
    documents = read_documents(source, data, txt_unit="line")
    for item in documents.items:
        if not item.messages:
            raise InputError(
                "a plain document, not a prompt", f"{source}, {item.id}", "set data.prompt_field to the prompts' field"
            )
    return documents


def split(documents: Documents, heldout_share: float, seed: int) -> Parted:
    """Hold out about that share of the documents, by a seeded hash of each one's text.

    So a document's side depends on nothing but its own text and the seed, whatever else is in the corpus and in which
    order; equal texts (after folding of white space; of prompts, equal prompts) are always on one side. Raises
    InputError where a side is left empty.
    """
    sides: tuple[list[Exchange], list[Exchange]] = ([], [])
    for item in documents.items:
        place = int(sha256_of([seed, _key(item)])[:16], 16) / 2**64
        sides[place < heldout_share].append(item)
    if not sides[0] or not sides[1]:
        side = "training" if not sides[0] else "held-out"
        raise InputError(
            f"no {side} document among {len(documents.items)} at a share of {heldout_share}",
            documents.source,
            "give more documents, another data.heldout_share, or name data.heldout",
        )
    train, heldout = (replace(documents, items=tuple(side), bad=()) for side in sides)
    return Parted(replace(train, bad=documents.bad), heldout)


def check_no_overlap(train: Documents, heldout: Documents) -> Parted:
    """Drop from training every document whose text is held out (equal after folding of white space), and name them.

    Of prompts the prompt is compared, whatever the answers. Raises InputError where nothing is left to train on.
    """
    held = {_key(item) for item in heldout.items}
    kept = tuple(item for item in train.items if _key(item) not in held)
    if not kept:
        raise InputError(
            "every training document is held out too", train.source, "name other data in data.train or data.heldout"
        )
    dropped = tuple(item.id for item in train.items if _key(item) in held)
    return Parted(replace(train, items=kept), heldout, dropped)


def _key(item: Exchange) -> str:
    texts = [message.content for message in item.messages] if item.messages else [item.response]
    return "\x1f".join(re.sub(r"\s+", " ", text).strip() for text in texts if text is not None)


def _shown(bad: list[BadLine]) -> str:
    lines = [f"  {line.where}: {line.reason}" for line in bad[:BAD_LINES_SHOWN]]
    if len(bad) > BAD_LINES_SHOWN:
        lines.append(f"  and {len(bad) - BAD_LINES_SHOWN} more")
    return "\n".join(lines)


def _items(source: str, data: DataConfig, txt_unit: TxtUnit) -> Iterator[Exchange | BadLine]:
    name, _, part = source.partition(":")
    built_in = _built_in(name, part)
    if built_in is not None:
        return iter(built_in)
    if name == "hub":
        return _from_rows(_hub_rows(part, data.label_map), data, source)
    path = Path(source)
    if path.is_dir():
        return _stored(path)
    return _of_file(path, data, txt_unit)


def _built_in(name: str, part: str) -> list[Exchange] | None:
    """A corpus of `stillproof.distill.builtin`; None where `name` is none of them."""
    from stillproof.distill import builtin

    match name:
        case "python-docs":
            return builtin.python_docs()
        case "prompts":
            return builtin.prompts()
        case "word-problems":
            return builtin.word_problems(_known(part or "train", builtin.WORD_PROBLEM_SIZES, name))
        case "intents" if part == "gold":
            return builtin.intents_gold()
        case "intents":
            return builtin.intents(_known(part or "unlabelled", builtin.INTENT_SIZES, name, "gold"))
    return None


def _known(split_name: str, sizes: dict[_Split, int], corpus: str, *more: str) -> _Split:
    """`split_name` as one of the splits that have a size. Raises InputError, which offers `more` besides."""
    for known in sizes:
        if known == split_name:
            return known
    raise InputError(f"no split {split_name!r}", corpus, f"use one of {', '.join([*sizes, *more])}")


def _of_file(path: Path, data: DataConfig, txt_unit: TxtUnit) -> Iterator[Exchange | BadLine]:
    if not path.exists():
        raise InputError(
            "no such file, store or built-in corpus",
            str(path),
            "give a path, hub:NAME, word-problems, python-docs, intents or prompts",
        )
    match path.suffix.lower():
        case ".jsonl":
            rows = _exchanges_in(path) or jsonl_rows(path)
        case ".json":
            rows = json_rows(path, data.label_map)
        case ".txt" | ".md":
            rows = txt_rows(path, txt_unit)
        case ".csv":
            rows = csv_rows(path, columns_of(data))
        case ".parquet":
            rows = _exchanges_in(path) or parquet_rows(path, columns_of(data))
        case suffix:
            raise InputError(
                f"unknown kind of file {suffix!r}", str(path), "give .jsonl, .json, .txt, .csv, .parquet or a store"
            )
    return _from_rows(rows, data, path.name)


def _from_rows(rows: Iterable[Row | BadLine], data: DataConfig, detail: str) -> Iterator[Exchange | BadLine]:
    for row in rows:
        if isinstance(row, BadLine):
            yield row
        elif isinstance(row[1], Exchange):
            yield row[1]
        else:
            try:
                yield to_exchange(row[1], data, detail)
            except BadRow as error:
                yield BadLine(row[0], str(error))


def _exchanges_in(path: Path) -> Iterator[Row] | None:
    """The exchanges of a file that stillproof wrote; None where it is somebody else's."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError):
            return None
        if b"stillproof.exchange" not in metadata:
            return None
        from stillproof.store.segments import read_segment

        return ((str(path), item) for item in read_segment(path) if _answered(item))
    with path.open("rb") as file:
        if b'"stillproof.exchange"' not in file.readline(200):
            return None
    from stillproof.store import read_jsonl

    return ((str(path), item) for item in read_jsonl(path) if _answered(item))


def _stored(path: Path) -> Iterator[Exchange]:
    from stillproof.store import Store

    return (item for item in Store.open(path) if _answered(item))


def _answered(item: Exchange) -> bool:
    return item.status in (None, 200)


def _hub_rows(name: str, label_map: str | None) -> Iterator[Row]:
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise MissingExtraError(
            "a hub dataset needs the package 'datasets'", name, "pip install datasets, or give a local file"
        ) from None
    repository, _, config = name.partition("#")
    split_name = label_map or "train"
    try:
        rows = datasets.load_dataset(repository, config or None, split=split_name, streaming=True)
        for number, row in enumerate(rows):
            yield f"hub:{name}:{split_name}[{number}]", dict(row)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the hub dataset cannot be read: {error}",
            f"hub:{name}",
            "see whether the hub is reachable, or give a file",
        ) from error
