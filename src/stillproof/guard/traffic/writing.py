"""Composing a world: builds its groups one by one, gives pseudonyms, sorts by time and writes the world folder.

Exchanges are spilled to one Arrow file a day and sorted day by day, so that memory holds one group or one day and not
the world. Pseudonyms are keyed digests of the world's seed: nothing in the log says which group an account is of.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import OutputExistsError
from stillproof.guard.log import accounts_schema, log_schema
from stillproof.guard.traffic.habits import foreign, tokens_of
from stillproof.guard.traffic.plan import VPNS, Group, planned
from stillproof.guard.traffic.stream import DAY_US, AccountFacts, Stream

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from stillproof.guard.traffic.world import World

Progress = Callable[[dict[str, Any]], None]
MODELS = ("large-0", "large-1")
"""What is newest (and was before it) until the world's own releases."""


def write_world(world: World, out: Path, on_event: Progress | None = None) -> dict[str, Any]:
    """Write the folder `out` and return its totals.

    Keys: n_accounts, n_exchanges, n_campaigns, n_campaign_accounts, n_campaign_exchanges, duration_s, digest, and
    `effective` with the sample sizes that count: accounts, groups, base_prompts (None for the built-in generator),
    distinct_prompts (summed over days). The same config gives the same digest.

    Raises OutputExistsError where `out` holds a log, InputError where a pool or trace cannot be read.
    """
    started = time.monotonic()
    if (out / "log").exists():
        raise OutputExistsError("there is a log here already", str(out), "name another folder")
    arrivals, pools = world.load_arrivals(), world.load_pools()
    book = _Book(world, out)
    try:
        for group in planned(world):
            rng = world.rng(group.name)
            stream, facts = group.build(group.size, world.window, rng, arrivals, pools, group.settings)
            lengths = arrivals.lengths(rng, len(stream))
            book.enter(group, stream, facts, lengths)
            if on_event:
                on_event({"event": "group", "group": group.name, "accounts": group.size, "exchanges": len(stream)})
        totals = book.close()
    finally:
        shutil.rmtree(book.spill, ignore_errors=True)
    base = sum(len(items) for items in pools.lists.values()) if pools.lists else None
    totals["effective"] = {
        "accounts": totals["n_accounts"],
        "groups": book.n_groups,
        "base_prompts": base,
        "distinct_prompts": totals.pop("distinct_prompts"),
    }
    _write_json(world, out, totals)
    totals["duration_s"] = round(time.monotonic() - started, 3)
    return totals


