"""`stillproof guard …`: compose or import a log, find campaigns in it, explain them, measure, calibrate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol, cast

import typer

from stillproof.cli.answering import Result, answer, gate
from stillproof.cli.options import AsJson, Words, examples, group

if TYPE_CHECKING:
    from stillproof.progress import OnEvent

BEGIN_ANEW = "nothing unfinished is read later: run the command again"

World = Annotated[Path, typer.Argument(metavar="W", help="Folder of a log that was composed or imported.")]
LogIfExists = Annotated[
    Literal["fail", "replace"], typer.Option("--if-exists", help="Where W holds a log: stop, or begin anew.")
]
WorldOut = Annotated[Path, typer.Option("--out", metavar="W", help="Folder that the log is kept in.")]

StepH = Annotated[
    float, typer.Option("--step-h", min=0.25, help="Hours between two looks at the log; a reference is for one step.")
]

ScanOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of result.json and scan.html; W/guard if left out."),
]
ReferenceFile = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FILE", help="Honest clusters from `guard calibrate`; composed if left out."),
]
EngineName = Annotated[Literal["duckdb", "spark"], typer.Option("--engine", help="What counts the rows.")]
Alpha = Annotated[float, typer.Option("--alpha", min=1e-9, max=0.5, help="Level of the false discovery rate.")]
Grants = Annotated[
    list[Path] | None,
    typer.Option("--grant", metavar="FILE", help="Signed permission to distil; its accounts are spared; repeatable."),
]
Grantor = Annotated[
    Path | None, typer.Option("--grantor", metavar="FILE", help="Public key that must have signed the grants.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write the page here; it needs no network.")
]


class ScanOptions(NamedTuple):
    """The options that `scan` and `watch` have in common, as they were given."""

    engine: str
    step_h: float
    alpha: float
    reference: Path | None
    out: Path | None
    grants: list[Path] | None
    grantor: Path | None
    budget: int | None


guard_app = group(
    "Find pools of accounts that are run as one to distil a model.",
    examples(
        "stillproof guard compose --world recipes/world_small.toml --out runs/world",
        "stillproof guard scan runs/world --html scan.html",
        "stillproof guard explain c3 --scan runs/world",
        "stillproof guard evaluate runs/world",
    ),
)


@guard_app.command(
    "compose",
    epilog=examples(
        "stillproof guard compose --world recipes/world_small.toml --out runs/world",
        "stillproof guard compose --world recipes/world_small.toml --out runs/null seed=11 --if-exists replace",
    ),
)
def _compose(
    world: Annotated[Path, typer.Option("--world", metavar="FILE", help="TOML file of a world; see recipes/.")],
    out: WorldOut,
    words: Words = None,
    if_exists: LogIfExists = "fail",
    as_json: AsJson = False,
) -> None:
    """Compose a labelled log: honest customers, and simulated campaigns."""

    def act(on_event: OnEvent) -> Result:
        from stillproof import guard
        from stillproof.config import load
        from stillproof.guard.traffic.world import World

        return guard.compose(load(World, world, words or ()), out, if_exists, on_event)

    answer(_watched(act), as_json, if_interrupted=BEGIN_ANEW)


@guard_app.command(
    "import",
    epilog=examples(
        "stillproof guard import spend.jsonl --format litellm --out runs/log",
        "stillproof guard import calls.parquet --format columns --column account=user_id --out runs/log",
    ),
)
def _import(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", exists=True, help="File or folder to read.")],
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="Kind of log; a wrong name lists them.")],
    out: WorldOut,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="Name of a column there; repeatable.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Key of the pseudonyms, made if absent; W.key if left out."),
    ] = None,
    if_exists: LogIfExists = "fail",
    as_json: AsJson = False,
) -> None:
    """Import a log of another program; accounts become pseudonyms.

    Rows that cannot be read are counted and kept aside. Keep the key away from the log: who has both can try names.
    """

    def act(on_event: OnEvent) -> Result:
        from stillproof import guard

        names = _column_map(columns or ())
        # Beside the folder and not in it, so that a copy of the log does not carry its key along.
        secret = _key_of(key or out.with_name(f"{out.name}.key"))
        return guard.import_log(source, out, format, columns=names, key=secret, on_event=on_event, if_exists=if_exists)

    answer(_watched(act), as_json, if_interrupted=BEGIN_ANEW)


@guard_app.command(
    "scan",
    epilog=examples(
        "stillproof guard scan runs/world",
        "stillproof guard scan runs/log --reference reference.parquet --html scan.html --json",
    ),
)
def _scan(
    folder: World,
    out: ScanOut = None,
    reference: ReferenceFile = None,
    engine: EngineName = "duckdb",
    step_h: StepH = 24.0,
    alpha: Alpha = 0.05,
    grants: Grants = None,
    grantor: Grantor = None,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Look for campaigns in a log.

    Exit code 3 where any was found, 4 where the evidence could not decide, 0 where none was found.
    """

    _scanned(folder, ScanOptions(engine, step_h, alpha, reference, out, grants, grantor, None), html, as_json)


