"""The teacher's next-token distributions on a fixed text, computed once and stored sparsely.

For each learned position: the k likeliest tokens with their log-probabilities at temperature 1, and the mass of all
other tokens. A folder of shards (Arrow IPC, fixed-size columns over flat buffers) and a manifest that says what
teacher, tokenizer, chat template and rows they belong to, and how faithful the sparse form is to the full
distribution on a sample of positions.

Each shard appears whole or not at all, so a killed run goes on at the first shard that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import InputError, MismatchError
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.distill.losses import SparseTargets
    from stillproof.distill.pack import Rows

SCHEMA = "stillproof.cache/1"
MANIFEST = "cache.json"


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a cache belongs to. Two caches of the same key hold the same targets."""

    teacher: str
    """Digest of the teacher's identity (its weights among it)."""
    tokenizer: str | None
    chat_template: str | None
    rows: str
    """`Rows.digest`"""
    n_vocab: int
    top_k: int
    dtype: str
    terms: str | None
    """Id of the terms record under which the teacher may be used so."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What training reads from the shards, against full distributions with an fp32 head, on rows drawn at random."""

    n_positions: int
    covered_mass_mean: float
    covered_mass_p05: float
    """5% of positions have less of their mass among the k stored tokens."""
    rounding_l1_mean: float
    """Sum over stored tokens of |p stored - p exact|: what half precision costs, in the head and in storage."""
    kl_uniform_tail_nats: float
    """KL(full || stored with the tail spread evenly): what is lost where the tail's shape matters."""


class Cache:
    """Targets of the rows they were made for. Shards are memory-mapped; a batch is a gather."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = _read_manifest(folder)
        shards = [_open_shard(folder / name) for name in self.manifest["shards"]]
        self._top_ids = [shard["top_ids"] for shard in shards]
        self._top_logprobs = [shard["top_logprobs"] for shard in shards]
        self._tail_mass = [shard["tail_mass"] for shard in shards]
        self._rows_per_shard: int = self.manifest["rows_per_shard"]
        self._row_offset = np.asarray(self.manifest["row_offset"], dtype=np.int64)

    @property
    def key(self) -> CacheKey:
        return CacheKey(**self.manifest["key"])

    def check(self, key: CacheKey) -> None:
        """Raise MismatchError that names what differs, unless this cache was made for `key`."""
        _check_key(self.manifest["key"], key, self.folder)

    def targets(self, rows: np.ndarray) -> SparseTargets:
        """The targets of some rows' learned positions, in row-major order. Shapes [n, k], [n, k], [n]."""
        import torch

        from stillproof.distill.losses import SparseTargets

        ids: list[np.ndarray] = []
        logprobs: list[np.ndarray] = []
        tail: list[np.ndarray] = []
        for row in rows:
            shard = int(row) // self._rows_per_shard
            base = self._row_offset[shard * self._rows_per_shard]
            span = slice(self._row_offset[row] - base, self._row_offset[row + 1] - base)
            ids.append(self._top_ids[shard][span])
            logprobs.append(self._top_logprobs[shard][span])
            tail.append(self._tail_mass[shard][span])
        top = np.concatenate(logprobs).astype(np.float32)
        tail_mass = np.concatenate(tail)
        # Half precision can leave the k masses a little above 1: what is learned sums to 1 exactly.
        total = np.exp(top).sum(1) + tail_mass
        return SparseTargets(
            torch.from_numpy(np.concatenate(ids).astype(np.int64)),
            torch.from_numpy(top - np.log(total)[:, None]),
            torch.from_numpy(tail_mass / total),
        )


def is_complete(folder: Path, key: CacheKey) -> bool:
    """Whether `folder` holds a finished, audited cache of `key`. Raises MismatchError for one of another key."""
    path = folder / MANIFEST
    if not path.exists():
        return False
    manifest = json.loads(path.read_text(encoding="utf-8"))
    _check_key(manifest["key"], key, folder)
    return "fidelity" in manifest


