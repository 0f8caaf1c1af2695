"""Code on the pages runs, and names of functions that the pages give exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTEND = sorted(path for path in (ROOT / "docs" / "extend").glob("*.md") if path.stem != "index")
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *EXTEND])
SOURCE = ROOT / "src"
NAME = re.compile(r"`(stillproof(?:\.(?!(?:json|toml|py)`)\w+)+)`")


def code_of(page: Path) -> str:
    """The Python blocks of a page one after another, at the lines where they stand there."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, block.start(1))
        for place, line in enumerate(block[1].splitlines()):
            lines[first + place] = line
    return "\n".join(lines) + "\n"


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, or defined in or imported into one. Read, not imported."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        stem = SOURCE.joinpath(*parts[:cut])
        file = stem.with_suffix(".py") if stem.with_suffix(".py").is_file() else stem / "__init__.py"
        if file.is_file():
            return _defines(file, parts[cut:])
    return False


def _defines(file: Path, rest: list[str]) -> bool:
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    if file.parent.name == "stillproof" and file.name == "__init__.py" and rest:
        body = [*body, *(inner for node in body if isinstance(node, ast.If) for inner in node.body)]
    for part in rest:
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


NAMES = sorted({(page.name, name) for page in PAGES for name in NAME.findall(page.read_text(encoding="utf-8"))})


def test_every_extension_point_has_a_page() -> None:
    points = {"loss", "teacher", "signal", "campaign_family", "honest_class", "importer", "trace_test", "licence"}
    assert {page.stem for page in EXTEND} == points


@pytest.mark.parametrize("page", EXTEND, ids=lambda page: page.stem)
def test_the_code_of_an_extension_page_runs(page: Path, tmp_path: Path) -> None:
    # In a Python of its own: what a page registers must not be there for other tests.
    code = code_of(page)
    script = tmp_path / f"{page.stem}.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "assert " in code, "a page's code says what must hold"


@pytest.mark.parametrize(("page", "name"), NAMES, ids=[f"{page} {name}" for page, name in NAMES])
def test_a_name_that_a_page_gives_exists(page: str, name: str) -> None:
    assert exists(name), f"{page} speaks of {name}"


def test_a_name_that_does_not_exist_is_told_from_one_that_does() -> None:
    assert exists("stillproof.stats.e_bh") and exists("stillproof.Exchange") and exists("stillproof.guard.scoring")
    assert not exists("stillproof.stats.e_hb") and not exists("stillproof.nowhere.at_all")


def test_a_formula_is_followed_by_the_function_that_computes_it() -> None:
    """Of the theory page: between two headings with a formula stands at least one name of ours."""
    sections = re.split(r"^#{2,3} ", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    without = [part.splitlines()[0] for part in sections if "```math" in part and not NAME.search(part)]
    # The reverse divergence does not come along: its page writes it.
    assert without == ["Reverse divergence"]
