"""A run's folder, its config, and what its stages have in common.

OUT/config.json     the resolved config; a run goes on only under the same one
OUT/terms.json      the verdict on the teacher, before anything is asked of it
OUT/exchanges/      the teacher's answers, a store
OUT/cache/          the teacher's sparse distributions on the text that is learned
OUT/preflight.json  is the teacher better than a quickly trained student?
OUT/train/, OUT/control/    metrics and checkpoints
OUT/retention.json, OUT/retention.html
OUT/student/        the shipped student
OUT/result.json     what `stillproof distill run --json` prints
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillproof import terms
from stillproof.config import DistillConfig, TeacherConfig
from stillproof.distill import corpus
from stillproof.distill.card import Start
from stillproof.distill.pack import Rows, as_document, pack
from stillproof.errors import BudgetError, ConfigError, InputError, MismatchError, TermsError
from stillproof.exchange import Exchange, sha256_of
from stillproof.progress import OnEvent, ignore
from stillproof.store import Store
from stillproof.teacher import Identity, Request, open_teacher
from stillproof.teacher.weights import hash_tokenizer, load_weights

if TYPE_CHECKING:
    from stillproof.teacher import Teacher


@dataclass
class Run:
    """One run. What stages share is loaded when it is first needed; models are loaded by the stage that uses them."""

    config: DistillConfig
    out: Path
    verdict: terms.Verdict
    identity: Identity
    start: Start
    """Where the student's first weights come from, and what their own terms say."""
    on_event: OnEvent = ignore

    # --- text -------------------------------------------------------------------------------------------------

    @cached_property
    def parted(self) -> corpus.Parted:
        """Training and held-out documents, in an order that depends on the seed and their texts alone."""
        data, seed = self.config.data, self.config.seed
        if data.heldout is None:
            parted = corpus.split(self.read(data.train), data.heldout_share, seed)
        else:
            parted = corpus.check_no_overlap(self.read(data.train), self.read(data.heldout))
        return replace(parted, train=_shuffled(parted.train, seed), heldout=_shuffled(parted.heldout, seed))

    def read(self, source: str) -> corpus.Documents:
        """A source's documents; prompts, where the teacher is to answer them."""
        if self.config.data.text == "given":
            return corpus.read_documents(source, self.config.data)
        return corpus.read_prompts(source, self.config.data)

    def text(self, items: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
        """What is learned of some items: their own text, or the teacher's answers in the order of the prompts."""
        return _of_known_terms(items) if self.config.data.text == "given" else self.answers(self.requests(items))

    def pack(self, items: Iterable[Exchange], max_tokens: int | None) -> Rows:
        """Rows of some items, in the form that the config asks for."""
        if self.config.data.form == "plain":
            items = map(as_document, items)
        return pack(items, self.tokenizer, row_tokens=self.config.train.row_tokens, max_tokens=max_tokens)

    @cached_property
    def rows(self) -> Rows:
        """What the student learns."""
        return self.pack(self.text(self.parted.train.items), self.config.data.max_tokens)

    @cached_property
    def control_rows(self) -> Rows:
        """What the control learns: the same, or the text that `data.control` names."""
        source = self.config.data.control
        if source is None:
            return self.rows
        gold = corpus.check_no_overlap(_shuffled(corpus.read_documents(source, self.config.data), self.config.seed),
                                       self.parted.heldout)  # fmt: skip
        return self.pack(_of_known_terms(gold.train.items), self.config.data.max_tokens)

    @cached_property
    def heldout_rows(self) -> Rows:
        return self.pack(self.text(self.parted.heldout.items), self.config.data.heldout_tokens)

    def elsewhere_rows(self, source: str) -> Rows:
        """Some of another source, as it stands, without what was trained on."""
        found = _shuffled(corpus.read_documents(source, self.config.data), self.config.seed)
        items = corpus.check_no_overlap(found, self.parted.train).train.items
        return self.pack(items, self.config.eval.elsewhere_tokens)

    # --- the teacher's answers --------------------------------------------------------------------------------

    @property
    def store_path(self) -> Path:
        return self.out / "exchanges"

    def requests(self, items: Iterable[Exchange]) -> tuple[Request, ...]:
        """The calls that the teacher is to answer, `generate.samples` of each prompt."""
        from stillproof.distill.generate import requests_for

        return requests_for(items, self.config.generate)

    def answers(self, requests: Iterable[Request]) -> tuple[Exchange, ...]:
        """The stored answers to some requests, in their order. Raises InputError where there is none."""
        from stillproof.distill.generate import answers

        found: tuple[Exchange, ...] = ()
        if Store.is_store(self.store_path):
            found = answers(Store.open(self.store_path), requests, self.identity.model)
        accepted = self.accepted
        if accepted is not None:
            found = tuple(item for item in found if item.request_key in accepted)
        if not found:
            raise InputError("the teacher has not answered yet", str(self.store_path), "run the stage generate first")
        return found

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """Keys of the calls whose answers are learned, once generate is done; None before.

        A call that was refused then stays out: were it answered later, the rows would no longer be those that were
        trained on.
        """
        path = self.out / "accepted.json"
        return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def accept(self, requests: Iterable[Request]) -> None:
        """Fix which answers are learned: those that are stored now."""
        keys = [item.request_key for item in self.answers(requests)]
        write_json(self.out / "accepted.json", keys)
        self.__dict__.pop("accepted", None)

    def ask_teacher(self, requests: Iterable[Request]) -> None:
        """Have the teacher answer what the store has no answer to; it is opened only where something is missing."""
        from stillproof.distill.generate import Budget, generate

        requests = tuple(requests)
        with Store.open(self.store_path) if Store.is_store(self.store_path) else Store.create(self.store_path) as store:
            wanted, stored = {request.key(self.identity.model) for request in requests}, store.request_keys()
            if wanted <= stored:
                return
            self.check_volume(len(wanted | stored))
            left = _what_is_left(self.config.teacher, store)
            teacher = open_teacher(left, seed=self.config.seed)
            try:
                self._generate(generate, teacher, requests, store, Budget.of(left))
            finally:
                teacher.close()
            store.seal()

    def check_volume(self, n_exchanges: int) -> None:
        """Refuse, before any call, what the grants do not cover: so many exchanges of this run in all, today.

        Raises TermsError. A grant whose days are over since the run was opened is refused as well.
        """
        taken = n_exchanges + self.config.terms.exchanges_taken
        for verdict in (self.verdict, *self.verdict.ancestors):
            grant = verdict.grant
            if grant is None:
                continue
            refused = grant.refusal(verdict.model, datetime.now(UTC).date())
            if refused is None and grant.max_exchanges is not None and taken > grant.max_exchanges:
                refused = f"grant {grant.id!r} covers {grant.max_exchanges:,} exchanges, and this run takes {taken:,}"
            if refused is not None:
                raise TermsError(
                    refused,
                    verdict.model,
                    "ask for less (data.max_documents, generate.samples, eval.max_answers) in a new --out, or get a "
                    "wider grant; what is stored is kept",
                )

    def _generate(self, generate: Any, teacher: Teacher, requests: Any, store: Store, budget: Any) -> None:
        record, grant = self.verdict.record, self.verdict.grant
        generate(
            teacher,
            requests,
            store,
            terms_id=None if record is None else record.id,
            grant_id=None if grant is None else grant.id,
            budget=budget,
            on_event=self.on_event,
        )

    # --- models -----------------------------------------------------------------------------------------------

    @cached_property
    def dtype(self) -> Literal["fp32", "bf16"]:
        """The arithmetic of this machine; checkpoints and caches refuse to be mixed with another."""
        from stillproof.device import native_bf16

        wanted = self.config.train.dtype
        if wanted != "auto":
            return wanted
        return "bf16" if native_bf16(self.device) else "fp32"

    @cached_property
    def device(self) -> str:
        from stillproof.device import best_device

        return best_device() if self.config.train.device == "auto" else self.config.train.device

    @property
    def start_source(self) -> str:
        """Where the student's first weights are read from."""
        student = self.config.student
        return student.model or student.layers_of or weights_source(self.config.teacher)

    @cached_property
    def tokenizer(self) -> Any:
        """The student's tokenizer, which is the teacher's where the teacher's weights are at hand."""
        return load_weights(self.start_source)[1]

    @cached_property
    def n_vocab(self) -> int:
        """Ids that teacher and student share; see `student.common_vocabulary`."""
        return len(self.tokenizer)

    def teacher_model(self) -> Any:
        """The teacher's weights, loaded anew: nobody keeps them longer than a stage."""
        from stillproof.distill.forward import check_plain_head, head_weight
        from stillproof.distill.student import common_vocabulary

        source = weights_source(self.config.teacher)
        model, tokenizer = load_weights(source)
        teacher: Any = model
        if hash_tokenizer(tokenizer) != hash_tokenizer(self.tokenizer):
            raise MismatchError(
                "teacher and student have different tokenizers, so their distributions cannot be compared",
                f"{source} and {self.start_source}",
                "use a student of the teacher's family, or train.loss='cross_entropy', which needs text only",
            )
        common_vocabulary(self.n_vocab, len(head_weight(model)), self.n_vocab)
        check_plain_head(teacher)
        return teacher.to(self.device)

    def fresh_student(self) -> Any:
        """The student before training: layers of a model, or the weights given."""
        from stillproof.distill.forward import check_plain_head, head_weight
        from stillproof.distill.student import common_vocabulary, drop_layers

        student: Any = load_weights(self.start_source)[0]
        rows = len(head_weight(student))
        common_vocabulary(self.n_vocab, self.n_vocab, rows)
        check_plain_head(student)
        if rows > self.n_vocab:
            # Rows that no token has would be trained by nothing and could still be drawn.
            student.resize_token_embeddings(self.n_vocab)
        layers = self.layers_kept(student.config.num_hidden_layers)
        return (student if layers is None else drop_layers(student, layers)).to(self.device)

    def layers_kept(self, n_layers: int) -> tuple[int, ...] | None:
        """Which of `n_layers` the student keeps; None where it is another model, kept whole."""
        from stillproof.distill.student import choose_layers

        student = self.config.student
        if student.model is not None:
            return None
        wanted = student.layers or choose_layers(n_layers, student.n_layers or n_layers)
        if len(wanted) == n_layers:
            raise ConfigError(
                f"keeping {len(wanted)} of {n_layers} layers is the teacher itself",
                "student.n_layers",
                f"keep fewer than {n_layers}, or name another student.model",
            )
        return wanted

    def trained(self, which: Literal["train", "control"]) -> Any:
        """The model of the last checkpoint. Raises InputError where there is none."""
        import torch

        path = self.out / which / "checkpoint.pt"
        if not path.exists():
            raise InputError("not trained yet", str(path), "run the stage train first")
        model = self.fresh_student()
        state = torch.load(path, map_location=model.device, weights_only=True, mmap=True)
        model.load_state_dict(state["student"])
        return model.eval()


def weights_source(teacher: TeacherConfig) -> str:
    """What `load_weights` calls the teacher's weights."""
    return "smollm2" if teacher.kind == "smollm2" else teacher.model


def write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _of_known_terms(items: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """The items; TermsError where one was written by a model under terms that nobody recorded."""
    for item in items:
        known = item.provenance is not None and (item.provenance.terms or item.provenance.grant)
        if item.model is not None and not known:
            raise TermsError(
                f"this text was written by the model {item.model!r}, and no terms are recorded with it",
                item.id,
                "have stillproof generate it, which asks for the terms, or use text that no model wrote",
            )
    return items


def _shuffled(documents: corpus.Documents, seed: int) -> corpus.Documents:
    items = sorted(documents.items, key=lambda item: sha256_of([seed, "order", item.id]))
    return replace(documents, items=tuple(items))


def _what_is_left(teacher: TeacherConfig, store: Store) -> TeacherConfig:
    """The teacher with its caps reduced by what earlier attempts at this run spent. Raises BudgetError for nothing."""
    if teacher.max_requests is None and teacher.max_tokens_total is None and teacher.max_usd is None:
        return teacher
    prompt = response = n = 0
    for item in store:
        n += 1
        prompt += item.prompt_tokens or 0
        response += item.response_tokens or 0
    spent_usd = (
        prompt * (teacher.usd_per_million_prompt_tokens or 0.0)
        + response * (teacher.usd_per_million_response_tokens or 0.0)
    ) / 1e6
    left: dict[str, float] = {}
    for name, cap, spent in (
        ("max_requests", teacher.max_requests, n),
        ("max_tokens_total", teacher.max_tokens_total, prompt + response),
        ("max_usd", teacher.max_usd, spent_usd),
    ):
        if cap is None:
            continue
        if cap - spent <= 0:
            raise BudgetError(f"{name} = {cap} is used up", str(store.path), f"raise teacher.{name}, then resume")
        left[name] = cap - spent
    return teacher.model_copy(update=left)
