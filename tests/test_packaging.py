"""What a fresh clone is set up from: pyproject.toml, constraints.txt, run.py, Makefile, .ci/run."""

import ast
import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return found[0].lower()


def test_every_declared_dependency_is_pinned() -> None:
    declared = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    assert {name_of(dependency) for dependency in declared} <= {name_of(pin) for pin in PINS}


def test_pins_name_no_place_and_no_build_of_one_kind_of_machine() -> None:
    for pin in PINS:
        assert re.fullmatch(r"[a-z0-9._-]+==[^\s+/:]+( ; .+)?", pin), pin
        assert not re.match(r"nvidia|cuda|triton", pin), pin
    assert "torch==2.13.0" in PINS


def test_declared_ranges_are_ranges() -> None:
    for dependency in PROJECT["dependencies"]:
        assert ">=" in dependency and "==" not in dependency


def test_the_core_installs_no_torch() -> None:
    core = {name_of(dependency) for dependency in PROJECT["dependencies"]}
    assert core.isdisjoint({"torch", "transformers", "accelerate", "openai"})


def test_an_old_python_can_read_run_py_as_far_as_its_message() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_the_makefile_has_every_task_of_run_py() -> None:
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    tasks = re.findall(r'^    "([a-z-]+)": [a-z_]+,$', source, re.MULTILINE)
    listed = re.search(r"^TASKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == sorted(tasks)


def test_the_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
