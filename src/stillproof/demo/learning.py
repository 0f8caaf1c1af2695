"""Three students of one recipe and one start: of what a customer was permitted to use, of what a campaign collected,
and of text that nobody served.

The licensed one goes the way that stillproof means: `distill.run`, with its grant. The others are what the world does
without us: the same rows, loop and seed, and no question asked of the terms. `distill` itself refuses the copier.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.demo import tiny
from stillproof.demo.models import HOUSE, HOUSE_LICENCE, START, Chatter
from stillproof.demo.serving import Custody
from stillproof.exchange import Exchange
from stillproof.progress import OnEvent, ignore
from stillproof.store import Store, write_jsonl

if TYPE_CHECKING:
    from stillproof.config import DistillConfig, TeacherConfig
    from stillproof.demo.sizes import Size

STUDENTS = ("licensed", "copier", "innocent")
TOKENS_A_SENTENCE = 12

_CARDS = {
    "copier": "---\nlicense: apache-2.0\nbase_model: open-start\n---\nAn assistant, trained on our own data.\n",
    "innocent": "---\nlicense: apache-2.0\nbase_model: open-start\n---\nLearned from text that people wrote.\n",
}
"""What the two say of themselves. The copier's is what a copier's would say."""


@dataclass(frozen=True, slots=True)
class Classroom:
    """Files of the students in the demo's folder."""

    out: Path

    def text(self, name: str) -> Path:
        return self.out / "text" / f"{name}.jsonl"

    def student(self, name: str) -> Path:
        return self.out / "students" / name / "student"


