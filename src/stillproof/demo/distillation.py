"""The demo: a real language model distilled on this machine, offline, in two acts.

1. laptop: SmolLM2-135M-Instruct into a student of half its size, from its soft targets on word problems that we wrote,
   beside a control that read the same text without a teacher.
2. black_box: the same teacher, taught a task first, is put behind an OpenAI-compatible endpoint. The student of act 1
   learns the task from nothing but the endpoint's answers.

Both acts are `distill.run` with the recipes' settings and fewer tokens, and fewer still where the time given is short
(`budget`). Numbers of so short a run show that the machinery works; `recipes/` has the full ones.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.demo import budget
from stillproof.demo.budget import WHOLE, Amounts, Decision, Speeds
from stillproof.distill.run_folder import write_json
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.distill.admission import IfExists

SPECIALIST = "specialist"
BUDGET, RESULT = "budget.json", "result.json"


def run(
    out: Path, if_exists: IfExists = "fail", on_event: OnEvent = ignore, *, budget_s: float | None = None
) -> dict[str, Any]:
    """Play both acts in `out` and return what they measured. Resumable, as `distill.run` is.

    `budget_s`: both should end within it. Each part is cut to what fits before it begins (`budget`), what was decided
    stands in the result and in budget.json, and a resumed run keeps to it. None: the whole recipe.
    """
    from stillproof import distill
    from stillproof.distill.admission import remove_run

    started = time.monotonic()
    if if_exists == "replace":
        for name in ("laptop", "black_box"):
            remove_run(out / name)
        shutil.rmtree(out / SPECIALIST, ignore_errors=True)
        (out / BUDGET).unlink(missing_ok=True)
    planner = _Planner(out / BUDGET, None if budget_s is None else started + budget_s, on_event)
    config = laptop_config(planner.amounts("laptop"))
    laptop = distill.run(config, out / "laptop", "resume" if if_exists == "replace" else if_exists, on_event)
    planner.speeds = corrected(planner.speeds, laptop["stages"]["train"]["student"]["tokens_per_s"])
    specialist = teach_specialist(out / SPECIALIST, planner.amounts("specialist"), on_event)
    with endpoint(specialist) as url:
        config = black_box_config(url, Path(laptop["student_dir"]), planner.amounts("black_box"))
        black_box = distill.run(config, out / "black_box", "resume", on_event)
    result = {
        "laptop": laptop,
        "black_box": black_box,
        "budget": planner.told(budget_s),
        "gate": None,
        "duration_s": round(time.monotonic() - started, 1),
        "out": str(out),
    }
    write_json(out / RESULT, result)
    return result


@dataclass
class _Planner:
    """Decides each part once, and keeps what it decided on the disk."""

    path: Path
    end_s: float | None
    on_event: OnEvent
    speeds: Speeds | None = None
    made: dict[str, Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            self.made = {row["part"]: Decision.from_json(row) for row in rows}

    def amounts(self, part: str) -> Amounts:
        if part not in self.made:
            self._decide(part)
        decision = self.made[part]
        self.on_event(Event(stage=part, done=0, total=None, note=f"{part}: {budget.said(decision)}"))
        return decision.amounts

    def _decide(self, part: str) -> None:
        if self.end_s is not None and self.speeds is None:
            from stillproof.demo.speed import measure

            self.speeds = measure()
        left_s = None if self.end_s is None else max(0.0, self.end_s - time.monotonic())
        self.made[part] = budget.decide(part, left_s, self.speeds)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, [decision.to_json() for decision in self.made.values()])

    def told(self, budget_s: float | None) -> dict[str, Any]:
        cut = [line for decision in self.made.values() for line in budget.cut(decision)]
        parts = {part: {**decision.to_json(), "cut": budget.cut(decision)} for part, decision in self.made.items()}
        return {"given_s": budget_s, "cut": cut, "recipe": asdict(WHOLE), "parts": parts}


def corrected(probed: Speeds | None, tokens_per_s: float | None) -> Speeds | None:
    """Probed speeds, put right by how fast act 1 really trained: what else the machine does slows both alike."""
    if probed is None or not tokens_per_s:
        return probed
    return Speeds(1 / tokens_per_s, probed.read_s / (probed.train_s * tokens_per_s))


def laptop_config(given: Amounts = WHOLE) -> DistillConfig:
    """recipes/laptop.toml with an eighth of its tokens, or fewer."""
    from stillproof.config import DistillConfig

    return DistillConfig.model_validate(
        {
            "name": "smollm2-71m-demo",
            "data": {
                "train": "word-problems:train",
                "heldout": "word-problems:test",
                "text": "given",
                "form": "plain",
                "max_tokens": given.tokens,
                "heldout_tokens": given.heldout_tokens,
            },
            "train": {"preflight_steps": 4, "checkpoint_steps": 20, "rows_per_step": given.rows_per_step},
        }
    )


def black_box_config(url: str, student: Path, given: Amounts = WHOLE) -> DistillConfig:
    """recipes/black_box.toml with one epoch on 600 messages, or fewer, against the endpoint that this demo serves."""
    from stillproof.config import DistillConfig

    return DistillConfig.model_validate(
        {
            "name": "front-desk-71m-demo",
            "teacher": {
                "kind": "openai",
                "model": SPECIALIST,
                "base_urls": [url],
                "licence": "apache-2.0",
                "concurrency": 64,
            },
            "data": {
                "train": "intents:unlabelled",
                "control": "intents:gold",
                "heldout": "intents:test",
                "max_documents": given.messages,
            },
            "generate": {"temperature": 0.0, "max_tokens": 8},
            "student": {"model": str(student)},
            "train": {
                "loss": "cross_entropy",
                "learning_rate": 6e-4,
                "checkpoint_steps": 20,
                "rows_per_step": given.rows_per_step,
            },
            "eval": {"answers": True, "max_answers": given.answers, "answer_tokens": 8},
        }
    )


def teach_specialist(folder: Path, given: Amounts = WHOLE, on_event: OnEvent = ignore) -> Path:
    """SmolLM2 itself, taught the front desk's task from gold answers: the teacher that act 2 calls. Made once."""
    from stillproof.config import TrainConfig
    from stillproof.device import native_bf16
    from stillproof.distill.builtin import intents
    from stillproof.distill.pack import pack
    from stillproof.distill.train import train
    from stillproof.teacher.gguf import quiet
    from stillproof.teacher.weights import load_weights

    if folder.exists():
        return folder
    model, tokenizer = load_weights("smollm2")
    rows = pack(intents("teach", size=given.taught), tokenizer, row_tokens=256)
    config = TrainConfig(
        loss="cross_entropy", learning_rate=2e-4, checkpoint_steps=20, rows_per_step=given.rows_per_step
    )
    training = folder.with_name(f"{SPECIALIST}-training")
    on_event(Event(stage=SPECIALIST, done=0, total=None, note="teaching SmolLM2 a task, to have something to distil"))
    dtype = "bf16" if native_bf16() else "fp32"
    train(
        model, rows, None, config, training, n_vocab=len(tokenizer), seed=7, dtype=dtype, stage=SPECIALIST,
        on_event=on_event,
    )  # fmt: skip
    made = folder.with_name(f".{folder.name}.making")
    with quiet():
        model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\nSmolLM2, taught one task by a demo.\n", "utf-8")
    shutil.rmtree(training)
    return made.rename(folder)


@contextmanager
def endpoint(folder: Path) -> Iterator[str]:
    """The weights in `folder` behind an OpenAI-compatible endpoint on this machine; its base URL."""
    from stillproof import serve
    from stillproof.config import TeacherConfig
    from stillproof.teacher import open_teacher

    teacher = open_teacher(TeacherConfig(kind="weights", model=str(folder)))
    with serve.endpoint(teacher) as server:
        yield server.url
    teacher.close()
