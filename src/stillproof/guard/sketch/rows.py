"""One record batch of the log, sketched: the columns of `sketch_schema` from those of `log_schema`.

distinct values    system prompts, tools, models, clients: hashed once a batch, then looked up by row
text columns       the prompt, chunk by chunk
scalars            clipped to the width of their column
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillproof.errors import InputError, SchemaError
from stillproof.guard.log import log_schema
from stillproof.guard.sketch.keys import SKETCH_VERSION, Keys, fold, hash_strings, keys_of, salt_digest
from stillproof.guard.sketch.normalise import bytes_of, character_counts, chunks_of
from stillproof.guard.sketch.phrases import FLAG_CONVERSATION, phrase_book
from stillproof.guard.sketch.shingles import (
    N_BINS,
    N_PROJECTION,
    N_SHINGLES,
    bottom,
    minhash,
    projection,
    shingle_hashes,
)
from stillproof.guard.sketch.words import Words

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from stillproof.guard.sketch.keys import U64, Ints
    from stillproof.guard.sketch.phrases import PhraseBook

    U32 = NDArray[np.uint32]

DISTINCT = ("system", "tools", "model", "client", "network")
"""Columns with few distinct values, to be read as dictionaries."""
LINKING = ("time", "account", "unit", "fp_system", "fp_prefix8", "fp_prefix24", "fp_suffix8", "fp_skeleton", "fp_tools")
_SCALARS = (
    ("turn", 16),
    ("prompt_tokens", 32),
    ("response_tokens", 32),
    ("reasoning_tokens", 32),
    ("n_samples", 16),
    ("top_logprobs", 16),
    ("max_tokens", 32),
    ("status", 16),
)
_NO_VALUE = np.uint64(0x5F3759DF5F3759DF)


def sketch_schema() -> pa.Schema:
    """One row an exchange, 600 to 700 bytes. Fingerprints are null where the exchange has nothing to hash."""
    import pyarrow as pa

    u64, i32, i16 = pa.uint64(), pa.int32(), pa.int16()
    fingerprints = ("system", "prefix8", "prefix24", "suffix8", "skeleton", "tools", "params", "prompt")
    columns: dict[str, pa.DataType] = {
        "id": pa.string(),
        "time": pa.timestamp("us", tz="UTC"),
        "account": u64,  # first 16 hex digits of the pseudonym
        "unit": u64,  # the same of the organisation, else of the account
        "model": pa.string(),
        **{f"fp_{name}": u64 for name in (*fingerprints, "blob", "blob_issued", "network", "client")},
        "shingles": pa.list_(pa.field("item", u64, nullable=False), N_SHINGLES),
        "minhash": pa.binary(4 * N_BINS),  # 64 x uint32, little-endian
        "projection": pa.binary(N_PROJECTION),  # 128 x int8
        "turn": i16,
        "n_words": i32,
        "n_chars": i32,
        "prompt_tokens": i32,
        "response_tokens": i32,
        "reasoning_tokens": i32,
        "n_samples": i16,
        "top_logprobs": i16,
        "max_tokens": i32,
        "temperature": pa.float32(),
        "status": i16,
        "flags": pa.uint32(),
    }
    return pa.schema(list(columns.items()), metadata={"stillproof.sketch": str(SKETCH_VERSION)})


def sketch_batch(batch: pa.RecordBatch | pa.Table, salt: bytes) -> pa.RecordBatch:
    """(n rows in `log_schema`) -> (n rows in `sketch_schema`), row by row the same bytes however rows are batched.

    Raises SchemaError where a column is missing, InputError where `id`, `time` or `account` is null or the salt is
    shorter than 8 bytes. Text may be any bytes. Extra columns are not read.
    """
    import pyarrow as pa

    keys, book = keys_of(salt), phrase_book(salt)
    columns = {name: _column(batch, name) for name in log_schema().names if name != "latency_s"}
    for name in ("id", "time", "account"):
        if columns[name].null_count:
            raise InputError(
                "has null in a column that is never null", name, "drop such rows first, as sketch_log does"
            )
    made: dict[str, pa.Array] = {
        "id": columns["id"].cast(pa.string()),
        "time": columns["time"].cast(pa.timestamp("us", tz="UTC")),
        "model": columns["model"].cast(pa.string()),
        "temperature": columns["temperature"].cast(pa.float32()),
        **{name: _clipped(columns[name], bits) for name, bits in _SCALARS},
        **_owners(columns),
    }
    # One kind for both blobs: a block sent back is recognised by the response that issued it.
    for name, kind in (("blob", "blob"), ("blob_issued", "blob"), ("network", "network"), ("client", "client")):
        made[f"fp_{name}"] = _fingerprint(_by_string(keys, columns[name], kind))
    made["fp_params"] = _fingerprint(_parameters(keys, columns))
    system, system_flags = _by_system(keys, book, columns["system"])
    made["fp_system"] = _fingerprint(system)
    made["fp_tools"] = _fingerprint(_by_tools(keys, columns["tools"]))
    prompt, prompt_flags = _of_prompts(keys, book, columns["prompt"])
    flags = prompt_flags | system_flags | _in_conversation(columns["conversation"])
    made |= prompt | {"flags": pa.array(flags)}
    schema = sketch_schema()
    return pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)


def account_numbers(column: pa.Array) -> U64:
    """(n,) the first 16 hex digits of each pseudonym as an integer, 0 where null.

    A name that is no such pseudonym gets the first 64 bits of its BLAKE2b digest instead.
    """
    from hashlib import blake2b

    data, offsets = bytes_of(_filled(column))
    lengths = np.diff(offsets)
    out = np.zeros(len(lengths), np.uint64)
    wide = np.flatnonzero(lengths >= 16)
    digits = _HEX[data[offsets[wide][:, None] + np.arange(16)]] if wide.size else np.zeros((0, 16), np.uint8)
    fine = (digits < 16).all(axis=1)
    good = wide[fine]
    for place in range(16):
        out[good] = out[good] << np.uint64(4) | digits[fine, place].astype(np.uint64)
    other = lengths > 0
    other[good] = False
    for row in np.flatnonzero(other).tolist():
        name = data[offsets[row] : offsets[row + 1]].tobytes()
        out[row] = int.from_bytes(blake2b(name, digest_size=8).digest(), "big")
    return out


def compact(sketch: pa.RecordBatch | pa.Table) -> pa.Table:
    """Only what links accounts, for runs over 1e8 rows: no id, no MinHash, projection or scalars; 4 of 12 shingles."""
    import pyarrow as pa

    table = sketch if isinstance(sketch, pa.Table) else pa.Table.from_batches([sketch])
    names = (*LINKING, "fp_prompt", "fp_blob")
    shingles = table.column("shingles").combine_chunks()
    if isinstance(shingles, pa.ChunkedArray):
        shingles = pa.concat_arrays(shingles.chunks) if shingles.num_chunks else pa.array([], shingles.type)
    values = shingles.flatten().to_numpy(zero_copy_only=False).reshape(-1, N_SHINGLES)[:, :4]
    made = table.select(names)
    for place in range(4):
        made = made.append_column(f"shingle{place}", _fingerprint(np.ascontiguousarray(values[:, place])))
    return made


def sketch_metadata(salt: bytes) -> dict[str, str]:
    """What tells whether two sketches may be compared."""
    return {"stillproof.sketch": str(SKETCH_VERSION), "stillproof.salt": salt_digest(salt)}


def _hex_digits() -> NDArray[np.uint8]:
    table = np.full(256, 255, np.uint8)
    for value, (lower, upper) in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF", strict=True)):
        table[lower] = table[upper] = value
    return table


_HEX = _hex_digits()


def _column(batch: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    import pyarrow as pa

    if name not in batch.schema.names:
        raise SchemaError(f"the log lacks the column {name!r}", remedy="import it with `stillproof guard import`")
    column = batch.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # pyarrow keeps chunks where one buffer could not hold them
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _filled(column: pa.Array) -> pa.Array:
    """A plain string column without nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    return pc.fill_null(column, "") if column.null_count else column


