"""A value on stdout, as tables. No markup is read from any text, and no control character reaches the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from stillproof.report.campaigns import alternative_rows, campaigns_of, clearing_rows, is_explanation, is_scan
from stillproof.report.text import (
    ABSENT,
    MODELS,
    interval_text,
    number,
    p_value,
    plain,
    retention_footnote,
    retention_rows,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_DECISION_STYLES = {"found": "bold red", "not_found": "green", "inconclusive": "yellow"}


def to_terminal(value: Mapping[str, Any]) -> None:
    """Print a Finding, a retention result or any nested mapping on stdout.

    A mapping inside is shown under its key; a Finding or retention result is known by its keys, however deep.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=False)
    for renderable in _renderables("", value):
        console.print(renderable)


def is_finding(value: object) -> bool:
    return isinstance(value, Mapping) and str(value.get("schema", "")).startswith("finding/")


def is_retention(value: object) -> bool:
    return isinstance(value, Mapping) and ("kl_student_nats" in value or "exact_match_student" in value)


def is_run(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and {"retention", "student_dir", "terms"} <= set(value)


def _run(title: str, value: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A whole run in short: what was kept and lost, here and elsewhere, then where the student is."""
    retention = value["retention"]
    name = f"{title}: {value.get('name', '')}" if title else str(value.get("name", ""))
    measured = {"held-out": retention, **(retention.get("elsewhere") or {})}
    for source, numbers in measured.items():
        yield from _retention(f"{name}: {source}", {**numbers, "elsewhere": None, "findings": None})
    stages, findings = value.get("stages") or {}, retention.get("findings") or ()
    preflight = (stages.get("train") or {}).get("preflight") or {}
    terms = value["terms"]
    brief = {
        "gate": value.get("gate"),
        **{f"finding {n}": f"{f['decision']}: {f['claim']}; {p_value(f)}" for n, f in enumerate(findings, 1)},
        "warning": preflight.get("warning"),
        "terms": f"{terms.get('decision')}, {terms.get('title')}" if terms.get("title") else terms.get("decision"),
        "grant": (terms.get("grant") or {}).get("id"),
        "student": value["student_dir"],
        "signed by": value.get("signed_by") or "nobody: set ship.signing_key",
        **{name: value.get(name) for name in ("n_tokens", "tokens_per_s", "duration_s", "peak_rss_mb", "allocator")},
        "everything": f"{Path(str(value['student_dir'])).parent}/result.json, retention.html beside it",
    }
    yield _pairs(name, {key: entry for key, entry in brief.items() if entry is not None})


def _scan(title: str, value: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A guard scan in short: one row a campaign; its findings whole are in result.json and `guard explain`."""
    table = _table(title, ["id", "decision", "accounts", "exchanges", "evidence", "top signals, bit"], header=True)
    for c in campaigns_of(value):
        evidence = f"e {c.e_value}\nneeded {c.e_threshold}\nrank {c.rank}"
        cells = (c.id, f"{c.decision}\n{c.tier}", c.accounts, c.exchanges, evidence, c.top_signals)
        table.add_row(*(_text(cell) for cell in cells))
    nothing = f"nothing was decided: {said(value['gate'])}" if value.get("gate") else "no campaign was found"
    yield table if table.row_count else _text(nothing)
    yield from _mapping(title, {k: v for k, v in value.items() if k not in ("findings", "campaigns")})


def _explanation(value: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield _finding(value)
    against = alternative_rows(value["alternatives"])
    yield _words("honest alternatives", ["alternative", "explains, bit", "against it, bit", "bit against"], against)
    clearing = clearing_rows(value["would_clear"])
    yield _words("what would clear these accounts", ["what", "observed", "bit"], clearing)


def _words(title: str, columns: list[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title, columns, header=True)
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def _renderables(title: str, value: Mapping[str, Any]) -> Iterator[RenderableType]:
    if is_explanation(value):
        yield from _explanation(value)
    elif is_finding(value):
        yield _finding(value)
    elif is_retention(value):
        yield from _retention(title or "retention", value)
    elif is_run(value):
        yield from _run(title, value)
    elif is_scan(value):
        yield from _scan(title or "scan", value)
    else:
        yield from _mapping(title, value)


def _mapping(title: str, value: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Single values in one table, then each nested thing in its own."""
    nested = {name: inner for name, inner in value.items() if _is_nested(inner)}
    flat = {name: inner for name, inner in value.items() if name not in nested}
    if flat or not nested:
        yield _pairs(title, flat)
    for name, inner in nested.items():
        path = f"{title}.{name}" if title else name
        if isinstance(inner, Mapping):
            yield from _renderables(path, inner)
        else:
            yield from _listing(path, inner)


def _is_nested(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return _is_list(value) and any(isinstance(item, Mapping) for item in value)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _listing(title: str, items: list[Any]) -> Iterator[RenderableType]:
    """A list of mappings: one table with a row each, or one thing each where they are of a known kind."""
    if all(isinstance(item, Mapping) and not is_finding(item) and not is_retention(item) for item in items):
        yield _rows(title, items)
        return
    for place, item in enumerate(items, 1):
        if isinstance(item, Mapping):
            yield from _renderables(f"{title}.{place}", item)
        else:
            yield _pairs(f"{title}.{place}", {"": item})


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    table = _table(title, ["", ""], header=False)
    for name, value in values.items():
        table.add_row(_text(name), _text(said(value)))
    return table


def _rows(title: str, items: list[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for item in items for name in item))
    table = _table(title, columns, header=True)
    for item in items:
        table.add_row(*(_text(said(item.get(column))) for column in columns))
    return table


def _retention(title: str, value: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = _table(title, ["", *(model for _, model in MODELS)], header=True)
    for measure, cells in retention_rows(value):
        said = [_text(f"{measure.say(c.value)}\n{interval_text(measure, c)}".rstrip("\n")) for c in cells]
        table.add_row(_text(f"{measure.title}\n({measure.better} is better)"), *said)
    yield table
    ratio = value.get("kl_student_over_control")
    if ratio is not None:
        low, high = value.get("kl_student_over_control_interval") or (None, None)
        yield _text(f"KL of the student / KL of the control: {number(ratio)} [{number(low)}, {number(high)}]")
    yield _text(retention_footnote(value))
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _renderables(f"{title}.{name}", inner)
    for finding in value.get("findings") or ():
        yield from _renderables("", finding)


def _finding(value: Mapping[str, Any]) -> Table:
    table = _table(f"finding: {value.get('decision')}", ["", ""], header=False)
    table.title_style = _DECISION_STYLES.get(str(value.get("decision")), "bold")
    for name, words in finding_rows(value):
        table.add_row(_text(name), _text(words))
    return table


def finding_rows(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is said of a finding, in order, absent parts left out."""
    effect = value.get("effect")
    run = {name: part for name, part in (value.get("run") or {}).items() if part is not None}
    n = f"n = {number(value.get('n'))} {value.get('n_unit')}"
    rows: dict[str, object] = {
        "claim": value.get("claim"),
        "null": value.get("null"),
        "test": f"{value.get('test')} ({value.get('kind')})",
        "evidence": f"{p_value(value)}; level {value.get('alpha')}; {n}",
        "needed": f"e = {number(value['e_threshold'])}" if value.get("e_threshold") is not None else None,
        "rank": value.get("rank"),
        "statistic": value.get("statistic"),
        "effect": _effect(effect) if effect else None,
        "assumes": "\n".join(value.get("assumptions") or ()) or None,
        "checks": "\n".join(_check(check) for check in value.get("checks") or ()) or None,
        "signals": "\n".join(_signal(signal) for signal in value.get("signals") or ()) or None,
        "accounts": len(value.get("accounts") or ()) or None,
        "exchanges": len(value.get("evidence") or ()) or None,
        "run": "; ".join(f"{name} {part}" for name, part in run.items()) or None,
    }
    return [(name, said(part)) for name, part in rows.items() if part is not None]


def _effect(effect: Mapping[str, Any]) -> str:
    text = f"{effect.get('name')}: {number(effect.get('estimate'))} {effect.get('unit')}"
    if effect.get("low") is None:
        return text
    return f"{text} [{number(effect.get('low'))}, {number(effect.get('high'))}]"


def _check(check: Mapping[str, Any]) -> str:
    word = {True: "passed", False: "FAILED", None: "not made"}.get(check.get("passed"), "not made")
    return f"{word}: {check.get('name')} {check.get('detail') or ''}".rstrip()


def _signal(signal: Mapping[str, Any]) -> str:
    measured = f"{said(signal.get('value'))} {signal.get('unit') or ''}".rstrip()
    bits = signal.get("bits")
    evidence = f"{number(bits or 0 if bits is not None else None)} bit, {signal.get('combined')}"
    note = f"; {signal['note']}" if signal.get("note") else ""
    return f"{signal.get('name')} ({signal.get('group')}): {measured}; {evidence}{note}"


def _table(title: str, columns: list[str], *, header: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=_text(title) if title else None,
        title_justify="left",
        title_style="bold",
        show_header=header,
        box=box.SIMPLE_HEAD if header else box.SIMPLE,
        pad_edge=False,
    )
    for column in columns:
        # What is measured stays readable where long intervals want the room: those fold.
        table.add_column(_text(column), overflow="fold", min_width=14 if header and not column else None)
    return table


def said(value: object) -> str:
    """A value in words. A list of single values is joined; what nests deeper is shown as its words."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {said(inner)}" for name, inner in value.items()) or ABSENT
    if _is_list(value):
        return ", ".join(said(inner) for inner in value) or ABSENT
    return str(value)


def _text(text: str) -> Text:
    from rich.text import Text

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Text(plain(text).encode(encoding, "backslashreplace").decode(encoding))
