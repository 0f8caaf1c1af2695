"""What the site needs beyond Markdown: formulas as MathML, links to files of the repository, notebooks as pages.

ProperDocs calls these functions by name while it builds (see properdocs.yml). A fault is a logged warning, and a strict
build fails on it.

    formulas     a fenced block ```math is TeX, as GitHub reads it; here it becomes MathML, so that no script is needed
    files        a link to ../src/stillproof/x.py is looked up on disk, and the file copied beside the site as
                 source/....txt; a link to a file that is not there is a dead link
    notebooks    notebooks/*.ipynb become pages, and links to them go there
"""

from __future__ import annotations

import html
import json
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
log = logging.getLogger("properdocs.hooks.stillproof")

_FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?P<target>(?:\.\./)+[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Any, config: Any) -> Any:
    """Give every notebook a page."""
    from properdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Formulas and links to files, everything within fences but formulas left alone."""
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts.append(_linked(markdown[end : fence.start()], page, config, files))
        parts.append(formula(fence["body"]) if fence["info"].strip() == "math" else fence[0])
        end = fence.end()
    parts.append(_linked(markdown[end:], page, config, files))
    return "".join(parts)


def formula(tex: str) -> str:
    """A block of HTML with the formula; its source in `title`, for whoever wants to copy it."""
    from latex2mathml.converter import convert

    plain = " ".join(tex.split())
    math = convert(plain, display="block")
    # An unknown command is passed on as text; better found here than by a reader.
    if "\\" in math or "<merror" in math:
        log.warning("a formula that cannot be set: %s", plain)
    return f'\n<div class="formula" title="{html.escape(plain, quote=True)}">{math}</div>\n'


def notebook_page(path: Path) -> str:
    """The cells of a notebook as Markdown: text as it is, code in fences. Outputs are not kept in the repository."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [f"<!-- made of notebooks/{path.name} -->"]
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(f"````python\n{text}\n````" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + f"\n\nThe notebook itself: [{path.name}](../../notebooks/{path.name}?raw)\n"


def _linked(text: str, page: Any, config: Any, files: Any) -> str:
    from properdocs.structure.files import File

    folder = posixpath.dirname(page.file.src_uri)

    def resolve(found: re.Match[str]) -> str:
        raw = found["target"].endswith("?raw")
        target = found["target"].removesuffix("?raw")
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place.startswith("docs/"):
            return found[0]
        path = ROOT / place
        if place.startswith("..") or not path.is_file():
            log.warning("%s links to %s, which is no file of the repository", page.file.src_uri, target)
            return found[0]
        if path.suffix == ".ipynb" and not raw:
            return posixpath.relpath(f"notebooks/{path.stem}.md", folder or ".")
        copy = f"source/{place}" if raw else f"source/{place}.txt"
        if files.get_file_from_path(copy) is None:
            files.append(File.generated(config, copy, abs_src_path=str(path)))
        return posixpath.relpath(copy, folder or ".")

    return _LINK.sub(resolve, text)
