"""L2: single-byte mutations of a shipped, signed folder. `python -m bench.lineage.mutations [N]`

Ships a stand-in model of a few files, signs it, then flips one byte at a time, anywhere in any file, signature and
manifest included, with the signer's public key held outside. Prints how many were caught, and the seconds of one
certificate (card, ML-BOM, root over 1,000 exchanges, manifest, signature) and of one verification.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from stillproof import terms
from stillproof.config import DistillConfig
from stillproof.distill.ship import Exchanges, ship
from stillproof.lineage.signature import create_signing_key
from stillproof.teacher import Identity
from stillproof.trace.certificate import verify_folder


class Written:
    """A stand-in for a model or tokenizer: writes one file."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content

    def save_pretrained(self, save_directory: str) -> None:
        Path(save_directory, self.name).write_bytes(self.content)


def shipped(work: Path, key: Path) -> Path:
    order = work / "order.json"
    order.write_text("[0, 1, 2]")
    verdict = terms.ask(
        licence="llama3.1", provider=None, model="t", declared_by="card", grant=None, today=date(2026, 11, 24)
    )
    return ship(
        Written("model.safetensors", random.Random(1).randbytes(5_000)),
        Written("tokenizer.json", b'{"version": "1.0"}'),
        out=work / "student",
        name="Llama-student",
        identity=Identity(model="acme/teacher", kind="weights", weights="e" * 64, licence="llama3.1"),
        init=None,
        verdict=verdict,
        config=DistillConfig(),
        retention={"kl_student_nats": 0.7, "kl_student_nats_interval": [0.6, 0.8]},
        data={"sources": [{"name": "prompts", "digest": "a" * 64}], "n_documents": 1_000, "n_tokens": 9},
        data_order=order,
        created=datetime.now(UTC),
        exchanges=Exchanges([hashlib.sha256(str(at).encode()).hexdigest() for at in range(1_000)], b"k" * 32),
        signing_key=key,
    )


def measured(n: int) -> dict[str, Any]:
    """`n` mutations, one at a time, of one folder."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        create_signing_key(work / "signer.pem")
        public = work / "signer.pem.pub"
        (work / "first").mkdir()
        shipped(work / "first", work / "signer.pem")  # imports what is imported late
        started = time.perf_counter()
        folder = shipped(work, work / "signer.pem")
        ship_s = time.perf_counter() - started
        started = time.perf_counter()
        clean = verify_folder(folder, public)
        verify_s = time.perf_counter() - started
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        places = [(path, at) for path in files for at in range(path.stat().st_size)]
        draw = random.Random(7)
        missed: list[list[str | int]] = []
        for path, at in (draw.choice(places) for _ in range(n)):
            whole = path.read_bytes()
            path.write_bytes(whole[:at] + bytes([whole[at] ^ draw.randrange(1, 256)]) + whole[at + 1 :])
            if verify_folder(folder, public)["gate"] is None:
                missed.append([path.name, at])
            path.write_bytes(whole)
    return {
        "clean_gate": clean["gate"],
        "mutations": n,
        "caught": n - len(missed),
        "missed": missed[:20],
        "bytes": len(places),
        "certificate_s": ship_s,
        "verify_s": verify_s,
    }


def main(n: int) -> int:
    result = measured(n)
    print(json.dumps(result, indent=2))
    return 1 if result["missed"] or result["clean_gate"] else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
