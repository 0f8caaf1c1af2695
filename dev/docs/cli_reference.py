"""Write docs/cli/*.md, the help of every command, from the program itself; or say which pages no longer agree.

python dev/docs/cli_reference.py            # write
python dev/docs/cli_reference.py --check    # exit code 1 and the names of pages that differ
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from stillproof.cli import app

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "cli"
WIDTH = 100
PROGRAM = "stillproof"
NOTE = "<!-- Written by dev/docs/cli_reference.py from the program's own help; edit that, not this. -->"
HEAD = f"""{NOTE}

# Commands

The help of every command, as `--help` prints it. Standard output carries the result (one JSON object with `--json`),
standard error the progress and the errors.

| exit code | meaning |
|---|---|
| 0 | done, and nothing was found |
| 1 | error |
| 2 | wrong use |
| 3 | a finding, or a gate (terms, retention, duties) said no |
| 4 | inconclusive: the evidence could not decide |
| 130 | interrupted |

Groups: {{groups}}.
"""


def pages() -> dict[str, str]:
    """Name of each page -> its text."""
    root: Any = get_command(app)
    context = _context(root, PROGRAM, None)
    groups = {name: command for name, command in root.commands.items() if hasattr(command, "commands")}
    single = {name: command for name, command in root.commands.items() if name not in groups}
    links = ", ".join(f"[{name}]({name}.md)" for name in groups)
    index = [HEAD.format(groups=links), *_sections(root, context, {})]
    index += [part for name, command in single.items() for part in _sections(command, _context(command, name, context))]
    found = {"index.md": index}
    for name, command in groups.items():
        heading = f"{NOTE}\n\n# {PROGRAM} {name}\n"
        found[f"{name}.md"] = [heading, *_sections(command, _context(command, name, context))]
    return {name: "\n".join(parts) for name, parts in found.items()}


def _context(command: Any, name: str, parent: Any) -> Any:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return command.context_class(command, info_name=name, parent=parent, **settings)


def _sections(command: Any, context: Any, children: dict[str, Any] | None = None) -> Iterator[str]:
    """The help of a command, then of those below it; `children` in place of its own."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield f"## {context.command_path}\n\n```text\n{text}\n```\n"
    for name, child in (getattr(command, "commands", {}) if children is None else children).items():
        yield from _sections(child, _context(child, name, context))


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of pages that are missing, left over, or differ from what the program says now."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(words: list[str]) -> int:
    if words == ["--check"]:
        differ = stale()
        if differ:
            sys.stderr.write(f"{', '.join(differ)} in docs/cli differ from the program: make docs ARGS=--write\n")
        return 1 if differ else 0
    if words:
        sys.stderr.write(str(__doc__))
        return 2
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
