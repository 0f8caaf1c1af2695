"""`stillproof trace weights A B`: do two models' weights have a common origin?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillproof.cli.answering import Result, answer
from stillproof.cli.options import AsJson, examples
from stillproof.cli.trace import exit_code_of_finding

WEIGHTS = "Folder with .safetensors files, a .safetensors file, or a .gguf file."


EXAMPLES = examples(
    "stillproof trace weights models/ours models/theirs",
    "stillproof trace weights models/ours theirs.gguf --alpha 1e-6 --json",
)


def weights_command(
    a: Annotated[Path, typer.Argument(metavar="A", help=f"The model that may be the parent. {WEIGHTS}")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model under question, likewise.")],
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-300, max=0.5, help="Level, over all tests together.")
    ] = 0.01,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Breaks ties between units.")] = 0,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="FILE", help="Independent pairs nearer to these models.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test whether the weights of two models have a common origin, and say which layer came from where.

    Exit code 3 where they have, 4 where the two cannot be compared, 0 where nothing was found.
    """

    def work() -> Result:
        from stillproof.progress import renderer
        from stillproof.trace.weights import compare

        with renderer() as on_event:
            said = compare(a, b, alpha=alpha, seed=seed, reference=reference, on_event=on_event).to_json()
        placed = [f"{row['layer_b']} from {row['layer_a']}" for row in said["layers"] if row["by"]]
        typer.echo(
            f"layers of B that come from A: {', '.join(placed) or 'none'}; direction {said['direction']}", err=True
        )
        return {**said, "a": str(a), "b": str(b)}

    answer(work, as_json, exit_code_of_finding)
