"""The Python documentation that is part of every installation, as training documents.

Sources are parsed and never imported. The order of the documents does not depend on the file system.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillproof.errors import InputError
from stillproof.exchange import Exchange, document, with_ids

MIN_CHARS = 500
MAX_CHARS = 6_000

# Tests, demonstrations, other people's packages, and tables that a program wrote.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "idle_test", "turtledemo", "lib2to3", "encodings", "pydoc_data", "__phello__"}
    | {"site-packages", "dist-packages", "lib-dynload", "__pycache__", "_vendor", "_bundled"}
)
_SKIPPED_MODULES = frozenset({"this", "antigravity", "__hello__", "sitecustomize", "usercustomize"})
_TITLE_CHARS = 100
# Documents are packed to here, so that a short last one always fits into the one before it.
_FULL_CHARS = MAX_CHARS - MIN_CHARS - _TITLE_CHARS - 2
_GOOD_BREAK_CHARS = 1_500
_REPEAT_CHARS = 60


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    text: str
    starts_group: bool
    """A class or a module begins here: the better place to start a new document."""

    def __str__(self) -> str:
        return f"{self.heading}\n\n{self.text}"


def python_docs(stdlib: Path | None = None) -> list[Exchange]:
    """Reference topics and docstrings of a standard library, as documents of 500 to 6,000 characters.

    stdlib: the folder with the library's sources; None takes that of the running Python. A paragraph that came
    before is left out, so that training and held-out documents do not share text. `provenance.detail` is
    'python-docs:<module>', or 'python-docs:topics.<topic>' for the reference.

    Raises InputError where the sources are not installed (an embedded or zipped Python).
    """
    root = Path(sysconfig.get_path("stdlib")) if stdlib is None else stdlib
    topics = root / "pydoc_data" / "topics.py"
    if not topics.is_file():
        raise InputError(
            "the standard library's sources are not installed", str(root), "use a full Python, or set data.train"
        )
    seen: set[bytes] = set()
    documents = [*_topic_documents(topics, seen), *_module_documents(root, seen)]
    return list(with_ids(document(text, f"python-docs:{name}") for name, text in documents))


def _topic_documents(path: Path, seen: set[bytes]) -> Iterator[tuple[str, str]]:
    topics = _topics(path)
    kept: dict[str, str] = {}
    # Long topics repeat short ones in full: the short ones come first and stay whole.
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        kept[name] = _without_repeats(topics[name], seen)
    for name in sorted(kept):
        for text in _merge_short(list(_split(kept[name], _FULL_CHARS))):
            yield f"topics.{name}", text


def _topics(path: Path) -> dict[str, str]:
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return topics
    raise InputError("no table of topics in this file", str(path), "use a released Python")


def _module_documents(root: Path, seen: set[bytes]) -> Iterator[tuple[str, str]]:
    for module, path in sorted(_modules(root)):
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            continue
        sections = _long_enough(_sections(module, ast.parse(source)), seen)
        title = f"# Python module {module}"
        for text in _merge_short(_pack(sections)):
            yield module, f"{title}\n\n{text}"


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module worth reading, in no particular order."""
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED_FOLDERS.intersection(parts) or any("-" in part for part in parts):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name not in _SKIPPED_MODULES:
            yield name, path


def _sections(module: str, tree: ast.Module) -> Iterator[_Section]:
    own = ast.get_docstring(tree)
    if own:
        yield _Section("## Overview", own, True)
    yield from _members(module, tree.body)


def _members(owner: str, body: Sequence[ast.stmt]) -> Iterator[_Section]:
    for node in _definitions(body):
        docstring = ast.get_docstring(node)
        is_class = isinstance(node, ast.ClassDef)
        if docstring:
            yield _Section(f"## {_signature(owner, node)}", docstring, is_class)
        if is_class:
            yield from _members(f"{owner}.{node.name}", node.body)


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(body: Sequence[ast.stmt]) -> Iterator[_Definition]:
    """Classes and functions of a body, also those below a top-level if or try."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.If):
            yield from _definitions([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions([*node.body, *handlers, *node.orelse, *node.finalbody])


def _signature(owner: str, node: _Definition) -> str:
    name = f"{owner}.{node.name}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{name}({ast.unparse(node.args)})"


def _long_enough(sections: Iterable[_Section], seen: set[bytes]) -> Iterator[_Section]:
    """The sections without what was seen before, the very long ones in parts."""
    for section in sections:
        text = _without_repeats(section.text, seen)
        for part in _split(text, _FULL_CHARS - len(section.heading) - 2):
            yield _Section(section.heading, part, section.starts_group)


def _without_repeats(text: str, seen: set[bytes]) -> str:
    """`text` without the paragraphs in `seen`, which grows. Short ones ('Example:') may repeat."""
    kept = []
    for paragraph in _plain(text).split("\n\n"):
        key = hashlib.sha256(" ".join(paragraph.split()).encode("utf-8", "surrogatepass")).digest()[:12]
        if key in seen:
            continue
        if len(paragraph) >= _REPEAT_CHARS:
            seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept).strip("\n")


def _plain(text: str) -> str:
    """`text` without surplus indentation, trailing blanks and runs of empty lines."""
    lines = [line.rstrip() for line in inspect.cleandoc(text).splitlines()]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(kept)


def _split(text: str, limit: int) -> Iterator[str]:
    """`text` in parts of at most `limit` characters, cut between paragraphs, or lines, or anywhere if need be."""
    part = ""
    for paragraph in text.split("\n\n"):
        for piece in _cut_long(paragraph, limit):
            if part and len(part) + 2 + len(piece) > limit:
                yield part
                part = ""
            part = f"{part}\n\n{piece}" if part else piece
    if part:
        yield part


def _cut_long(paragraph: str, limit: int) -> Iterator[str]:
    while len(paragraph) > limit:
        at = paragraph.rfind("\n", 1, limit)
        at = limit if at < 0 else at
        yield paragraph[:at]
        paragraph = paragraph[at:].lstrip("\n")
    if paragraph:
        yield paragraph


def _pack(sections: Iterable[_Section]) -> list[str]:
    """Neighbouring sections joined, up to _FULL_CHARS; a class opens a new text where the last one is long enough."""
    texts: list[str] = []
    for section in sections:
        piece = str(section)
        last = texts[-1] if texts else ""
        full = len(last) + 2 + len(piece) > _FULL_CHARS
        if not texts or full or (section.starts_group and len(last) >= _GOOD_BREAK_CHARS):
            texts.append(piece)
        else:
            texts[-1] = f"{last}\n\n{piece}"
    return texts


def _merge_short(texts: list[str]) -> list[str]:
    """The texts, short ones appended to the one before; what is still too short is left out."""
    merged: list[str] = []
    for text in texts:
        if merged and len(text) < MIN_CHARS and len(merged[-1]) <= _FULL_CHARS:
            merged[-1] = f"{merged[-1]}\n\n{text}"
        else:
            merged.append(text)
    return [text for text in merged if len(text) >= MIN_CHARS]
