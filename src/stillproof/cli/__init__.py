"""The command `stillproof VERB ACTION`. No logic: parse, call one function, render, choose the exit code.

Standard output carries the result (one JSON object with --json), standard error the progress and the errors.
Exit codes: 0 done, 1 error, 2 wrong use, 3 a gate said no (terms, retention) or guard
or trace found something, 4 inconclusive, 130 interrupted.

    answering.py  do the work, show the result or the error, choose the exit code
    options.py    options that commands share
    distill.py store.py look.py guard.py trace.py trace_weights.py  the commands
"""

from __future__ import annotations

from typing import Annotated

import typer

import stillproof
from stillproof.cli import look
from stillproof.cli.answering import GATE_SAID_NO, INTERRUPTED
from stillproof.cli.answering import answer as _answer
from stillproof.cli.distill import distill_app
from stillproof.cli.export import export_finding, grant_app
from stillproof.cli.guard import guard_app
from stillproof.cli.options import examples, group
from stillproof.cli.store import keys_app, serve, store_app
from stillproof.cli.trace import trace_app
from stillproof.cli.trace_index import index_app
from stillproof.cli.trace_lineage import register as _register_lineage
from stillproof.cli.trace_weights import EXAMPLES, weights_command

__all__ = ["GATE_SAID_NO", "INTERRUPTED", "_answer", "app", "main"]

app = group(
    "Model distillation with proof.",
    examples(
        "stillproof doctor",
        "stillproof demo --out runs/demo",
        "stillproof distill plan --config recipes/laptop.toml",
        "stillproof distill run --config recipes/laptop.toml --out runs/laptop",
        "stillproof show runs/laptop",
    ),
)
app.add_typer(distill_app, name="distill")
app.add_typer(guard_app, name="guard")
_register_lineage(trace_app)
app.add_typer(trace_app, name="trace")
trace_app.command("weights", epilog=EXAMPLES)(weights_command)
trace_app.add_typer(index_app, name="index")
app.add_typer(store_app, name="store")
app.add_typer(keys_app, name="keys")
app.add_typer(grant_app, name="grant")
app.command("export", epilog=examples("stillproof export finding.json --export stix --key export.key --out out.json"))(
    export_finding
)
app.command(
    "serve",
    epilog=examples(
        "stillproof serve --record runs/served",
        "stillproof serve --teacher gguf --model model.gguf --port 8080 --record runs/served",
    ),
)(serve)
app.command("show")(look.show_file)
app.command("terms", epilog=examples("stillproof terms apache-2.0", "stillproof terms --provider api.openai.com"))(
    look.terms_of
)
app.command("methods")(look.list_methods)
app.command("doctor")(look.examine_machine)
app.command("demo", epilog=examples("stillproof demo --out runs/demo", "stillproof show runs/demo"))(look.play_demo)


def main() -> None:
    """The console script."""
    app(prog_name="stillproof")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"stillproof {stillproof.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
