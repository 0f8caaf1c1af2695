import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stillproof import plugins
from stillproof.errors import ConfigError

GROUP = "stillproof.teachers"

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package into a folder on sys.path, with entry points in the group."""

    def install(package: str, entries: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")
        (folder / f"{package}.py").write_text("def open_teacher(config):\n    return config\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install


def test_a_plug_in_is_loaded_by_its_name(install: Install) -> None:
    install("plugin_one", "oracle = plugin_one:open_teacher")
    loaded = plugins.load(GROUP, "oracle")
    assert callable(loaded)
    assert loaded("config") == "config"


def test_names_are_listed_without_importing_the_plug_ins(install: Install) -> None:
    install("plugin_two", "zeta = no_such_module:x\nalpha = plugin_two:open_teacher")
    assert plugins.names(GROUP) == ("alpha", "zeta")
    assert "plugin_two" not in sys.modules


def test_a_mistyped_name_is_answered_with_the_near_ones(install: Install) -> None:
    install("plugin_three", "oracle = plugin_three:open_teacher")
    with pytest.raises(ConfigError, match="did you mean 'oracle'"):
        plugins.load(GROUP, "orcale")


def test_without_any_plug_in_the_error_says_that_none_is_installed() -> None:
    with pytest.raises(ConfigError, match="none is installed"):
        plugins.load(GROUP, "oracle")


def test_a_name_that_two_packages_offer_is_refused_and_both_are_named(install: Install) -> None:
    install("plugin_four", "oracle = plugin_four:open_teacher")
    install("plugin_five", "oracle = plugin_five:open_teacher")
    with pytest.raises(ConfigError, match="plugin_five, plugin_four"):
        plugins.load(GROUP, "oracle")


def test_what_a_broken_plug_in_raises_passes_through(install: Install) -> None:
    install("plugin_six", "broken = no_such_module:open_teacher")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        plugins.load(GROUP, "broken")
