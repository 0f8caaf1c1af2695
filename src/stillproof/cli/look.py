"""Commands without a group: look at a result, at terms, at what there is to choose from, at this machine; the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, IfExists, Out


def show_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON result, a run's folder, or a store.")],
    as_json: AsJson = False,
) -> None:
    """Print any result that stillproof wrote."""

    def work() -> Result:
        from stillproof.report import read

        return read(path)

    answer(work, as_json)


def terms_of(
    licence: Annotated[str | None, typer.Argument(help="SPDX id or hub tag of the teacher's licence.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Host of an endpoint, for its terms.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a teacher's terms say about distilling it.

    Exit code 3 where they do not allow that, or where that is unknown.
    """

    def work() -> Result:
        from datetime import UTC, datetime

        from stillproof import terms

        today = datetime.now(UTC).date()
        verdict = terms.ask(
            licence=licence, provider=provider, model="", declared_by="command line", grant=None, today=today
        )
        return {**verdict.to_json(), "gate": None if verdict.allowed else verdict.why}

    answer(work, as_json)


def list_methods(as_json: AsJson = False) -> None:
    """List the losses, teacher kinds and plug-ins to choose from."""

    def work() -> Result:
        from stillproof.doctor import methods

        return methods()

    answer(work, as_json)


def examine_machine(as_json: AsJson = False) -> None:
    """Print what this machine has, and what is missing.

    Exit code 1 where the default recipe cannot run here.
    """

    def work() -> Result:
        from stillproof.doctor import examine

        return examine()

    answer(work, as_json, lambda result: 0 if result["ready"] else 1)


def play_demo(
    size: Annotated[
        Literal["small", "laptop"],
        typer.Option("--size", help="small: tiny models trained in the run; laptop: SmolLM2-135M-Instruct throughout."),
    ] = "small",
    out: Out = Path("runs/demo"),
    second_act: Annotated[
        bool, typer.Option("--second-act/--no-second-act", help="Afterwards distil SmolLM2 in small, in OUT/distil.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0.1, help="Cut the second act so that all ends within these; says what was cut."),
    ] = None,
    if_exists: IfExists = "fail",
    as_json: AsJson = False,
) -> None:
    """Play the whole story: serve, find a campaign, distil, trace, report.

    Prints what it will take before it begins. Every stage is kept: --if-exists resume goes on after a break.
    """

    def work() -> Result:
        import time

        from stillproof import demo
        from stillproof.progress import renderer

        started = time.monotonic()
        for name, value in demo.plan(size).items():
            typer.echo(f"plan: {name.replace('_', ' ')}: {value}", err=True)
        with renderer() as on_event:
            result = demo.run(out, size, if_exists, on_event)
            typer.echo(f"report: {result['report']}", err=True)
            if second_act:
                left_s = None if minutes is None else max(0.0, 60 * minutes - (time.monotonic() - started))
                played = demo.distil(out / "distil", if_exists, on_event, budget_s=left_s)
                result = {**result, "second_act": played}
        # For people the short version: the whole is in the report and in result.json.
        return result if as_json else demo.brief(result)

    answer(work, as_json)
