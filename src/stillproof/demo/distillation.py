"""The demo: a real language model distilled on this machine, offline, in two acts.

1. laptop: SmolLM2-135M-Instruct into a student of half its size, from its soft targets on word problems that we wrote,
   beside a control that read the same text without a teacher.
2. black_box: the same teacher, taught a task first, is put behind an OpenAI-compatible endpoint. The student of act 1
   learns the task from nothing but the endpoint's answers.

Both acts are `distill.run` with the recipes' settings and fewer tokens. Numbers of so short a run show that the
machinery works; `recipes/` has the full ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.distill.admission import IfExists

SPECIALIST = "specialist"


def run(out: Path, if_exists: IfExists = "fail", on_event: OnEvent = ignore) -> dict[str, Any]:
    """Play both acts in `out` and return what they measured. Resumable, as `distill.run` is."""
    from stillproof import distill
    from stillproof.distill.admission import remove_run

    started = time.monotonic()
    if if_exists == "replace":
        for name in ("laptop", "black_box"):
            remove_run(out / name)
        shutil.rmtree(out / SPECIALIST, ignore_errors=True)
    laptop = distill.run(laptop_config(), out / "laptop", "resume" if if_exists == "replace" else if_exists, on_event)
    specialist = teach_specialist(out / SPECIALIST, on_event)
    with endpoint(specialist) as url:
        config = black_box_config(url, Path(laptop["student_dir"]))
        black_box = distill.run(config, out / "black_box", "resume", on_event)
    return {
        "laptop": laptop,
        "black_box": black_box,
        "gate": None,
        "duration_s": round(time.monotonic() - started, 1),
        "out": str(out),
    }


def laptop_config() -> DistillConfig:
    """recipes/laptop.toml with an eighth of its tokens."""
    from stillproof.config import DistillConfig

    return DistillConfig.model_validate(
        {
            "name": "smollm2-71m-demo",
            "data": {
                "train": "word-problems:train",
                "heldout": "word-problems:test",
                "text": "given",
                "form": "plain",
                "max_tokens": 40_960,
                "heldout_tokens": 6_144,
            },
            "train": {"preflight_steps": 4, "checkpoint_steps": 20},
        }
    )


def black_box_config(url: str, student: Path) -> DistillConfig:
    """recipes/black_box.toml with one epoch on 600 messages, against the endpoint that this demo serves."""
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
                "max_documents": 600,
            },
            "generate": {"temperature": 0.0, "max_tokens": 8},
            "student": {"model": str(student)},
            "train": {"loss": "cross_entropy", "learning_rate": 6e-4, "checkpoint_steps": 20},
            "eval": {"answers": True, "max_answers": 150, "answer_tokens": 8},
        }
    )


def teach_specialist(folder: Path, on_event: OnEvent = ignore) -> Path:
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
    rows = pack(intents("teach", size=700), tokenizer, row_tokens=256)
    config = TrainConfig(loss="cross_entropy", learning_rate=2e-4, checkpoint_steps=20)
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
