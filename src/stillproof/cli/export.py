"""`stillproof export`: a finding for others, as STIX 2.1; and `stillproof grant …`: signed permissions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples, group

SigningKey = Annotated[Path, typer.Option("--key", metavar="FILE", help="Private Ed25519 key of who permits.")]


def export_finding(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A finding, JSON.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your export key; made where there is none.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The bundle to write.")],
    form: Annotated[Literal["stix"], typer.Option("--export", help="Format: STIX 2.1.")] = "stix",
    days: Annotated[int, typer.Option("--days", min=1, help="How long others may keep it.")] = 180,
    operator: Annotated[str, typer.Option("--operator", help="Name that stands under it.")] = "operator",
    as_json: AsJson = False,
) -> None:
    """Write a finding for others: pseudonymous, expiring, without prompts."""

    def work() -> Result:
        import json

        from stillproof.errors import OutputExistsError
        from stillproof.finding import Finding
        from stillproof.report import read
        from stillproof.report.stix import to_stix
        from stillproof.store.pseudonym import create_key, read_key

        if out.exists():
            raise OutputExistsError("there is something already", str(out), "give another --out")
        finding = Finding.from_json(read(file))
        bundle = to_stix(
            finding,
            read_key(key) if key.exists() else create_key(key),
            made=datetime.now(UTC),
            days=days,
            operator=operator,
        )
        out.write_text(json.dumps(bundle, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
        return {
            "bundle": str(out),
            "format": form,
            "objects": len(bundle["objects"]),
            "bytes": out.stat().st_size,
            "accounts": len(finding.accounts),
            "keep_days": days,
        }

    answer(work, as_json)


grant_app = group(
    "Permit somebody to distil your model, in a token that you sign.",
    examples(
        "stillproof grant key --out grants.pem",
        "stillproof grant issue --key grants.pem --id g-1 --grantor 'Acme Inc.' --grantee us --teacher acme/teacher "
        "--expires 2027-01-31 --max-exchanges 100000 --account 0123456789abcdef0123456789abcdef --out grant.json",
        "stillproof grant issue --key grants.pem --id g-2 --grantor 'Acme Inc.' --grantee us --teacher acme/teacher "
        "--expires 2027-01-31 --raw-account us-research --account-key logs/july.key --out grant.json",
        "stillproof grant check grant.json --key grants.pem.pub",
    ),
)


@grant_app.command("key")
def _key(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Private key; its public half: FILE.pub.")],
    as_json: AsJson = False,
) -> None:
    """Make an Ed25519 key that signs grants."""

    def work() -> Result:
        from stillproof.terms.signed_grant import create_grant_key

        return {"key": str(out), "public_key_file": f"{out}.pub", "public_key": create_grant_key(out)}

    answer(work, as_json)


@grant_app.command("issue")
def _issue(
    key: SigningKey,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The grant to write.")],
    id: Annotated[str, typer.Option("--id", help="Its name, yours to choose.")],
    grantor: Annotated[str, typer.Option("--grantor", help="Who permits.")],
    grantee: Annotated[str, typer.Option("--grantee", help="Who may.")],
    teacher: Annotated[str, typer.Option("--teacher", help="Model that may be distilled, or '*'.")],
    expires: Annotated[str, typer.Option("--expires", metavar="YYYY-MM-DD", help="Last day.")],
    evidence: Annotated[str, typer.Option("--evidence", help="Contract or letter.")] = "this signed grant",
    max_exchanges: Annotated[int | None, typer.Option("--max-exchanges", min=1, help="Exchanges in all.")] = None,
    account: Annotated[list[str] | None, typer.Option("--account", help="Pseudonym that it covers.")] = None,
    raw_account: Annotated[
        list[str] | None,
        typer.Option("--raw-account", help="Name of an account that it covers; stored as pseudonym."),
    ] = None,
    account_key: Annotated[
        Path | None,
        typer.Option("--account-key", metavar="FILE", help="Key of your log's pseudonyms (guard import)."),
    ] = None,
    duty: Annotated[list[str] | None, typer.Option("--duty", help="What the grantee owes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sign a permission to distil."""

    def work() -> Result:
        import json
        from datetime import date

        from stillproof.errors import ConfigError, OutputExistsError
        from stillproof.store.pseudonym import require_pseudonym
        from stillproof.terms.grant import SCOPE, Grant
        from stillproof.terms.signed_grant import sign_grant

        if out.exists():
            raise OutputExistsError("there is something already", str(out), "give another --out")
        today = datetime.now(UTC).date()
        try:
            last = date.fromisoformat(expires)
        except ValueError:
            raise ConfigError("not a date", expires, "write --expires 2027-01-31") from None
        if last < today:
            raise ConfigError("the last day has passed", expires, "give a later one")
        accounts = (*(account or ()), *_pseudonyms(raw_account or (), account_key))
        for name in accounts:
            require_pseudonym(name, "--account")
        grant = Grant(
            id, grantor, grantee, SCOPE, teacher, today, last, evidence,
            max_exchanges=max_exchanges, accounts=accounts, duties=tuple(duty or ()),
        )  # fmt: skip
        row = sign_grant(grant, key).to_json()
        out.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        return {"file": str(out), **row}

    answer(work, as_json)


def _pseudonyms(names: Sequence[str], key: Path | None) -> list[str]:
    """Accounts as the log that this key belongs to has them. Raises ConfigError for names without a key."""
    from stillproof.errors import ConfigError
    from stillproof.store.pseudonym import pseudonym, read_key

    if names and key is None:
        raise ConfigError("a raw account needs the key of your log's pseudonyms", "--raw-account", "add --account-key")
    return [] if key is None else [pseudonym(read_key(key), name) for name in names]


@grant_app.command("check")
def _check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A grant.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Public Ed25519 key of who permits.")],
    model: Annotated[str, typer.Option("--model", help="Teacher to ask about; without it, any that it names.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say whether a signed grant holds today. Exit code 3 where it does not."""

    def work() -> Result:
        from stillproof.terms.grant import read_grant
        from stillproof.terms.signed_grant import read_public_key, refusal_of

        grant = read_grant(file)
        today = datetime.now(UTC).date()
        refused = refusal_of(grant, read_public_key(key), model=model or grant.teacher, today=today)
        return {**grant.to_json(), "holds": refused is None, "gate": refused}

    answer(work, as_json)
