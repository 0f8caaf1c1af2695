"""`stillproof trace lineage`, `sign` and `verify`: where a model says it comes from, and its birth certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples

Model = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a model, or a GGUF file.")]


def _named(words: list[str] | None, option: str) -> dict[str, Path]:
    """NAME=PATH words as a mapping. Raises ConfigError for a word without both."""
    from stillproof.errors import ConfigError

    named: dict[str, Path] = {}
    for word in words or ():
        name, _, path = word.partition("=")
        if not name or not path:
            raise ConfigError("not NAME=PATH", word, f"write {option} acme/teacher=models/teacher")
        named[name] = Path(path)
    return named


def show_lineage(
    folder: Model,
    parent: Annotated[
        list[str] | None, typer.Option("--parent", metavar="NAME=DIR", help="Folder of a parent that is claimed.")
    ] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option("--finding", metavar="NAME=FILE", help="Finding of a weight test against that parent, JSON."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", metavar="INDEX", help="Also match the weights against these sketches.")
    ] = None,
    users: Annotated[int | None, typer.Option("--users", min=0, help="Monthly users of your products.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit code 3 where terms or duties are not met.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a model says it comes from, under which terms, and which duties its folder meets.

    Nothing that a folder declares is believed; no file that it names is opened.
    """

    def work() -> Result:
        from stillproof.errors import ConfigError
        from stillproof.finding import Finding
        from stillproof.report import read
        from stillproof.trace.lineage_check import check_lineage, findings_as_test

        known = _named(parent, "--parent")
        found = {name: Finding.from_json(read(path)) for name, path in _named(finding, "--finding").items()}
        unknown = sorted(set(found) - set(known))
        if unknown:
            raise ConfigError("a finding for a parent whose folder is not given", unknown[0], "add --parent NAME=DIR")
        test = findings_as_test({known[name]: made for name, made in found.items()}) if found else None
        if index is None:
            return {**check_lineage(folder, known=known, test=test, monthly_users=users), "checked": check}
        from stillproof.progress import renderer
        from stillproof.trace.weights.candidates import candidates, with_candidates

        with renderer() as on_event:
            told = candidates(folder, index, on_event=on_event)
        result = check_lineage(folder, known=known, test=test, monthly_users=users, matched=told.found)
        return {**with_candidates(result, told), "checked": check}

    answer(work, as_json, lambda result: 3 if result["checked"] and result["gate"] else 0)


def make_signing_key(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Private key to write; its public half: FILE.pub.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a P-256 key that signs models."""

    def work() -> Result:
        from stillproof.lineage.signature import create_signing_key

        return {"key": str(out), "public_key": f"{out}.pub", "signed_by": create_signing_key(out)}

    answer(work, as_json)


def sign_model(
    folder: Model,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private P-256 key, PEM; it stays yours.")],
    as_json: AsJson = False,
) -> None:
    """Sign every file of a shipped model, in the format of OpenSSF model-signing."""

    def work() -> Result:
        from stillproof.lineage.signature import SIGNATURE, sign_folder

        return {"model": str(folder), "signature": SIGNATURE, "signed_by": sign_folder(folder, key)}

    answer(work, as_json)


def verify_model(
    folder: Model,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Public key of the signer, as the signer published it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a shipped model against its manifest, signature and ML-BOM.

    Exit code 3 where anything differs. Without --key a valid signature says that the folder is as its signer left it,
    not who that was.
    """

    def work() -> Result:
        from stillproof.trace.certificate import verify_folder

        return verify_folder(folder, key)

    answer(work, as_json)


def register(trace_app: typer.Typer) -> None:
    """Add the commands of this module to `stillproof trace`."""
    trace_app.command(
        "lineage",
        epilog=examples(
            "stillproof trace lineage models/theirs",
            "stillproof trace lineage models/theirs --index index",
            "stillproof trace lineage models/ours --parent acme/teacher=models/teacher --users 1000 --check --json",
        ),
    )(show_lineage)
    trace_app.command("signing-key", epilog=examples("stillproof trace signing-key --out signer.pem"))(make_signing_key)
    trace_app.command("sign", epilog=examples("stillproof trace sign runs/laptop/student --key signer.pem"))(sign_model)
    trace_app.command(
        "verify",
        epilog=examples(
            "stillproof trace verify runs/laptop/student",
            "stillproof trace verify models/theirs --key theirs.pub --json",
        ),
    )(verify_model)