def build(
    teacher: Any,
    rows: Rows,
    key: CacheKey,
    folder: Path,
    *,
    batch_rows: int = 8,
    audit_share: float = 0.005,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> Cache:
    """Score `rows` with the teacher and store its targets in `folder`; go on where an earlier call was stopped.

    Raises MismatchError where the folder holds targets of another teacher, tokenizer or text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows_per_shard = batch_rows * 8
    manifest = _begin(folder, rows, key, rows_per_shard)
    n_shards = -(-len(rows) // rows_per_shard)
    started, n_before = time.monotonic(), 0
    done_tokens = 0
    for number in range(n_shards):
        part = rows.take(slice(number * rows_per_shard, (number + 1) * rows_per_shard))
        path = folder / _shard_name(number)
        done_tokens += part.input_ids.size
        if path.exists():
            n_before += part.input_ids.size
        else:
            _write_shard(path, *_score(teacher, part, key, batch_rows))
        rate = (done_tokens - n_before) / max(time.monotonic() - started, 1e-9)
        left = rows.input_ids.size - done_tokens
        on_event(
            Event(
                stage="cache",
                done=done_tokens,
                total=rows.input_ids.size,
                unit="tokens",
                rate=rate if rate else None,
                eta_s=left / rate if rate else None,
            )
        )
    if "shards" not in manifest:
        manifest["shards"] = {_shard_name(n): _sha256(folder / _shard_name(n)) for n in range(n_shards)}
        manifest["bytes"] = sum((folder / name).stat().st_size for name in manifest["shards"])
        _write_json(folder / MANIFEST, manifest)
    if "fidelity" not in manifest:
        audited = _audit(teacher, rows, Cache(folder), audit_share, seed)
        manifest["fidelity"] = None if audited is None else asdict(audited)
        _write_json(folder / MANIFEST, manifest)
    return Cache(folder)


def _begin(folder: Path, rows: Rows, key: CacheKey, rows_per_shard: int) -> dict[str, Any]:
    """The manifest of a new or half-made cache; the key is on disk before the first shard is."""
    path = folder / MANIFEST
    if path.exists():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _check_key(manifest["key"], key, folder)
        if manifest["rows_per_shard"] != rows_per_shard:
            raise MismatchError("was begun with another cache.batch_rows", str(folder), "delete it, or set it back")
        return manifest
    offset = np.concatenate([[0], rows.targets_mask.sum(1).cumsum()])
    manifest = {
        "schema": SCHEMA,
        "key": asdict(key),
        "n_rows": len(rows),
        "n_positions": int(offset[-1]),
        "rows_per_shard": rows_per_shard,
        "row_offset": offset.tolist(),
        "temperature": 1.0,
    }
    _write_json(path, manifest)
    return manifest


def _score(teacher: Any, rows: Rows, key: CacheKey, batch_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Top ids [n, k], their log-probabilities [n, k] as float16, and the tail mass [n] of the learned positions."""
    import torch

    from stillproof.distill.forward import full_logits

    ids: list[np.ndarray] = []
    logprobs: list[np.ndarray] = []
    tail: list[np.ndarray] = []
    for start in range(0, len(rows), batch_rows):
        for logits in full_logits(teacher, rows.take(slice(start, start + batch_rows)), key.n_vocab, key.dtype):
            top, top_ids = logits.topk(min(key.top_k, key.n_vocab), dim=1)
            normaliser = logits.logsumexp(1, keepdim=True)
            stored = (top - normaliser).half()
            ids.append(top_ids.to(torch.int32).numpy())
            logprobs.append(stored.numpy())
            # From the rounded values, so that what rounding took from the k tokens is in the tail.
            tail.append((1.0 - stored.float().exp().sum(1)).clamp_min(0.0).numpy())
    if not ids:
        empty = np.empty((0, key.top_k))
        return empty.astype(np.int32), empty.astype(np.float16), np.empty(0, np.float32)
    return np.concatenate(ids), np.concatenate(logprobs), np.concatenate(tail)


def _audit(teacher: Any, rows: Rows, cache: Cache, share: float, seed: int) -> Fidelity | None:
    """Compare what is stored with full distributions on whole rows drawn at random, about `share` of all.

    None where nothing was to be audited.
    """
    import torch

    from stillproof.distill.forward import arithmetic, head_weight, hidden_states

    if share == 0:
        return None
    key = cache.key
    generator = np.random.Generator(np.random.Philox(seed))
    n_rows = min(max(1, round(share * len(rows))), len(rows))
    covered: list[torch.Tensor] = []
    rounding: list[torch.Tensor] = []
    kl: list[torch.Tensor] = []
    for row in np.sort(generator.choice(len(rows), size=n_rows, replace=False)):
        part = rows.take([int(row)])
        if part.n_targets == 0:
            continue
        with torch.inference_mode(), arithmetic(teacher.device.type, key.dtype):
            hidden = hidden_states(teacher, part)
        with torch.inference_mode():
            logp = (hidden.float() @ head_weight(teacher)[: key.n_vocab].float().T).log_softmax(1).cpu()
        stored = cache.targets(np.array([row]))
        exact = logp.gather(1, stored.top_ids)
        spread = (stored.tail_mass / max(key.n_vocab - stored.top_ids.shape[1], 1)).clamp_min(1e-30).log()
        whole = spread[:, None].expand_as(logp).clone().scatter_(1, stored.top_ids, stored.top_logprobs)
        covered.append(exact.exp().sum(1))
        rounding.append((stored.top_logprobs.exp() - exact.exp()).abs().sum(1))
        kl.append((logp.exp() * (logp - whole)).sum(1))
    if not covered:
        return None
    covered_all = torch.cat(covered)
    return Fidelity(
        len(covered_all),
        float(covered_all.mean()),
        float(covered_all.quantile(0.05)),
        float(torch.cat(rounding).mean()),
        float(torch.cat(kl).mean()),
    )


# --- files ----------------------------------------------------------------------------------------------------


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def _write_shard(path: Path, top_ids: np.ndarray, top_logprobs: np.ndarray, tail_mass: np.ndarray) -> None:
    import pyarrow as pa

    n, k = top_ids.shape
    narrow = top_ids.astype(np.uint16) if n == 0 or top_ids.max() < 1 << 16 else top_ids.astype(np.uint32)
    batch = pa.record_batch(
        {
            "top_ids": pa.FixedSizeListArray.from_arrays(pa.array(narrow.reshape(-1)), k),
            "top_logprobs": pa.FixedSizeListArray.from_arrays(pa.array(top_logprobs.reshape(-1)), k),
            "tail_mass": pa.array(tail_mass.astype(np.float32)),
        }
    )
    temporary = path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    _replace(temporary, path)


def _open_shard(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa

    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"not a cache shard: {error}", str(path), "delete the shard and run cache again") from error
    n = batch.num_rows
    flat = {name: batch.column(name).flatten().to_numpy() for name in ("top_ids", "top_logprobs")}
    columns = {name: column.reshape(n, -1) for name, column in flat.items()}
    return columns | {"tail_mass": batch.column("tail_mass").to_numpy()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        raise InputError("no cache here", str(folder), "run `stillproof distill cache` first")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("schema") != SCHEMA:
        raise MismatchError(f"cache schema {manifest.get('schema')!r}, this version reads {SCHEMA!r}", str(path))
    if "shards" not in manifest:
        raise InputError("the cache is half made", str(folder), "run the cache stage again with --if-exists resume")
    for name, digest in manifest["shards"].items():
        if not (folder / name).exists() or _sha256(folder / name) != digest:
            raise MismatchError(
                "a shard is missing or was changed", str(folder / name), "delete the cache, make it anew"
            )
    return manifest


def _check_key(found: dict[str, Any], wanted: CacheKey, folder: Path) -> None:
    differing = [name for name, value in asdict(wanted).items() if found.get(name) != value]
    if differing:
        raise MismatchError(
            f"the cache was made with another {', '.join(differing)}",
            str(folder),
            "make it anew with `stillproof distill cache --if-exists replace`, or use another --out",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    _replace(temporary, path)


def _replace(temporary: Path, path: Path) -> None:
    """Make the temporary file the real one, durably: after a crash it is there whole, or not at all."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
