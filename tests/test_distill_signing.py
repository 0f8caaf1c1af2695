"""`ship.signing_key`: a run that signs its student at once, and one that does not and says so."""

from pathlib import Path

import pytest
from tests.test_distill_run import config

from stillproof import distill
from stillproof.errors import CustodyError
from stillproof.lineage.signature import create_signing_key
from stillproof.progress import Event
from stillproof.trace.certificate import verify_folder


def test_a_student_is_unsigned_and_says_so_until_a_key_is_set_and_then_verifies_by_it(tmp_path: Path) -> None:
    signer, out = tmp_path / "signer.pem", tmp_path / "run"
    named = create_signing_key(signer)
    events: list[Event] = []
    result = distill.run(config(tmp_path), out, "fail", events.append)
    student = Path(result["student_dir"])
    assert result["signed_by"] is None
    assert any("not signed" in (event.note or "") for event in events)
    assert verify_folder(student)["signature"] == "absent"

    signing = config(tmp_path, ship={"signing_key": str(signer)})
    shipped = distill.stage("ship", signing, out)
    assert shipped["signed_by"] == named
    verified = verify_folder(student, signer.with_name("signer.pem.pub"))
    assert (verified["signature"], verified["signed_by"], verified["gate"]) == ("valid", named, None)
    assert verified["exchanges"]["n"] == result["data"]["n_documents"]
    for path in student.iterdir():
        assert b"signer.pem" not in path.read_bytes(), f"{path.name} names the key's file"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PUBLIC KEY-----\n"])
def test_a_key_that_cannot_sign_is_refused_before_anything_is_done(tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "k.pem"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(CustodyError):
        distill.run(config(tmp_path, ship={"signing_key": str(key)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
