"""The pages of commands are what the program says, and every command line in the docs is one that it takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev.docs import cli_reference
from typer.main import get_command

from stillproof.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "extend").glob("*.md"), ROOT / "README.md"])


def command_lines(page: Path) -> Iterator[str]:
    """`stillproof ...` in fenced blocks, comments cut off, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|bash|text|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(";"):
                if part.strip().startswith("stillproof "):
                    yield part.partition(" #")[0].strip()


def fault_of(line: str) -> str | None:
    """What the program would not take of a command line; None where it takes it."""
    words = shlex.split(line)[1:]
    command: Any = get_command(app)
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    return f"no option {min(given - known)}" if given - known else None


LINES = [(page, line) for page in PAGES for line in command_lines(page)]


def test_the_committed_pages_are_those_that_the_program_writes() -> None:
    assert cli_reference.stale() == [], "write them anew: make docs ARGS=--write"


def test_a_page_that_differs_is_missing_or_left_over_is_stale(tmp_path: Path) -> None:
    cli_reference.write(tmp_path)
    assert cli_reference.stale(tmp_path) == []
    (tmp_path / "guard.md").write_text("another text")
    (tmp_path / "trace.md").unlink()
    (tmp_path / "gone.md").write_text("of a command that is no more")
    assert cli_reference.stale(tmp_path) == ["gone.md", "guard.md", "trace.md"]
    cli_reference.write(tmp_path)
    assert cli_reference.stale(tmp_path) == []


def test_every_command_has_its_section() -> None:
    pages = "".join(cli_reference.pages().values())
    root: Any = get_command(app)
    for name, command in root.commands.items():
        for path in [
            f"stillproof {name}",
            *(f"stillproof {name} {child}" for child in getattr(command, "commands", {})),
        ]:
            assert f"## {path}\n" in pages, path


def test_the_docs_hold_command_lines() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page.stem}: {line[:50]}" for page, line in LINES])
def test_a_command_line_of_the_docs_is_one_that_the_program_takes(page: Path, line: str) -> None:
    assert fault_of(line) is None, f"{page.name}: {line}"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("stillproof gaurd scan W", "no command 'gaurd'"),
        ("stillproof guard scan W --refrence x", "no option --refrence"),
    ],
)
def test_a_command_line_that_the_program_does_not_take_is_told(line: str, says: str) -> None:
    assert fault_of(line) == says
