"""The house's rules that a program can check. The layers themselves are checked by import-linter in `make check`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stillproof

SOURCE = Path(stillproof.__file__).parent
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
MAX_LINES = 600
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "types", "misc", "manager"}
TORCH_FREE = (
    "errors",
    "config",
    "plugins",
    "progress",
    "allocator",
    "device",
    "stats",
    "exchange",
    "finding",
    "terms",
    "store",
    "report",
    "serve",
    "teacher",
    "watermark",
    "canary",
    "guard",
    "doctor",
    "cli",
)


def loaded_by(statements: str) -> set[str]:
    """The top-level packages in memory after these statements, in a Python of their own."""
    code = f"{statements}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def imports(name: str) -> str:
    return f"import stillproof.{name}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import stillproof") & {"torch", "transformers", "pyarrow", "pydantic", "numpy", "rich"} == set()


def test_modules_that_need_no_model_load_no_torch() -> None:
    statements = "\n".join(imports(name) for name in TORCH_FREE)
    assert loaded_by(statements) & {"torch", "transformers", "scipy", "openai"} == set()


def test_every_name_the_package_offers_exists() -> None:
    for name in stillproof.__all__:
        assert getattr(stillproof, name) is not None, name
        assert name in dir(stillproof)


def test_a_name_the_package_does_not_offer_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Exchagne'"):
        stillproof.Exchagne  # noqa: B018


def test_names_offered_are_those_that_a_type_checker_sees() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(stillproof.__all__) - {"__version__"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_is_named_for_what_it_does(module: Path) -> None:
    assert FORBIDDEN_NAMES.isdisjoint({*module.parent.parts, module.stem})


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_stays_short_and_opens_with_what_it_is_for(module: Path) -> None:
    text = (SOURCE / module).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))
