"""`stillproof trace index …`: sketches of known models, and a suspect matched against all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples, group
from stillproof.cli.trace import exit_code_of_finding
from stillproof.cli.trace_weights import WEIGHTS

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the sketches.")]

index_app = group(
    "Keep sketches of known models, and match a suspect against them.",
    examples(
        'stillproof trace index add index models/ours --name "ours 1.0"',
        "stillproof trace index match index models/theirs --json",
        "stillproof trace index list index",
        "stillproof trace lineage models/theirs --index index",
    ),
)


@index_app.command("add", epilog=examples('stillproof trace index add index models/ours --name "ours 1.0"'))
def _add(
    index: Index,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=f"A model that you hold. {WEIGHTS}")],
    name: Annotated[str, typer.Option("--name", help="Its name; as its children declare it, for `trace lineage`.")],
    as_json: AsJson = False,
) -> None:
    """Sketch a model into an index. The weights cannot be restored from a sketch."""

    def work() -> Result:
        from stillproof.progress import renderer
        from stillproof.trace.weights import index as sketches

        sketches.refuse_known(index, name)
        with renderer() as on_event:
            sketch = sketches.sketch_model(model, name, on_event)
        path = sketches.add(index, sketch)
        shape = {"layers": len(sketch.numbers), "hidden": sketch.hidden, "units": int(sketch.units.max())}
        return {"name": name, "model": str(model), "sketch": str(path), "bytes": path.stat().st_size, **shape}

    answer(work, as_json, if_interrupted="nothing was added")


@index_app.command(
    "match",
    epilog=examples(
        "stillproof trace index match index models/theirs",
        "stillproof trace index match index theirs.gguf --alpha 1e-9 --json",
    ),
)
def _match(
    index: Index,
    suspect: Annotated[Path, typer.Argument(metavar="SUSPECT", help=f"The model under question. {WEIGHTS}")],
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-300, max=0.5, help="Chance of any false match, over the whole index.")
    ] = 1e-6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Breaks ties between units.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say which known models' weights have a common origin with a suspect's.

    Exit code 3 where one has, 4 where none can be compared, 0 where nothing was found. A copy whose units were
    relabelled or whose axes were rotated is not seen: compare with the weights themselves (`trace weights`).
    """

    def work() -> Result:
        from stillproof.progress import renderer
        from stillproof.trace.weights.candidates import candidates

        with renderer() as on_event:
            told = candidates(suspect, index, alpha=alpha, seed=seed, on_event=on_event)
        typer.echo(f"matched: {', '.join(told.found) or 'none'}, of {len(told.matches)} known models", err=True)
        return told.to_json()

    answer(work, as_json, exit_code_of_finding, if_interrupted="nothing was decided")


@index_app.command("list", epilog=examples("stillproof trace index list index --json"))
def _list(index: Index, as_json: AsJson = False) -> None:
    """List the known models of an index."""

    def work() -> Result:
        from stillproof.trace.weights.candidates import listed
        from stillproof.trace.weights.index import read_index

        return {"index": str(index), "models": listed(read_index(index))}

    answer(work, as_json)
