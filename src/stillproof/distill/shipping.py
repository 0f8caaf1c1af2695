"""The last stage of a run: the student as a folder for the world, and what of the run may stand in it.

Paths, hosts and keys of the machine that trained it do not.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stillproof.config import DistillConfig
from stillproof.distill.run_folder import Run
from stillproof.errors import InputError
from stillproof.exchange import content_hash, sha256_of
from stillproof.progress import Event

UNSIGNED = "the student is not signed: set ship.signing_key, or run `stillproof trace sign {} --key FILE`"


def ship_stage(run: Run) -> dict[str, Any]:
    """The student as a folder that transformers loads, signed where `ship.signing_key` is set.

    Raises InputError where it was not evaluated.
    """
    from stillproof.distill.ship import Exchanges, ship
    from stillproof.lineage.signature import signed_files
    from stillproof.store.pseudonym import create_key, read_key

    measured = run.out / "retention.json"
    if not measured.exists():
        raise InputError("not evaluated yet", str(run.out), "run the stage eval first")
    folder = run.out / "student"
    shutil.rmtree(folder, ignore_errors=True)
    train, key = run.parted.train, run.config.ship.signing_key
    signing_key = None if key is None else Path(key)
    # Beside the student, never in it: with it single exchanges can be proved, and tried.
    salt = run.out / "exchanges_salt.key"
    salt_key = read_key(salt) if salt.exists() else create_key(salt)
    ship(
        run.trained("train"),
        run.tokenizer,
        out=folder,
        name=run.config.name,
        identity=run.identity,
        init=replace(run.start, detail=_layers_of(run)),
        verdict=run.verdict,
        config=_without_local_paths(run.config),
        retention=json.loads(measured.read_text(encoding="utf-8")),
        data={
            "sources": [{"name": _public(train.source), "digest": train.digest, "text": run.config.data.text}],
            "n_documents": len(train.items),
            "n_tokens": run.rows.n_tokens,
            "rows_digest": run.rows.digest,
        },
        data_order=_data_order(run),
        created=datetime.now(UTC),
        exchanges=Exchanges([content_hash(item) for item in run.text(train.items)], salt_key),
        signing_key=signing_key,
    )
    signed_by = None if signing_key is None else signed_files(folder, None)[1]
    if signed_by is None:
        run.on_event(Event(stage="ship", done=1, total=1, note=UNSIGNED.format(folder)))
    return {"student_dir": str(folder), "signed_by": signed_by}


def _data_order(run: Run) -> Path:
    """Which rows each step read: a student carries the order of its data, so that its descent can be tested."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stillproof.distill.train import schedule

    steps = schedule(len(run.rows), run.config.train, run.config.seed)
    row = np.concatenate(steps)
    step = np.repeat(np.arange(len(steps)), [len(batch) for batch in steps])
    digests = [sha256_of(ids.tolist()) for ids in run.rows.input_ids]
    columns = {"step": pa.array(step, pa.int32()), "row": pa.array(row, pa.int32())}
    columns["row_sha256"] = pa.array([digests[number] for number in row]).dictionary_encode()
    path = run.out / "data_order.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def _layers_of(run: Run) -> str | None:
    """Which layers the student kept, in words; None where it is another model."""
    if run.config.student.model is not None:
        return None
    n = _n_layers(run)
    return f"layers {', '.join(map(str, run.layers_kept(n) or ()))} of {n}"


def _n_layers(run: Run) -> int:
    from stillproof.teacher.weights import load_weights

    return int(load_weights(run.start_source)[0].config.num_hidden_layers)


def _without_local_paths(config: DistillConfig) -> DistillConfig:
    """The config as it may be published: paths on this machine reduced to their last part, hosts left out."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: public(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [public(inner) for inner in value]
        return _public(value) if isinstance(value, str) else value

    values = public(config.model_dump(mode="json"))
    values["teacher"]["base_urls"] = []
    values["ship"]["signing_key"] = None
    values["terms"]["parents"] = {name: Path(folder).name for name, folder in config.terms.parents.items()}
    return DistillConfig.model_validate(values)


def _public(text: str) -> str:
    return Path(text).name if "://" not in text and ("/" in text or "\\" in text) and Path(text).exists() else text
