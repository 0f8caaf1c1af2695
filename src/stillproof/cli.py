"""The command `stillproof VERB ACTION`. No logic: parse, call one function, render, choose the exit code.

Standard output carries the result (one JSON object with --json), standard error the progress and the errors.
Exit codes: 0 done, 1 error, 2 wrong use, 3 a gate said no (terms, retention), 4 inconclusive, 130 interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

import stillproof
from stillproof.errors import StillproofError

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.progress import OnEvent

GATE_SAID_NO = 3
INTERRUPTED = 130

Result = Mapping[str, object]

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
StageIfExists = Annotated[
    Literal["fail", "resume", "replace"],
    typer.Option("--if-exists", help="Go on with the run in DIR, stop, or make this stage anew and drop later ones."),
]
StoreFolder = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the store.")]
KeyFolder = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of the key ring, outside any store.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


def _group(help: str, epilog: str | None = None) -> typer.Typer:
    # Plain help: rich would treble the time that --help takes.
    return typer.Typer(
        help=help,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _examples(*lines: str) -> str:
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)


app = _group(
    "Model distillation with proof.",
    _examples(
        "stillproof doctor",
        "stillproof demo --out runs/demo",
        "stillproof distill plan --config recipes/laptop.toml",
        "stillproof distill run --config recipes/laptop.toml --out runs/laptop",
        "stillproof show runs/laptop",
    ),
)
distill_app = _group("Put a teacher into a smaller model, and measure what was kept and lost.")
store_app = _group("Look into a store of exchanges, or erase an account from it.")
keys_app = _group("Keep the keys under which answers are served.")
app.add_typer(distill_app, name="distill")
app.add_typer(store_app, name="store")
app.add_typer(keys_app, name="keys")


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


# --- distill --------------------------------------------------------------------------------------------------


@distill_app.command("plan", epilog=_examples("stillproof distill plan --config recipes/laptop.toml train.epochs=2"))
def _plan(words: Words = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print a run's requests, tokens, money, disk and hours beforehand."""

    def act(loaded: DistillConfig, on_event: OnEvent) -> Result:
        from stillproof import distill

        return distill.plan(loaded)

    _answer(_configured(act, config, words), as_json)


