"""The notebooks run, from the first cell to the last, and keep no outputs.

They are run as programs: their cells hold plain Python and no magics, so that no Jupyter is needed to know that they
work.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SAYS = {
    "find_a_campaign": [r"found - these \d+ accounts act as one", r"honest accounts that were named: 0 of 620"],
    "distil_and_trace": [r"from marked text: found", r"from plain text: not_found"],
}
TORCH_FREE = {"find_a_campaign"}


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def program(path: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in cells(path, "code"))


def test_there_are_the_notebooks_that_the_docs_speak_of() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SAYS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_what_its_text_says(path: Path, tmp_path: Path) -> None:
    # The guard is for the worker processes of a scan, which import the main module anew.
    body = "".join(f"    {line}\n" if line else "\n" for line in program(path).splitlines())
    script = tmp_path / f"{path.stem}.py"
    script.write_text(f"if __name__ == '__main__':\n{body}", encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for pattern in SAYS[path.stem]:
        assert re.search(pattern, ran.stdout), ran.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_that_jupyter_opens(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one) for one in ids)
    assert all(isinstance(cell["source"], list) and "metadata" in cell for cell in notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_no_outputs(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))


@pytest.mark.parametrize("name", sorted(TORCH_FREE))
def test_a_notebook_that_needs_no_torch_imports_none(name: str) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    assert not re.search(r"torch|stillproof\.(distill|teacher)", program(path))
