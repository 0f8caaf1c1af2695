"""`stillproof distill …`: plan, run, and each stage alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, ConfigFile, IfExists, Out, Words, examples, group

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.progress import OnEvent

StageIfExists = Annotated[
    Literal["fail", "resume", "replace"],
    typer.Option("--if-exists", help="Go on with the run in DIR, stop, or make this stage anew and drop later ones."),
]

distill_app = group("Put a teacher into a smaller model, and measure what was kept and lost.")


@distill_app.command("plan", epilog=examples("stillproof distill plan --config recipes/laptop.toml train.epochs=2"))
def _plan(words: Words = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print a run's requests, tokens, money, disk and hours beforehand."""

    def act(loaded: DistillConfig, on_event: OnEvent) -> Result:
        from stillproof import distill

        return distill.plan(loaded)

    answer(_configured(act, config, words), as_json)


@distill_app.command(
    "run",
    epilog=examples(
        "stillproof distill run --config recipes/laptop.toml --out runs/laptop",
        "stillproof distill run --config recipes/laptop.toml --out runs/laptop --if-exists resume",
        "stillproof distill run --out runs/small data.max_tokens=20_000 student.n_layers=6",
    ),
)
def _run(
    out: Out, words: Words = None, config: ConfigFile = None, if_exists: IfExists = "fail", as_json: AsJson = False
) -> None:
    """Run every stage, from the teacher's terms to the shipped student."""

    def act(loaded: DistillConfig, on_event: OnEvent) -> Result:
        from stillproof import distill

        return distill.run(loaded, out, if_exists, on_event)

    answer(_configured(act, config, words), as_json)


def _add_stage(name: str, help: str) -> None:
    @distill_app.command(name, help=help)
    def command(
        out: Out, words: Words = None, config: ConfigFile = None, if_exists: StageIfExists = "resume",
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        def act(loaded: DistillConfig, on_event: OnEvent) -> Result:
            from stillproof import distill

            return distill.stage(name, loaded, out, if_exists, on_event)

        answer(_configured(act, config, words), as_json)


def _configured(
    act: Callable[[DistillConfig, OnEvent], Result], path: Path | None, words: list[str] | None
) -> Callable[[], Result]:
    """`act` with the config of a file and words, and with progress on standard error."""

    def work() -> Result:
        from stillproof.config import DistillConfig, load
        from stillproof.progress import renderer

        loaded = load(DistillConfig, path, words or ())
        with renderer() as on_event:
            return act(loaded, on_event)

    return work


_add_stage("generate", "Ask the teacher the prompts, and store its answers.")
_add_stage("cache", "Store the teacher's likeliest next tokens at each position.")
_add_stage("train", "Train the student, and the control beside it.")
_add_stage("eval", "Measure on held-out data what the student kept and lost.")
_add_stage("ship", "Write the student as a folder that transformers loads.")
