"""A signature over every file of a model's folder, with the user's own key, in OpenSSF model-signing's format.

`model.sig` is a Sigstore bundle (v0.3) around a DSSE envelope, whose payload is an in-toto statement that lists the
SHA-256 of each file. `model_signing verify key` of the package model-signing 1.1 reads it, and needs a hundred
megabytes of dependencies to do so; this module needs the extra [sign], the package `cryptography`, alone. Keys are
NIST P-256 in PEM files: model-signing takes no Ed25519.

What holds: nobody without the private key can change a byte of any file, of the list or of the signature unseen. Whose
key it is, no signature says: get the public key from its owner, not from the folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.errors import CustodyError, InputError, OutputExistsError
from stillproof.lineage.manifest import file_sha256
from stillproof.plugins import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNATURE = "model.sig"
PUBLIC_KEY = "model.pub"
MAX_SIGNATURE_BYTES = 50_000_000

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"


class BadSignature(InputError):
    """What in a signature does not hold."""


def create_signing_key(path: Path) -> str:
    """A new P-256 key: the private half at `path`, readable by its owner alone, the public half beside it (.pub).

    Returns the SHA-256 of the public half, its name in signatures. Raises OutputExistsError where a file is there.
    """
    require("cryptography", "sign", "signatures")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = path.with_name(path.name + ".pub")
    for file, text, mode in ((path, private, 0o600), (public, _public_pem(key.public_key()), 0o644)):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise OutputExistsError("a key is there already", str(file), "give another path") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text)
    return _name(key.public_key())


def check_signing_key(key_file: Path) -> None:
    """Raise CustodyError where `sign_folder` could not sign with this file, MissingExtraError where not at all."""
    require("cryptography", "sign", "signatures")
    _private_key(key_file)


def sign_folder(folder: Path, key_file: Path, name: str | None = None) -> str:
    """Sign every file of the folder; writes model.sig, and model.pub for convenience. Returns the key's name.

    name: what the statement calls the model; without it the folder's own name.
    Raises CustodyError for a key file that is none, OutputExistsError where the folder is signed already.
    """
    require("cryptography", "sign", "signatures")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _private_key(key_file)
    if (folder / SIGNATURE).exists():
        raise OutputExistsError("the folder is signed already", str(folder / SIGNATURE), "remove it to sign anew")
    (folder / PUBLIC_KEY).write_bytes(_public_pem(key.public_key()))
    payload = json.dumps(_statement(name or folder.resolve().name, digests(folder)), indent=2).encode()
    signature = key.sign(_pae(payload), ec.ECDSA(hashes.SHA256()))
    (folder / SIGNATURE).write_bytes(_bundle(payload, signature, _name(key.public_key())))
    return _name(key.public_key())


def signed_files(folder: Path, public_key: Path | None) -> tuple[dict[str, str], str]:
    """The SHA-256 of each file as signed, and the key's name; the files themselves are not read.

    public_key: PEM file of the key that must have signed; None takes model.pub from the folder, which proves that the
    folder is as its signer left it and not who that was.
    Raises BadSignature, which names what does not hold; every byte of model.sig counts.
    """
    require("cryptography", "sign", "signatures")
    key = _public_key(folder / PUBLIC_KEY if public_key is None else public_key)
    raw = _limited(folder / SIGNATURE)
    try:
        row = json.loads(raw)
        envelope = row["dsseEnvelope"]
        (entry,) = envelope["signatures"]
        payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(entry["sig"])
        hint = row["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSignature(f"model.sig cannot be read: {type(error).__name__}", str(folder / SIGNATURE)) from None
    name = _name(key)
    # One signature has one file: base64's spare bits, spaces and other spellings of JSON would change a byte unseen.
    if hint != name:
        raise BadSignature(f"signed by the key {hint!r}, not by {name}", str(folder / SIGNATURE))
    if raw != _bundle(payload, signature, name):
        raise BadSignature("model.sig was rewritten", str(folder / SIGNATURE))
    _check(key, payload, signature, folder)
    return _resources(payload, folder), name


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder but model.sig, by relative path. Raises InputError for a link."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise InputError("a link in a model's folder", name, "put the file itself there")
        if path.is_file() and name != SIGNATURE:
            found[name] = file_sha256(path)
    return found


# --- format ---------------------------------------------------------------------------------------------------


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The in-toto statement that model-signing 1.1 makes over whole files."""
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": file, "algorithm": "sha256", "digest": digest} for file, digest in ordered],
        },
    }


def _resources(payload: bytes, folder: Path) -> dict[str, str]:
    try:
        statement = json.loads(payload)
        files = {row["name"]: row["digest"] for row in statement["predicate"]["resources"]}
        whole = _statement(statement["subject"][0]["name"], files)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadSignature(f"the signed statement is of another form: {error}", str(folder / SIGNATURE)) from None
    if statement != whole:
        raise BadSignature("the signed statement is of another form", str(folder / SIGNATURE))
    return files


def _bundle(payload: bytes, signature: bytes, name: str) -> bytes:
    row: dict[str, Any] = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": name}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return (json.dumps(row, indent=2) + "\n").encode()


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _check(key: EllipticCurvePublicKey, payload: bytes, signature: bytes, folder: Path) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key.verify(signature, _pae(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise BadSignature("the signature does not hold for this key", str(folder / SIGNATURE)) from None


# --- keys -----------------------------------------------------------------------------------------------------


def _private_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise CustodyError("no such key file", str(path), "make one with `stillproof trace signing-key`") from None
    except (ValueError, TypeError) as error:
        raise CustodyError(f"not a private key without password: {error}", str(path), "give a P-256 key, PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise CustodyError("not a P-256 key", str(path), "make one with `stillproof trace signing-key`")
    return key


def _public_key(path: Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        raw = _limited(path)
        key = serialization.load_pem_public_key(raw)
    except ValueError as error:
        raise BadSignature(f"not a public key: {error}", str(path), "give a P-256 key, PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadSignature("not a P-256 public key", str(path), "give the signer's .pub file")
    return key


def _limited(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise BadSignature("no such file", str(path), "the folder is not signed, or the file was lost") from None
    if len(raw) > MAX_SIGNATURE_BYTES:
        raise BadSignature("too large", str(path), "give a signature or key file")
    return raw


def _public_pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _name(key: EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_public_pem(key)).hexdigest()