@distill_app.command(
    "run",
    epilog=_examples(
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

    _answer(_configured(act, config, words), as_json)


def _add_stage(name: str, help: str) -> None:
    @distill_app.command(name, help=help)
    def command(
        out: Out, words: Words = None, config: ConfigFile = None, if_exists: StageIfExists = "resume",
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        def act(loaded: DistillConfig, on_event: OnEvent) -> Result:
            from stillproof import distill

            return distill.stage(name, loaded, out, if_exists, on_event)

        _answer(_configured(act, config, words), as_json)


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


# --- store, keys, serve ---------------------------------------------------------------------------------------


@store_app.command("show")
def _store_show(store: StoreFolder, as_json: AsJson = False) -> None:
    """Summarise what a store holds."""
    _answer(lambda: _read(store), as_json)


@store_app.command("forget", epilog=_examples("stillproof store forget 9f2c41d07a5be318 --store runs/served"))
def _store_forget(
    account: Annotated[str, typer.Argument(help="Pseudonym of the account, or its raw name.")],
    store: StoreFolder,
    as_json: AsJson = False,
) -> None:
    """Erase every exchange of one account."""

    def work() -> Result:
        from stillproof.store import Store

        with Store.open(store) as opened:
            return {"store": str(store), "erased": len(opened.forget(account))}

    _answer(work, as_json)


@keys_app.command("create", epilog=_examples("stillproof keys create coins --keys ~/stillproof-keys"))
def _keys_create(name: KeyName, keys: KeyFolder, as_json: AsJson = False) -> None:
    """Make a new key, and print the commitment to publish before serving."""

    def work() -> Result:
        from stillproof.serve import KeyRing

        return asdict(KeyRing(keys).create(name))

    _answer(work, as_json)


@keys_app.command("rotate")
def _keys_rotate(name: KeyName, keys: KeyFolder, as_json: AsJson = False) -> None:
    """Make the next version of a key; earlier ones are kept."""

    def work() -> Result:
        from stillproof.serve import KeyRing

        return asdict(KeyRing(keys).rotate(name))

    _answer(work, as_json)


@keys_app.command("commit")
def _keys_commit(
    name: KeyName,
    keys: KeyFolder,
    version: Annotated[int | None, typer.Option("--key-version", help="Version; the newest if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a key's commitment, and the head that fixes all of them."""

    def work() -> Result:
        from stillproof.serve import KeyRing

        ring = KeyRing(keys)
        return {**asdict(ring.commitment(name, version)), "head": ring.head()}

    _answer(work, as_json)


@app.command(
    "serve",
    epilog=_examples(
        "stillproof serve --record runs/served",
        "stillproof serve --teacher gguf --model model.gguf --port 8080 --record runs/served",
    ),
)
def _serve(
    kind: Annotated[str, typer.Option("--teacher", metavar="KIND", help="Teacher kind; see methods.")] = "smollm2",
    model: Annotated[str, typer.Option("--model", help="Folder, file or name, as the kind needs it.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="STORE", help="Store that every answer is kept in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a teacher on this machine, OpenAI-compatible, until Ctrl-C."""

    def work() -> Result:
        from stillproof.config import TeacherConfig
        from stillproof.serve.foreground import serve_until_interrupted
        from stillproof.teacher import open_teacher

        def announce(url: str) -> None:
            typer.echo(f"serving at {url}; stop with Ctrl-C", err=True)

        teacher = open_teacher(TeacherConfig(kind=kind, model=model))
        return serve_until_interrupted(teacher, port=port, record=record, on_start=announce)

    _answer(work, as_json)


# --- look -----------------------------------------------------------------------------------------------------


@app.command("show")
def _show_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON result, a run's folder, or a store.")],
    as_json: AsJson = False,
) -> None:
    """Print any result that stillproof wrote."""
    _answer(lambda: _read(path), as_json)


@app.command("terms", epilog=_examples("stillproof terms apache-2.0", "stillproof terms --provider api.openai.com"))
def _terms(
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

    _answer(work, as_json)


@app.command("methods")
def _methods(as_json: AsJson = False) -> None:
    """List the losses, teacher kinds and plug-ins to choose from."""

    def work() -> Result:
        from stillproof.doctor import methods

        return methods()

    _answer(work, as_json)


@app.command("doctor")
def _doctor(as_json: AsJson = False) -> None:
    """Print what this machine has, and what is missing.

    Exit code 1 where the default recipe cannot run here.
    """

    def work() -> Result:
        from stillproof.doctor import examine

        return examine()

    _answer(work, as_json, lambda result: 0 if result["ready"] else 1)


@app.command("demo", epilog=_examples("stillproof demo --out runs/demo", "stillproof show runs/demo"))
def _demo(out: Out = Path("runs/demo"), if_exists: IfExists = "fail", as_json: AsJson = False) -> None:
    """Distil the bundled model in small, end to end."""

    def work() -> Result:
        from stillproof import demo
        from stillproof.progress import renderer

        with renderer() as on_event:
            return demo.run(out, if_exists, on_event)

    _answer(work, as_json)


# --- answering ------------------------------------------------------------------------------------------------


def _gate(result: Result) -> int:
    return GATE_SAID_NO if result.get("gate") else 0


def _answer(work: Callable[[], Result], as_json: bool, exit_code: Callable[[Result], int] = _gate) -> NoReturn:
    """Do the work, show its result or its error, and end with the exit code that goes with it."""
    try:
        result = work()
    except StillproofError as error:
        _complain(str(error))
        if as_json:
            _print_json(error.to_json())
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept: resume with --if-exists resume")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(result)
    else:
        from stillproof.report import to_terminal

        to_terminal(result)
    raise typer.Exit(exit_code(result))


def _read(path: Path) -> Result:
    from stillproof.report import read

    return read(path)


def _print_json(value: Result) -> None:
    # Paths are the only thing that a result may hold and JSON may not; NaN is refused, absent numbers are null.
    typer.echo(json.dumps(value, indent=2, default=os.fspath, allow_nan=False))


def _complain(text: str) -> None:
    from stillproof.report.text import plain

    typer.echo(f"stillproof: {plain(text)}", err=True)