@guard_app.command(
    "watch",
    epilog=examples(
        "stillproof guard watch runs/log --budget 1000",
        "stillproof guard watch runs/log --budget 1000 --grant grant.json --grantor operator.pub --json",
    ),
)
def _watch(
    folder: World,
    budget: Annotated[
        int,
        typer.Option(
            "--budget", min=1, metavar="N", help="Clusters expected in the whole period; a scan says how many."
        ),
    ],
    out: ScanOut = None,
    reference: ReferenceFile = None,
    engine: EngineName = "duckdb",
    step_h: StepH = 1.0,
    alpha: Alpha = 0.05,
    grants: Grants = None,
    grantor: Grantor = None,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Look for campaigns hour by hour in a log that grows.

    Run it again when the log has grown: what alarmed before still does, at the same time. `alpha` holds for the whole
    period, however often one looks. The next period needs a new folder and a new budget. Exit codes as of `scan`.
    """
    settings = ScanOptions(engine, step_h, alpha, reference, out, grants, grantor, budget)
    _scanned(folder, settings, html, as_json)


@guard_app.command("explain", epilog=examples("stillproof guard explain c3 --scan runs/world"))
def _explain(
    campaign: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Id of a campaign, as the scan printed it.")],
    scan: Annotated[
        Path, typer.Option("--scan", metavar="DIR", help="Folder of a scan's result.json, or W itself.")
    ] = Path("."),
    as_json: AsJson = False,
) -> None:
    """Print one campaign: evidence, honest alternatives, what would clear it.

    Each alternative is shown with the signals that it explains and those that speak against it.
    """

    def work() -> Result:
        from stillproof import guard

        return guard.explain(result_folder(scan), campaign)

    answer(work, as_json)


@guard_app.command("evaluate", epilog=examples("stillproof guard evaluate runs/world --json"))
def _evaluate(folder: World, as_json: AsJson = False) -> None:
    """Compare the scan of a composed world with its truth."""

    def work() -> Result:
        from stillproof import guard

        return guard.evaluate(folder)

    answer(work, as_json)


@guard_app.command("calibrate", epilog=examples("stillproof guard calibrate runs/may runs/june --out honest.parquet"))
def _calibrate(
    folders: Annotated[list[Path], typer.Argument(metavar="W...", help="Log folders of past windows.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Parquet file of the reference.")],
    step_h: StepH = 24.0,
    as_json: AsJson = False,
) -> None:
    """Learn from logs of your own how honest clusters behave."""

    def act(on_event: OnEvent) -> Result:
        from stillproof import guard

        return guard.calibrate(folders, out, step_h=step_h, on_event=on_event)

    answer(_watched(act), as_json, if_interrupted=BEGIN_ANEW)


def _scanned(folder: Path, given: ScanOptions, html: Path | None, as_json: bool) -> None:
    """Scan or watch, write the page, answer."""

    def act(on_event: OnEvent) -> Result:
        from stillproof import guard
        from stillproof.guard.scanning import ScanSettings

        settings = ScanSettings(**given._asdict() | {"grants": tuple(given.grants or ())})
        result = guard.scan(folder, settings, on_event)
        if html is not None:
            from stillproof.guard.picture import write_page

            write_page(result, html)
        return result

    answer(_watched(act), as_json, exit_code_of_findings, if_interrupted=BEGIN_ANEW)


class _Act(Protocol):
    def __call__(self, on_event: OnEvent) -> Result: ...


def _watched(act: _Act) -> Callable[[], Result]:
    """`act` with its progress on standard error."""

    def work() -> Result:
        from stillproof.progress import renderer

        with renderer() as on_event:
            return act(on_event)

    return work


def _column_map(words: Iterable[str]) -> dict[str, str]:
    """OURS -> THEIRS. Raises ConfigError for a word of another form, or one of ours that is named twice."""
    from stillproof.errors import ConfigError

    names: dict[str, str] = {}
    for word in words:
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not (equals and ours and theirs):
            raise ConfigError(f"--column {word!r} is not OURS=THEIRS", remedy="write, say, --column account=user_id")
        if ours in names:
            raise ConfigError(f"--column names {ours!r} twice", remedy="keep one of them")
        names[ours] = theirs
    return names


def _key_of(path: Path) -> bytes:
    from stillproof.store.pseudonym import create_key, read_key

    if path.exists():
        return read_key(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return create_key(path)


def result_folder(scan: Path) -> Path:
    """The folder of result.json: the one given, or `guard` inside it where a world was given."""
    inside = scan / "guard"
    return inside if not (scan / "result.json").exists() and (inside / "result.json").exists() else scan


def exit_code_of_findings(result: Result) -> int:
    """As finding.exit_code says: 3 where any finding found, else 4 where any is inconclusive or the scan could not have
    named a lone campaign; a gate is 3 as well."""
    from stillproof.finding import EXIT_CODES, Decision

    rows = cast("list[dict[str, object]]", result.get("findings") or [])
    decisions = {row.get("decision") for row in rows}
    if result.get("decides") is False:
        decisions.add("inconclusive")
    ordered: tuple[Decision, ...] = ("found", "inconclusive")
    found = next((EXIT_CODES[decision] for decision in ordered if decision in decisions), 0)
    return gate(result) or found
