"""The site builds without a warning and without a network, and a dead link, file, anchor or formula fails it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("properdocs", reason="the extra [docs]; `make test` installs it")

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//""")
ALONE = """
site_name: alone
docs_dir: docs
theme: {name: mkdocs, highlightjs: false}
plugins: []
hooks: [HOOKS]
validation: {links: {not_found: warn, anchors: warn, unrecognized_links: warn}}
"""


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "properdocs.yml", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert built.is_file(), built
    assert {path.stem for path in (site / "notebooks").glob("*.html")} == {
        path.stem for path in (ROOT / "notebooks").glob("*.ipynb")
    }


def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if FETCHED.search(page.read_text(encoding="utf-8"))] == []


def test_formulas_are_set_without_a_script(site: Path) -> None:
    source = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    page = (site / "theory.html").read_text(encoding="utf-8")
    assert page.count("<math") == source.count("```math") > 20
    assert "```" not in page


def test_a_link_to_a_file_of_the_repository_leads_to_a_copy_of_it(site: Path) -> None:
    copy = site / "source" / "src" / "stillproof" / "finding.py.txt"
    assert copy.read_bytes() == (ROOT / "src" / "stillproof" / "finding.py").read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[page](nowhere.md)", "nowhere.md"),
        ("[file](../src/nowhere.py)", "no file of the repository"),
        ("[above](../../etc/passwd)", "no file of the repository"),
        ("[part](index.md#nowhere)", "nowhere"),
        ("```math\n\\nosuchcommand{x}\n```", "cannot be set"),
    ],
)
def test_what_is_dead_fails_the_build(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Alone\n\n{text}\n", encoding="utf-8")
    config = tmp_path / "properdocs.yml"
    config.write_text(ALONE.replace("HOOKS", str(ROOT / "dev" / "docs" / "site_hooks.py")), encoding="utf-8")
    built = build(config, tmp_path / "site")
    assert built.returncode != 0
    assert says in built.stdout + built.stderr
