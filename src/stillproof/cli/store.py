"""`stillproof store …`, `stillproof keys …` and `stillproof serve`: exchanges kept, keys kept, answers given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples, group

if TYPE_CHECKING:
    from stillproof.serve.foreground import Proof
    from stillproof.teacher import Teacher
    from stillproof.watermark import MarkKey

StoreFolder = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the store.")]
KeyFolder = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of the key ring, outside any store.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]

store_app = group("Look into a store of exchanges, or erase an account from it.")
keys_app = group("Keep the keys under which answers are served.")


@store_app.command("show")
def _store_show(store: StoreFolder, as_json: AsJson = False) -> None:
    """Summarise what a store holds."""

    def work() -> Result:
        from stillproof.report import read

        return read(store)

    answer(work, as_json)


@store_app.command("forget", epilog=examples("stillproof store forget 9f2c41d07a5be318 --store runs/served"))
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

    answer(work, as_json)


@keys_app.command("create", epilog=examples("stillproof keys create coins --keys ~/stillproof-keys"))
def _keys_create(name: KeyName, keys: KeyFolder, as_json: AsJson = False) -> None:
    """Make a new key, and print the commitment to publish before serving."""

    def work() -> Result:
        from stillproof.serve import KeyRing

        return asdict(KeyRing(keys).create(name))

    answer(work, as_json)


@keys_app.command("rotate")
def _keys_rotate(name: KeyName, keys: KeyFolder, as_json: AsJson = False) -> None:
    """Make the next version of a key; earlier ones are kept."""

    def work() -> Result:
        from stillproof.serve import KeyRing

        return asdict(KeyRing(keys).rotate(name))

    answer(work, as_json)


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

    answer(work, as_json)


def serve(
    kind: Annotated[str, typer.Option("--teacher", metavar="KIND", help="Teacher kind; see methods.")] = "smollm2",
    model: Annotated[str, typer.Option("--model", help="Folder, file or name, as the kind needs it.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="STORE", help="Store that every answer is kept in.")
    ] = None,
    twins: Annotated[
        float,
        typer.Option("--twins", metavar="SHARE", help="Draw two answers to this share of calls, a coin serves one."),
    ] = 0.0,
    cards: Annotated[
        str | None,
        typer.Option(
            "--cards", metavar="all|FILE", help="Plant evidence cards: in all answers, or by a file of scopes."
        ),
    ] = None,
    mark: Annotated[
        Path | None, typer.Option("--mark", metavar="FILE", help="Mark what local weights say under this key.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="DIR", help="Key ring with the keys `coins` and `cards`.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="DIR", help="Folder of the sealed coins, outside the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a teacher on this machine, OpenAI-compatible, until Ctrl-C."""

    def work() -> Result:
        from stillproof.config import TeacherConfig
        from stillproof.errors import ConfigError
        from stillproof.serve.foreground import serve_until_interrupted
        from stillproof.teacher import open_teacher

        def announce(url: str) -> None:
            typer.echo(f"serving at {url}; stop with Ctrl-C", err=True)

        config = TeacherConfig(kind=kind, model=model)
        key = None if mark is None else _mark_key(mark)
        proof = _proof(twins, cards, keys, ledger, key)
        if proof is not None and record is None:
            raise ConfigError("coins without a record of what was served", "--record", "name a store")
        if key is None:
            teacher: Teacher = open_teacher(config)
        else:
            from stillproof.serve.marked import open_marked

            teacher = open_marked(config, key)
        found = serve_until_interrupted(teacher, port=port, record=record, proof=proof, on_start=announce)
        return {**found, "mark": None if key is None else key.commitment}

    answer(work, as_json)


def _mark_key(path: Path) -> MarkKey:
    from stillproof.trace.key_file import read_mark_key

    return read_mark_key(path)


def _proof(
    twins: float, cards: str | None, keys: Path | None, ledger: Path | None, mark: MarkKey | None
) -> Proof | None:
    """What is to be tossed; None where neither twins nor cards are asked for, nor a ledger for the mark."""
    from stillproof.errors import ConfigError
    from stillproof.serve.foreground import Proof
    from stillproof.serve.scopes import Scopes, read_scopes

    if not 0 <= twins <= 1:
        raise ConfigError(f"a share of twins of {twins!r}", "--twins", "give 0 to 1")
    if not twins and cards is None and ledger is None:
        return None
    if keys is None or ledger is None:
        remedy = "make the keys with `stillproof keys create coins` (and `cards`), then give --keys and --ledger"
        raise ConfigError("coins need a key ring and a ledger", "--keys, --ledger", remedy)
    scopes = None if cards is None else Scopes({}) if cards == "all" else read_scopes(Path(cards))
    repeats = mark is not None and mark.scheme.kind == "gumbel" and mark.scheme.second_share == 0
    commitment = None if mark is None else mark.commitment
    return Proof(keys, ledger, twins, scopes, mark=commitment, mark_repeats=repeats)
