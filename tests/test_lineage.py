import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.errors import InputError, SchemaError
from stillproof.lineage import (
    MANIFEST,
    Difference,
    Manifest,
    Parent,
    claims,
    declared,
    file_sha256,
    read_manifest,
    verify_manifest,
    write_manifest,
)

PARENT = Parent("distilled_from", "acme/teacher", "d" * 64, None, "apache-2.0", {"decision": "allow"}, None, None)
BLANK = Manifest(
    name="student",
    created="2026-11-24T00:00:00+00:00",
    version="0.1.0",
    parents=(PARENT, replace(PARENT, relation="initialised_from", grant={"id": "g"}, detail="layers 0, 2 of 4")),
    data={"sources": [{"name": "python-docs", "digest": "a" * 64}], "n_tokens": 10, "n_documents": 2},
    config={"seed": 7},
    data_order={"file": "data_order.json", "sha256": "b" * 64},
    retention={"kl_student_nats": 0.7, "kl_student_nats_interval": [0.6, 0.8], "exact_match_student": None},
    files={},
    extra={},
)


def make(folder: Path) -> Path:
    (folder / "deep").mkdir()
    (folder / "a.bin").write_bytes(b"weights")
    (folder / "deep" / "b.txt").write_text("text")
    write_manifest(folder, BLANK)
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"weights")
    written = write_manifest(tmp_path, BLANK)
    assert read_manifest(tmp_path) == written
    assert written.files["a.bin"].sha256 == file_sha256(tmp_path / "a.bin")
    assert written.files["a.bin"].bytes == 7


def test_an_untouched_folder_has_no_differences(tmp_path: Path) -> None:
    assert verify_manifest(make(tmp_path)) == []


def test_changed_missing_and_extra_files_are_each_named(tmp_path: Path) -> None:
    make(tmp_path)
    was = file_sha256(tmp_path / "a.bin")
    text = file_sha256(tmp_path / "deep" / "b.txt")
    (tmp_path / "a.bin").write_bytes(b"weightz")
    (tmp_path / "deep" / "b.txt").rename(tmp_path / "c.txt")
    assert verify_manifest(tmp_path) == [
        Difference("a.bin", "changed", was, file_sha256(tmp_path / "a.bin")),
        Difference("c.txt", "extra", None, text),
        Difference("deep/b.txt", "missing", text, None),
    ]


@given(st.integers(0, 6), st.integers(1, 255))
def test_every_changed_byte_is_seen(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    folder = make(tmp_path_factory.mktemp("m"))
    content = bytearray((folder / "a.bin").read_bytes())
    content[position] ^= flip
    (folder / "a.bin").write_bytes(content)
    assert [difference.path for difference in verify_manifest(folder)] == ["a.bin"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "./a", "a//b", MANIFEST])
def test_a_manifest_that_points_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    rewrite(tmp_path, files={name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(InputError, match="not that of a shipped file"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_a_broken_manifest_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        read_manifest(tmp_path)


def test_a_foreign_schema_is_refused_and_an_absent_manifest_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        read_manifest(tmp_path)
    make(tmp_path)
    rewrite(tmp_path, schema="stillproof.manifest/99")
    with pytest.raises(SchemaError, match="manifest/99"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"parents": [{}]}, {"parents": 3}, {"files": []}, {"parents": [{**{"relation": "cousin_of"}, "model": "m"}]}],
)
def test_a_manifest_of_the_wrong_shape_is_an_input_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    make(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_link_to_a_folder_outside_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(outside, target_is_directory=True)
    assert write_manifest(folder, BLANK).files == {}


def card(folder: Path, front: str) -> dict[str, Any]:
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\nlicense: mit\n", encoding="utf-8")
    return declared(folder)


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ('license: "llama3.1"', "llama3.1"),
        ("license: 'mit' # ours", "mit"),
        ("license: mit # ours", "mit"),
        ("license:\n- mit", "mit"),
        ("license: [mit]", "mit"),
        ("license: [mit, apache-2.0]", "mit AND apache-2.0"),
        ("license: other\nlicense_name: qwen-research", "qwen-research"),
        ("license: other", "other"),
        ("license: &a mit", None),
        ("license: |\n  mit", None),
        ("extra: |\n  license: mit", None),
        ("tags: [a]", None),
    ],
)
def test_the_licence_is_what_the_cards_front_matter_declares_and_nothing_else(
    tmp_path: Path, front: str, licence: str | None
) -> None:
    found = card(tmp_path, front)
    assert found["licence"] == licence
    assert found["declared_by"] == ("model card" if licence else None)


def test_base_models_come_as_a_list_whether_one_or_several(tmp_path: Path) -> None:
    assert card(tmp_path, "base_model: acme/a")["base_model"] == ["acme/a"]
    assert card(tmp_path, "base_model:\n  - acme/a\n  - acme/b\nlicense: mit")["base_model"] == ["acme/a", "acme/b"]
    assert card(tmp_path, "license: mit")["base_model"] == []


def test_a_folder_without_a_card_may_declare_in_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"license": "mit", "model_type": "llama"}')
    found = declared(tmp_path)
    assert (found["licence"], found["declared_by"], found["architecture"]) == ("mit", "config", "llama")


def test_what_cannot_be_read_is_said_and_declares_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n")
    (tmp_path / MANIFEST).write_text("{}")
    found = declared(tmp_path)
    assert found["licence"] is None
    assert len(found["faults"]) == 3


@pytest.mark.parametrize(
    "put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["folder", "pipe", "link"]
)
def test_what_is_no_plain_file_declares_nothing_and_is_not_opened(tmp_path: Path, put: Callable[[Path], None]) -> None:
    for name in ("README.md", "config.json", "stillproof.json", "adapter_config.json"):
        put(tmp_path / name)
    said = declared(tmp_path)
    assert (said["licence"], said["faults"], claims(tmp_path)) == (None, [], [])


def test_the_manifest_says_what_a_model_was_distilled_from(tmp_path: Path) -> None:
    assert declared(make(tmp_path))["distilled_from"] == ["acme/teacher"]


@given(st.binary(max_size=200))
def test_no_card_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("c")
    (folder / "README.md").write_bytes(b"---\nlicense:" + content + b"\n---\n")
    assert set(declared(folder)) >= {"licence", "faults"}