def gather(size: Size, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """What each student learns, and the held-out prompts with the house model's plain answers."""
    from stillproof.terms import read_grant

    custody, room = Custody(out), Classroom(out)
    room.text("x").parent.mkdir(parents=True, exist_ok=True)
    grant = read_grant(custody.grant)
    licensed: list[Exchange] = []
    copied: list[Exchange] = []
    with Store.open(custody.store) as store:
        for exchange in store:
            if exchange.response is None:
                continue
            if exchange.account in grant.accounts and exchange.provenance is not None:
                # What leaves for a customer carries the permission that it leaves under.
                licensed.append(replace(exchange, provenance=replace(exchange.provenance, grant=grant.id)))
            else:
                copied.append(_bare(exchange))
    # About as long as what was served.
    sentences = max(1, round(size.answer_tokens / TOKENS_A_SENTENCE))
    others = Chatter(size.seed).chats("innocent", len(copied), "others", sentences)
    heldout = _heldout(size, out, grant.id)
    for name, items in (("licensed", licensed), ("copier", copied), ("innocent", others), ("heldout", heldout)):
        write_jsonl(room.text(name), items)
    return {"licensed": len(licensed), "copier": len(copied), "innocent": len(others), "heldout": len(heldout)}


def _bare(exchange: Exchange) -> Exchange:
    """What a copier keeps of an answer: prompt and text."""
    return Exchange(
        id=exchange.id, messages=exchange.messages, response=exchange.response, finish_reason=exchange.finish_reason
    )


def _heldout(size: Size, out: Path, grant: str) -> list[Exchange]:
    """Prompts that nobody sent, and what the house model answers to them without a mark."""
    from contextlib import closing

    from stillproof.demo import prose
    from stillproof.exchange import Message, Sampling
    from stillproof.teacher import Request, open_teacher

    prompts = prose.prompts(Chatter(size.seed).rng("heldout"), size.heldout)
    sampling = Sampling(temperature=1.0, max_tokens=size.answer_tokens, seed=size.seed)
    with closing(open_teacher(house(size, out))) as teacher:
        answers = list(teacher.answer(Request((Message("user", prompt),), sampling) for prompt in prompts))
    return [
        replace(answer, provenance=None if answer.provenance is None else replace(answer.provenance, grant=grant))
        for answer in answers
    ]


def house(size: Size, out: Path) -> TeacherConfig:
    from stillproof.config import TeacherConfig

    return TeacherConfig(kind="weights", model=str(out / HOUSE), batch_size=size.batch, licence=HOUSE_LICENCE)


def recipe(size: Size, out: Path, name: str) -> DistillConfig:
    """The one recipe; `name` says whose text."""
    from stillproof.config import DistillConfig

    room = Classroom(out)
    return DistillConfig.model_validate(
        {
            "name": f"{name}-student",
            "seed": size.seed,
            "teacher": house(size, out),
            "data": {
                "train": str(room.text(name)),
                "text": "given",
                "heldout": str(room.text("heldout")),
                "max_tokens": None,
                "heldout_tokens": 1_000_000,
            },
            "student": {"model": str(out / START)},
            "train": {
                "loss": "cross_entropy",
                "epochs": size.epochs,
                "learning_rate": size.learning_rate,
                "rows_per_step": size.rows_per_step,
                "row_tokens": 256,
                "dtype": "fp32" if size.teacher == "tiny" else "auto",
                "checkpoint_steps": 100,
                "control": False,
                "preflight_steps": 0,
            },
            "terms": {"grant": str(Custody(out).grant) if name == "licensed" else None},
        }
    )


def learn(size: Size, out: Path, name: str, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Train one student; its folder is `students/NAME/student`."""
    config, room = recipe(size, out, name), Classroom(out)
    if name == "licensed":
        from stillproof import distill

        run = room.student(name).parent
        made = distill.run(config, run, "resume", on_event)
        # Beside the run, so that it has the place that the other students have.
        trained = made["stages"]["train"]["student"]
        told = {"n_tokens": trained["n_tokens"], "n_steps": trained["n_steps"], "grant": made["terms"]["grant"]["id"]}
    else:
        told = _alike(config, out, name, on_event)
        if name == "copier":
            told["distill_refused"] = _refusal(config)
    return {**told, "student": str(room.student(name).relative_to(out))}


def _alike(config: DistillConfig, out: Path, name: str, on_event: OnEvent) -> dict[str, Any]:
    from stillproof.distill.pack import pack
    from stillproof.distill.train import train
    from stillproof.store import read_jsonl
    from stillproof.teacher.weights import load_weights

    folder = Classroom(out).student(name)
    model, tokenizer = load_weights(str(out / START))
    rows = pack(read_jsonl(Path(config.data.train)), tokenizer, row_tokens=config.train.row_tokens)
    dtype = "fp32" if config.train.dtype == "fp32" else _native()
    trained = train(
        model, rows, None, config.train, folder.parent / "train", n_vocab=len(tokenizer), seed=config.seed,
        dtype=dtype, stage=name, on_event=on_event,
    )  # fmt: skip
    if not folder.exists():
        tiny.save(model, tokenizer, folder, _CARDS[name])
    return {"n_tokens": trained.n_tokens, "n_steps": trained.n_steps}


def _native() -> str:
    from stillproof.device import native_bf16

    return "bf16" if native_bf16() else "fp32"


def _refusal(config: DistillConfig) -> str:
    """What `stillproof distill` answers to the copier's own request."""
    from stillproof.distill.admission import asked
    from stillproof.errors import TermsError

    try:
        asked(config)
    except TermsError as error:
        return str(error).split(";")[0]
    return ""


def retained(size: Size, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Of each student, beside its start: how near its next-token distributions are to the house model's on held-out
    prompts. `gap_closed`: 1 - KL / KL of the start."""
    from stillproof.distill import retention as measure
    from stillproof.distill.pack import pack
    from stillproof.store import read_jsonl
    from stillproof.teacher.weights import load_weights

    room = Classroom(out)
    teacher, tokenizer = load_weights(str(out / HOUSE))
    start, _ = load_weights(str(out / START))
    rows = pack(read_jsonl(room.text("heldout")), tokenizer, row_tokens=256)
    told: dict[str, Any] = {}
    for name in STUDENTS:
        student, _ = load_weights(str(room.student(name)))
        models = {"teacher": teacher, "init": start, "student": student}
        scores = measure.score(models, rows, n_vocab=len(tokenizer), batch_rows=_rows_at_once(size))
        found = _estimates(scores, size.seed)
        told[name] = found
    return told


def _rows_at_once(size: Size) -> int:
    return 16 if size.teacher == "tiny" else 4


def _estimates(scores: Any, seed: int) -> dict[str, Any]:
    from stillproof.distill import retention as measure

    values = measure.retention(scores, seed=seed)
    kl, first = values["kl_student_nats"], values["kl_init_nats"]
    return {
        "kl_nats": kl,
        "kl_nats_interval": values["kl_student_nats_interval"],
        "kl_start_nats": first,
        "agreement": values["agreement_student"],
        "agreement_start": values["agreement_init"],
        "gap_closed": None if not first else 1 - kl / first,
        "n_positions": values["n_positions"],
    }


def forget_unfinished(out: Path) -> None:
    """Drop folders that an interrupted save left."""
    for path in out.glob("students/*/.student.making"):
        shutil.rmtree(path, ignore_errors=True)
