import hashlib
import json
from pathlib import Path

import pytest
from bench.lineage.mutations import shipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillproof.errors import CustodyError, InputError, OutputExistsError
from stillproof.lineage.merkle import holds, prove, root_of
from stillproof.lineage.signature import create_signing_key, sign_folder, signed_files
from stillproof.trace.certificate import verify_folder

KEY = b"k" * 32


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("ship")
    create_signing_key(work / "signer.pem")
    return shipped(work, work / "signer.pem"), work / "signer.pem.pub"


def test_a_shipped_folder_is_whole_and_signed_by_its_key(signed: tuple[Path, Path]) -> None:
    folder, key = signed
    result = verify_folder(folder, key)
    assert (result["whole"], result["signature"], result["gate"]) == (True, "valid", None)
    assert result["exchanges"]["n"] == 1_000
    names = {path.name for path in folder.iterdir()}
    assert {"bom.cdx.json", "model.sig", "model.pub", "LICENSE", "README.md", "stillproof.json"} <= names


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_every_changed_byte_of_every_file_is_caught(signed: tuple[Path, Path], data: st.DataObject) -> None:
    folder, key = signed
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    whole = path.read_bytes()
    at, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        assert verify_folder(folder, key)["gate"] is not None
    finally:
        path.write_bytes(whole)


def test_a_file_added_or_taken_away_and_a_signature_taken_away_are_seen(signed: tuple[Path, Path]) -> None:
    folder, key = signed
    (folder / "extra.bin").write_bytes(b"x")
    assert verify_folder(folder, key)["differences"] == [
        {"path": "extra.bin", "kind": "extra", "expected": None, "found": hashlib.sha256(b"x").hexdigest()}
    ]
    (folder / "extra.bin").unlink()
    kept = (folder / "model.sig").read_bytes()
    (folder / "model.sig").unlink()
    try:
        assert "taken away" in verify_folder(folder)["gate"]
    finally:
        (folder / "model.sig").write_bytes(kept)


def test_a_folder_signed_anew_by_another_key_fails_against_the_owners(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, key = signed
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name not in ("model.sig", "model.pub"):
            (copy / path.name).write_bytes(path.read_bytes())
    create_signing_key(tmp_path / "thief.pem")
    sign_folder(copy, tmp_path / "thief.pem")
    assert verify_folder(copy)["signature"] == "valid"
    assert verify_folder(copy)["key_pinned"] is False
    assert verify_folder(copy, key)["signature"] == "invalid"


def test_a_wrong_key_file_a_second_signature_and_a_link_are_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = signed
    with pytest.raises(CustodyError, match="not a private key"):
        sign_folder(folder, key)
    create_signing_key(tmp_path / "k.pem")
    with pytest.raises(OutputExistsError):
        sign_folder(folder, tmp_path / "k.pem")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(key)
    with pytest.raises(InputError, match="link"):
        sign_folder(linked, tmp_path / "k.pem")


@pytest.mark.parametrize("text", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"dsseEnvelope": 3}'])
def test_a_broken_signature_file_is_an_error_of_ours(tmp_path: Path, text: bytes) -> None:
    create_signing_key(tmp_path / "k.pem")
    (tmp_path / "model.sig").write_bytes(text)
    with pytest.raises(InputError):
        signed_files(tmp_path, tmp_path / "k.pem.pub")


def test_the_ml_bom_is_valid_cyclonedx_1_7(signed: tuple[Path, Path]) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    text = (signed[0] / "bom.cdx.json").read_text()
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_7).validate_str(text) is None
    assert json.loads(text)["metadata"]["component"]["pedigree"]["ancestors"][0]["name"] == "acme/teacher"


# --- root over exchanges --------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_every_exchange_can_be_proved_and_no_other(n: int, data: st.DataObject) -> None:
    contents = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(n)]
    at = data.draw(st.integers(0, n - 1))
    proof, root = prove(KEY, contents, at), root_of(KEY, contents)["root"]
    assert holds(proof, contents[at], root)
    assert not holds(proof, hashlib.sha256(b"other").hexdigest(), root)


def test_the_order_and_the_key_are_in_the_root() -> None:
    contents = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(5)]
    roots = {root_of(key, order)["root"] for key in (KEY, b"o" * 32) for order in (contents, contents[::-1])}
    assert len(roots) == 4
    with pytest.raises(InputError):
        root_of(KEY, [])
    with pytest.raises(InputError):
        prove(KEY, contents, 5)
