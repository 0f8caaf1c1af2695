"""guard beside four peers, on the same composed worlds: recall, false positives, seconds.

    python -m bench.guard.run --reference honest.parquet --out bench/guard/results

Needs the package and nothing else. Worlds are composed from one recipe, test worlds as it is and honest worlds without
its campaigns, each from a seed of its own. README.md says what the peers are and where their thresholds come from.
Writes OUT/peers.json and OUT/peers.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.guard import assessment, infrastructure, median_mad, mmd_windows, peer_table, prada

from stillproof import guard
from stillproof.config import load
from stillproof.guard.evaluation import against_truth
from stillproof.guard.scanning import ScanSettings
from stillproof.guard.traffic import World

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RATE = 1e-4
HONEST_SEED = 700_000
"""First seed of honest worlds: far from those of recipes and tests."""
OURS = "stillproof guard"


@dataclass(frozen=True, slots=True)
class Peer:
    """One method. A score at or above a threshold is flagged."""

    fit: Callable[[Sequence[Path]], Any]
    """Honest worlds -> what `flag` needs to know."""
    flag: Callable[[Path, Any], dict[str, float]]
    """(world, what `fit` gave) -> a score for each account, more for more suspicious."""
    default: float
    default_says: str


PEERS: dict[str, Peer] = {
    "MMD windows": Peer(mmd_windows.fit, mmd_windows.flag, mmd_windows.DEFAULT, mmd_windows.DEFAULT_SAYS),
    "median/MAD": Peer(median_mad.fit, median_mad.flag, median_mad.DEFAULT, median_mad.DEFAULT_SAYS),
    "closure (network, client, payment)": Peer(
        infrastructure.fit,
        infrastructure.flag_by(infrastructure.ALL),
        infrastructure.DEFAULT,
        infrastructure.DEFAULT_SAYS,
    ),
    "closure (network, payment)": Peer(
        infrastructure.fit,
        infrastructure.flag_by(infrastructure.WITHOUT_CLIENT),
        infrastructure.DEFAULT,
        infrastructure.DEFAULT_SAYS,
    ),
    "PRADA": Peer(prada.fit, prada.flag, prada.DEFAULT, prada.DEFAULT_SAYS),
}


def main(words: Sequence[str] | None = None) -> int:
    arguments = read_arguments(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.work:
        result = compare(arguments, arguments.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(arguments, Path(folder))
    (arguments.out / "peers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = peer_table.of(result)
    (arguments.out / "peers.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "world_small.toml")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, help="folder that keeps the worlds for the next run; default: none kept")
    parser.add_argument("--reference", type=Path, help="for guard; default: the composed one that comes along")
    parser.add_argument("--seeds", type=int, default=5, help="test worlds")
    parser.add_argument("--first-seed", type=int, help="of the test worlds; default: the recipe's")
    parser.add_argument(
        "--honest-worlds", type=int, default=6, help="the first is learned from, the rest set thresholds"
    )
    parser.add_argument("--methods", nargs="*", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    parser.add_argument("words", nargs="*", help="key=value for the recipe")
    arguments = parser.parse_intermixed_args(words)
    if arguments.honest_worlds < 2 or arguments.seeds < 1:
        parser.error("--honest-worlds must be 2 or more, --seeds 1 or more")
    return arguments


def mean_of(worlds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the test worlds, as the table shows them."""
    names = ("account_recall", "account_fpr", "campaign_recall")
    return {name: sum(world[name] or 0.0 for world in worlds) / len(worlds) for name in names}


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    recipe = load(World, arguments.recipe, arguments.words)
    first = recipe.seed if arguments.first_seed is None else arguments.first_seed
    seeds = list(range(first, first + arguments.seeds))
    worlds = [composed(recipe.model_copy(update={"seed": seed}), work / f"test-{seed}") for seed in seeds]
    groups = tuple(group for group in recipe.groups if group.kind != "campaign")
    honest = [
        composed(recipe.model_copy(update={"seed": seed, "groups": groups}), work / f"honest-{seed}")
        for seed in range(HONEST_SEED, HONEST_SEED + arguments.honest_worlds)
    ]
    rows: list[dict[str, Any]] = []
    n_accounts = sum(against_truth(folder, [])["n_honest_accounts"] for folder in honest[1:])
    for name in arguments.methods:
        print(f"bench: {name}", flush=True)
        made = ours(worlds, arguments.reference) if name == OURS else peer(name, worlds, honest)
        rows += [row | {"mean": mean_of(row["worlds"])} for row in made]
    return {
        "plan": {
            "recipe": str(arguments.recipe).replace(f"{ROOT}/", ""),
            "words": arguments.words,
            "seeds": seeds,
            "honest_seeds": [HONEST_SEED + place for place in range(len(honest))],
            "threshold_worlds": len(honest) - 1,
            "n_calibration_accounts": n_accounts,
            "rate": assessment.resolvable(RATE, n_accounts),
            "reference": str(arguments.reference or "composed, as it comes along"),
        },
        "rows": rows,
    }


def composed(world: World, folder: Path) -> Path:
    """The world in this folder, made now where it is not there or is another one."""
    told = folder / "recipe.json"
    wanted = world.model_dump_json()
    if not told.exists() or told.read_text(encoding="utf-8") != wanted:
        print(f"bench: composing {folder.name}", flush=True)
        guard.compose(world, folder, "replace")
        told.write_text(wanted, encoding="utf-8")
    return folder


def peer(name: str, worlds: Sequence[Path], honest: Sequence[Path]) -> list[dict[str, Any]]:
    """Two rows: at the calibrated threshold, and at the method's own."""
    method = PEERS[name]
    calibration = method.fit(honest[:1])
    known = [score for folder in honest[1:] for score in method.flag(folder, calibration).values()]
    calibrated = assessment.threshold(known, RATE)
    rows: list[dict[str, Any]] = [
        {"method": name, "threshold": "calibrated", "at_least": calibrated, "worlds": []},
        {"method": name, "threshold": method.default_says, "at_least": method.default, "worlds": []},
    ]
    for folder in worlds:
        started = time.perf_counter()
        scores = method.flag(folder, calibration)
        seconds = time.perf_counter() - started
        for row in rows:
            row["worlds"].append({**assessment.assess(folder, scores, row["at_least"]), "seconds": seconds})
    return rows


def ours(worlds: Sequence[Path], reference: Path | None) -> list[dict[str, Any]]:
    """One row: guard as it comes decides over clusters at its false discovery rate, so no account threshold is set."""
    found = []
    for folder in worlds:
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            result = guard.scan(folder, ScanSettings(reference=reference, out=Path(out)))
            seconds = time.perf_counter() - started
        named = [finding for finding in result["findings"] if finding["decision"] == "found"]
        found.append({**assessment.shares(against_truth(folder, named)), "seconds": seconds})
    return [{"method": OURS, "threshold": "FDR 5% over clusters", "at_least": None, "worlds": found}]


if __name__ == "__main__":
    sys.exit(main())
