"""`stillproof store …`, `stillproof keys …` and `stillproof serve`: exchanges kept, keys kept, answers given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples, group

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

    answer(work, as_json)
