"""What several commands share: their options, and how their help looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file; see recipes/.")]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config values; they win over the file's.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that the run is kept in.")]
IfExists = Annotated[
    Literal["fail", "resume", "replace"],
    typer.Option("--if-exists", help="Where DIR holds a run: stop, go on with it, or begin anew."),
]


def group(help: str, epilog: str | None = None) -> typer.Typer:
    # Plain help: rich would treble the time that --help takes.
    return typer.Typer(
        help=help,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def examples(*lines: str) -> str:
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)