def _write_json(world: World, out: Path, totals: dict[str, Any]) -> None:
    window = world.window
    releases = [{"model": model, "time_us": moment} for moment, model in world.release_times()]
    record = {
        "config": world.model_dump(mode="json"),
        "seed": world.seed,
        "start_us": window.start_us,
        "end_us": window.end_us,
        "releases": releases,
        "totals": totals,
        "digest": totals["digest"],
    }
    (out / "world.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _Names:
    """Pseudonyms: keyed digests, 32 hex digits."""

    def __init__(self, seed: int) -> None:
        self.key = f"stillproof-world-{seed}".encode()

    def name(self, *parts: object) -> str:
        text = "\0".join(str(part) for part in parts)
        return hmac.digest(self.key, text.encode(), "sha256").hex()[:32]

    def column(self, values: list[Any], *parts: object) -> list[str | None]:
        """Pseudonyms of local names, each distinct one digested once."""
        known: dict[Any, str | None] = {None: None}
        for value in values:
            if value not in known:
                known[value] = self.name(*parts, value)
        return [known[value] for value in values]


class _Book:
    """The open files of a world."""

    def __init__(self, world: World, out: Path) -> None:
        self.world, self.out = world, out
        self.names = _Names(world.seed)
        self.spill = out / ".spill"
        self.spill.mkdir(parents=True)
        (out / "log").mkdir()
        self.writers: dict[int, pa.RecordBatchFileWriter] = {}
        self.accounts: list[pa.Table] = []
        self.truth: list[pa.Table] = []
        self.marked: list[pa.Table] = []
        self.n_groups = 0
        self.n_campaigns = 0

    def enter(self, group: Group, stream: Stream, facts: AccountFacts, lengths: tuple[NDArray[Any], ...]) -> None:
        """Add one group: its accounts and truth are kept, its exchanges spilled by day."""
        import pyarrow as pa

        self.n_groups += 1
        self.n_campaigns += group.campaign is not None
        who = [self.names.name("account", group.name, place) for place in range(group.size)]
        organisation = self.names.column(facts.organisation, "organisation", group.name)
        payment = [
            None if local is None else self.names.name("payment", group.name, local if local >= 0 else f"own{place}")
            for place, local in enumerate(facts.payment)
        ]
        signup = pa.array(facts.signup_us).cast(pa.timestamp("us", tz="UTC"))
        columns = [who, organisation, signup, facts.plan, payment]
        self.accounts.append(pa.table(columns, schema=accounts_schema()))
        self.truth.append(_truth(group, who))
        if not len(stream):
            return
        table = self._rows(group, stream, (who, organisation), lengths)
        self._mark(group, table, stream.is_campaign)
        self._spill(table, stream.time_us)

    def _rows(
        self,
        group: Group,
        stream: Stream,
        who: tuple[list[str], list[str | None]],
        lengths: tuple[NDArray[Any], ...],
    ) -> pa.Table:
        import pyarrow as pa

        n = len(stream)
        rng = self.world.rng(group.name, "writing")
        letters = rng.bytes(16 * n).hex()
        local = stream.account.tolist()
        blobs = _random_names(rng, stream.blob_issued + stream.blob)
        prompt = _translated(group, stream)
        ask = np.where(stream.prompt_tokens > 0, stream.prompt_tokens, tokens_of(prompt, stream.system))
        answer = np.where(stream.response_tokens > 0, stream.response_tokens, lengths[1])
        caps = np.asarray([cap if cap is not None else 2**31 - 1 for cap in stream.max_tokens], np.int64)
        answer = np.where(stream.status == 200, np.minimum(answer, caps), 0)
        latency = 0.3 + (answer + stream.reasoning_tokens) / rng.uniform(30.0, 120.0, n)
        columns: dict[str, Any] = {
            "id": [letters[start : start + 32] for start in range(0, 32 * n, 32)],
            "time": pa.array(stream.time_us).cast(pa.timestamp("us", tz="UTC")),
            "account": [who[0][place] for place in local],
            "organisation": [who[1][place] for place in local],
            "conversation": _random_names(rng, stream.conversation),
            "turn": stream.turn,
            "model": self._models(stream),
            "system": stream.system,
            "prompt": prompt,
            "tools": stream.tools,
            "temperature": stream.temperature,
            "top_p": stream.top_p,
            "max_tokens": stream.max_tokens,
            "n_samples": stream.n_samples,
            "top_logprobs": stream.top_logprobs,
            "prompt_tokens": ask,
            "response_tokens": answer,
            "reasoning_tokens": stream.reasoning_tokens,
            "status": stream.status,
            "latency_s": latency,
            "network": self._networks(group, stream),
            "client": stream.client,
            "blob": blobs[n:],
            "blob_issued": blobs[:n],
        }
        schema = log_schema()
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
        return pa.table(arrays, schema=schema)

    def _models(self, stream: Stream) -> list[str]:
        """Names of models, '@newest' and '@previous' by what was released at the time."""
        releases = self.world.release_times()
        names = [*MODELS, *(model for _, model in releases)]
        newest = 1 + np.searchsorted([moment for moment, _ in releases], stream.time_us, side="right")
        return [
            names[place] if name == "@newest" else names[place - 1] if name == "@previous" else name
            for name, place in zip(stream.model, newest.tolist(), strict=True)
        ]

    def _networks(self, group: Group, stream: Stream) -> list[str | None]:
        """Networks: of the group, of the account alone, or of one of a few VPNs for accounts of that cohort."""
        hidden = np.asarray([name == "vpn" for name in group.cohorts])
        vpn = self.world.rng(group.name, "vpn").integers(0, VPNS, group.size)
        keys: list[tuple[Any, ...]] = [
            ("vpn", vpn[account])
            if hidden[account]
            else (group.name, local)
            if local >= 0
            else (group.name, account, local)
            for account, local in zip(stream.account.tolist(), stream.network.tolist(), strict=True)
        ]
        known: dict[tuple[Any, ...], str] = {}
        for key in keys:
            if key not in known:
                known[key] = self.names.name("network", *key)
        return [known[key] for key in keys]

    def _mark(self, group: Group, table: pa.Table, campaign: NDArray[np.bool_]) -> None:
        import pyarrow as pa

        if group.campaign is None or not campaign.any():
            return
        ids = table["id"].filter(pa.array(campaign))
        self.marked.append(pa.table({"id": ids, "campaign": [group.campaign] * len(ids)}))

    def _spill(self, table: pa.Table, time_us: NDArray[np.int64]) -> None:
        import pyarrow as pa

        day = (time_us - self.world.window.start_us) // DAY_US
        order = np.lexsort((time_us, day))
        days, starts = np.unique(day[order], return_index=True)
        sorted_rows = table.take(pa.array(order))
        ends = np.append(starts[1:], len(order))
        for number, start, end in zip(days.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if number not in self.writers:
                self.writers[number] = pa.ipc.new_file(str(self.spill / f"{number}.arrow"), log_schema())
            self.writers[number].write_table(sorted_rows.slice(start, end - start))

    def close(self) -> dict[str, Any]:
        """Sort and write every day, the accounts and the truth; the totals."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        digest = hashlib.sha256()
        n = distinct = 0
        for part, number in enumerate(sorted(self.writers)):
            self.writers[number].close()
            with pa.ipc.open_file(str(self.spill / f"{number}.arrow")) as file:
                table = file.read_all().sort_by([("time", "ascending"), ("id", "ascending")])
            pq.write_table(
                table, self.out / "log" / f"part-{part:05d}.parquet", compression="zstd", row_group_size=65_536
            )
            n += len(table)
            distinct += len(table["prompt"].unique())
            _digest(digest, table)
        if not self.writers:
            pq.write_table(log_schema().empty_table(), self.out / "log" / "part-00000.parquet")
        truth = pa.concat_tables(self.truth) if self.truth else _truth_schema().empty_table()
        marked_schema = pa.schema([("id", pa.string()), ("campaign", pa.string())])
        marked = pa.concat_tables([marked_schema.empty_table(), *self.marked])
        accounts = pa.concat_tables([accounts_schema().empty_table(), *self.accounts]).sort_by("account")
        pq.write_table(accounts, self.out / "accounts.parquet")
        pq.write_table(truth.sort_by("account"), self.out / "truth.parquet")
        pq.write_table(marked, self.out / "truth_exchanges.parquet")
        return {
            "n_accounts": len(accounts),
            "n_exchanges": n,
            "n_campaigns": self.n_campaigns,
            "n_campaign_accounts": truth["kind"].to_pylist().count("campaign"),
            "n_campaign_exchanges": len(marked),
            "digest": digest.hexdigest(),
            "distinct_prompts": distinct,
        }


def _truth_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("account", "group", "kind", "family", "campaign", "cohort")])


def _truth(group: Group, who: list[str]) -> pa.Table:
    import pyarrow as pa

    n = group.size
    columns = [who, [group.name] * n, [group.kind] * n, [group.family] * n, [group.campaign] * n, group.cohorts]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=_truth_schema())


def _translated(group: Group, stream: Stream) -> list[str]:
    """An honest group of a language cohort writes in it; ordinary accounts already do, each in its own."""
    common = next((name for name in group.cohorts if name.startswith("language_")), None)
    if group.kind != "honest_heavy" or common is None:
        return stream.prompt
    language = int(common.removeprefix("language_"))
    return [foreign(text, language) for text in stream.prompt]


def _random_names(rng: np.random.Generator, values: list[str | None]) -> list[str | None]:
    """Pseudonyms of local names, random and equal where the names are: cheaper than a digest of each."""
    distinct = [value for value in dict.fromkeys(values) if value is not None]
    letters = rng.bytes(16 * len(distinct)).hex()
    known: dict[str | None, str | None] = {
        value: letters[start : start + 32] for value, start in zip(distinct, range(0, len(letters), 32), strict=True)
    }
    known[None] = None
    return [known[value] for value in values]


def _digest(digest: hashlib._Hash, table: pa.Table) -> None:
    """Add what a reader sees of a day: times, accounts and texts."""
    digest.update(np.ascontiguousarray(table["time"].cast("int64").to_numpy()).tobytes())
    for name in ("id", "account", "prompt", "system", "network", "model"):
        # The bytes of a text column are its data buffer; a sorted table holds one that starts at 0.
        for chunk in table[name].chunks:
            data = chunk.buffers()[2]
            first, last = _span(chunk)
            digest.update(memoryview(data)[first:last] if data is not None else b"")


def _span(chunk: pa.Array) -> tuple[int, int]:
    offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return int(offsets[0]), int(offsets[-1])
