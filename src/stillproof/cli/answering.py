"""Do a command's work, show its result or its error, and end with the exit code that goes with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import NoReturn

import typer

from stillproof.errors import StillproofError

GATE_SAID_NO = 3
INTERRUPTED = 130
RESUME = "what was finished is kept: resume with --if-exists resume"

Result = Mapping[str, object]


def gate(result: Result) -> int:
    return GATE_SAID_NO if result.get("gate") else 0


def answer(
    work: Callable[[], Result],
    as_json: bool,
    exit_code: Callable[[Result], int] = gate,
    *,
    if_interrupted: str = RESUME,
) -> NoReturn:
    """Raises typer.Exit, always. `if_interrupted` tells the one who pressed Ctrl-C what there is now."""
    try:
        result = work()
    except StillproofError as error:
        complain(str(error))
        if as_json:
            print_json(error.to_json())
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        complain(f"interrupted; {if_interrupted}")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(result)
    else:
        from stillproof.report import to_terminal

        to_terminal(result)
    raise typer.Exit(exit_code(result))


def print_json(value: Result) -> None:
    # Paths are the only thing that a result may hold and JSON may not; NaN is refused, absent numbers are null.
    typer.echo(json.dumps(value, indent=2, default=os.fspath, allow_nan=False))


def complain(text: str) -> None:
    from stillproof.report.text import plain

    typer.echo(f"stillproof: {plain(text)}", err=True)