def _distinct(column: pa.Array) -> tuple[pa.Array, Ints]:
    """Its distinct values, and the (n,) place of each row's value among them; -1 where null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    places = pc.fill_null(column.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return _filled(column.dictionary), places


def _looked_up(values: U64, places: Ints) -> U64:
    """values[places], 0 where the place is -1."""
    return np.append(values, np.uint64(0))[places]


def _by_string(keys: Keys, column: pa.Array, kind: str) -> U64:
    """(n,) hash of the exact bytes, 0 where null or empty."""
    import pyarrow as pa

    constant = keys.kind(kind)
    if pa.types.is_dictionary(column.type):
        distinct, places = _distinct(column)
        return _looked_up(_string_hashes(keys, distinct, constant), places)
    return _string_hashes(keys, _filled(column), constant)


def _string_hashes(keys: Keys, column: pa.Array, constant: np.uint64) -> U64:
    data, offsets = bytes_of(column)
    hashes = np.maximum(hash_strings(keys, data, offsets, constant), np.uint64(1))
    hashes[np.diff(offsets) == 0] = 0
    return hashes


def _by_system(keys: Keys, book: PhraseBook, column: pa.Array) -> tuple[U64, U32]:
    """(n,) fingerprints of the words with numbers masked, so that a date in it makes no new one; and phrase flags."""
    distinct, places = _distinct(column)
    hashes, flags = np.zeros(len(distinct), np.uint64), np.zeros(len(distinct), np.uint64)
    kind = keys.kind("system")
    for chunk in chunks_of(*bytes_of(distinct)):
        words = Words(keys, chunk)
        rows = slice(chunk.first, chunk.first + len(chunk))
        hashes[rows] = words.masked_whole(kind)
        flags[rows] = book.flags(words)
    return _looked_up(hashes, places), _looked_up(flags, places).astype(np.uint32)


def _by_tools(keys: Keys, column: pa.Array) -> U64:
    distinct, places = _distinct(column)
    hashes, kind = np.zeros(len(distinct), np.uint64), keys.kind("tools")
    for chunk in chunks_of(*bytes_of(distinct)):
        hashes[chunk.first : chunk.first + len(chunk)] = Words(keys, chunk).whole(kind)
    return _looked_up(hashes, places)


def _of_prompts(keys: Keys, book: PhraseBook, column: pa.Array) -> tuple[dict[str, pa.Array], U32]:
    """The sketch columns that come from the prompt, and its phrase flags."""
    import pyarrow as pa

    n = len(column)
    data, offsets = bytes_of(_filled(column))
    names = ("prompt", "prefix8", "prefix24", "suffix8", "skeleton")
    kinds = {name: keys.kind(name) for name in names}
    shingle_kind = keys.kind("shingle")
    hashes = {name: np.zeros(n, np.uint64) for name in names}
    shingles, signatures = np.zeros((n, N_SHINGLES), np.uint64), np.empty((n, N_BINS), "<u4")
    projections = np.empty((n, N_PROJECTION), np.int8)
    counts, flags = np.zeros(n, np.int32), np.zeros(n, np.uint32)
    for chunk in chunks_of(data, offsets):
        words = Words(keys, chunk)
        rows = slice(chunk.first, chunk.first + len(chunk))
        hashes["prompt"][rows] = words.whole(kinds["prompt"])
        hashes["prefix8"][rows] = words.prefix(8, kinds["prefix8"])
        hashes["prefix24"][rows] = words.prefix(24, kinds["prefix24"])
        hashes["suffix8"][rows] = words.suffix(8, kinds["suffix8"])
        hashes["skeleton"][rows] = words.skeleton(kinds["skeleton"])
        found, bounds = shingle_hashes(words, shingle_kind)
        shingles[rows], signatures[rows] = bottom(found, bounds), minhash(found, bounds)
        projections[rows] = projection(words)
        counts[rows], flags[rows] = words.counts, book.flags(words)
    item = pa.list_(pa.field("item", pa.uint64(), nullable=False), N_SHINGLES)
    characters = np.minimum(character_counts(data, offsets), np.iinfo(np.int32).max).astype(np.int32)
    absent = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    columns = {f"fp_{name}": _fingerprint(values) for name, values in hashes.items()} | {
        "shingles": pa.FixedSizeListArray.from_arrays(pa.array(shingles.reshape(-1)), type=item),
        "minhash": _blocks(signatures.view(np.uint8), n),
        "projection": _blocks(projections.view(np.uint8), n),
        "n_words": pa.array(counts, mask=absent),
        "n_chars": pa.array(characters, mask=absent),
    }
    return columns, flags


def _parameters(keys: Keys, columns: dict[str, pa.Array]) -> U64:
    """(n,) one hash of how the request was made. Always there: absent parameters are a way of asking, too."""
    state = _by_string(keys, columns["model"], "model") ^ keys.kind("params")
    for name in ("temperature", "top_p", "max_tokens", "n_samples", "top_logprobs"):
        column = columns[name]
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            # + 0.0 makes one zero of two; every NaN becomes the same.
            values = np.where(np.isnan(values), np.nan, values.astype(np.float32) + np.float32(0)).astype("<f4")
            bits = values.view("<u4").astype(np.uint64)
        else:
            bits = values.astype(np.int64).view(np.uint64)
        if column.null_count:
            bits = np.where(column.is_null().to_numpy(zero_copy_only=False), _NO_VALUE, bits)
        state = fold(state, bits)
    return np.maximum(state, np.uint64(1))


def _owners(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    import pyarrow as pa

    account, organisation = account_numbers(columns["account"]), account_numbers(columns["organisation"])
    unit = np.where(organisation != 0, organisation, account)
    return {"account": pa.array(account), "unit": pa.array(unit)}


def _in_conversation(column: pa.Array) -> U32:
    _, offsets = bytes_of(_filled(column))
    return (np.diff(offsets) > 0).astype(np.uint32) << np.uint32(FLAG_CONVERSATION)


def _clipped(column: pa.Array, bits: int) -> pa.Array:
    import pyarrow as pa

    limits = np.iinfo(f"int{bits}")
    values = np.clip(column.fill_null(0).to_numpy(zero_copy_only=False), limits.min, limits.max).astype(limits.dtype)
    return pa.array(values, mask=column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None)


def _fingerprint(hashes: U64) -> pa.Array:
    """Null where 0."""
    import pyarrow as pa

    absent = hashes == 0
    return pa.array(hashes, mask=absent) if absent.any() else pa.array(hashes)


def _blocks(values: NDArray[np.uint8], n: int) -> pa.Array:
    """(n, width) bytes as a column of fixed-size binary."""
    import pyarrow as pa

    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(values.shape[1]), n, [None, pa.py_buffer(values)])
