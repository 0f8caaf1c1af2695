"""The whole recipe of recipes/laptop.toml, run once: `make bench-distill ARGS=recipe`.

    python bench/distill/recipe.py [--out bench/distill/results] [--run runs/laptop]

Minutes to an hour. A run that was begun there goes on. Writes OUT/laptop.json: what `stillproof distill run --json`
prints, the command beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "distill" / "results")
    parser.add_argument("--run", default="runs/laptop")
    given = parser.parse_args()
    words = ["distill", "run", "--config", "recipes/laptop.toml", "--out", given.run, "--if-exists", "resume", "--json"]
    command = [str(Path(sys.executable).with_name("stillproof")), *words]
    answer = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if answer.returncode != 0:
        return answer.returncode
    given.out.mkdir(parents=True, exist_ok=True)
    result = {**json.loads(answer.stdout), "command": f"stillproof {' '.join(words)}"}
    (given.out / "laptop.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
