"""The set-up that all HTML pages share: one self-contained file, no network, no script, whole or not at all.

jinja2 escapes every value, `plain` spells out what no page should carry (control characters, direction overrides),
and a content security policy in `frame.html.jinja` forbids scripts and loads, should anything have slipped past both.
Pages of other packages extend that template and so have the same head, colours and tables.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.report.text import plain

if TYPE_CHECKING:
    from jinja2 import Template

FRAME = "frame.html.jinja"


def write_html(package: str, template: str, values: Mapping[str, Any], path: Path) -> None:
    """Render `template`, a file of `package` that extends "frame.html.jinja", at `path`. `values` hold `title`.

    The same values give the same bytes. Raises OSError where the disk refuses.
    """
    html = _template(package, template).render(values)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(html, encoding="utf-8")
    os.replace(unfinished, path)


@functools.cache
def _template(package: str, name: str) -> Template:
    from jinja2 import DictLoader, Environment, StrictUndefined

    sources = {
        FRAME: files("stillproof.report").joinpath(FRAME).read_text("utf-8"),
        name: files(package).joinpath(name).read_text("utf-8"),
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _safe(value: object) -> object:
    """Applied to all that a template prints, before it is escaped."""
    return plain(value) if type(value) is str else value
