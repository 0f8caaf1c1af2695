"""The stages of a run. Each finds what earlier stages left in the run's folder; no answer, shard or step is made twice.

generate  the teacher answers the prompts, training and held-out
cache     the teacher's distributions on the training rows
train     the control's first steps, the pre-flight, the student, the rest of the control
eval      retention on held-out text, beside the untrained student and the control
ship      the student as a folder that transformers loads
"""

from __future__ import annotations

import errno
import gc
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stillproof import allocator
from stillproof.config import DistillConfig
from stillproof.distill.run_folder import Run, write_json
from stillproof.distill.shipping import ship_stage
from stillproof.errors import InputError, StillproofError, StorageError
from stillproof.exchange import Exchange, sha256_of
from stillproof.lineage import version
from stillproof.progress import Event
from stillproof.store import Store
from stillproof.teacher.weights import hash_chat_template, hash_tokenizer

if TYPE_CHECKING:
    from stillproof.distill.cache import CacheKey
    from stillproof.distill.pack import Rows
    from stillproof.distill.train import Trained
    from stillproof.teacher import Request

Stage = Callable[[Run], dict[str, Any]]


def generate_stage(run: Run) -> dict[str, Any]:
    """The teacher answers training and held-out prompts. Where the text is given, nobody is asked."""
    if run.config.data.text == "given":
        return {"n_exchanges": 0}
    if run.accepted is None:
        asked = run.parted.train.items
        if run.config.has_teacher_weights:
            # Held-out answers serve the comparison of distributions, which an endpoint does not give.
            asked = (*asked, *run.parted.heldout.items)
        requests = run.requests(asked)
        # Answers that only the evaluation asks for count as well: a grant is not found too small after training.
        run.check_volume(_n_calls(run, requests))
        run.ask_teacher(requests)
        run.accept(requests)
    store = Store.open(run.store_path)
    return {"n_exchanges": len(store), "store": str(run.store_path), "store_digest": store.digest}


def cache_stage(run: Run) -> dict[str, Any]:
    """The teacher's distributions on the training rows. A loss on the text alone needs none."""
    if not run.config.soft_targets:
        return {"n_positions": 0}
    if run.config.data.text == "given":
        # No answer is taken, but the teacher's distribution on every document is.
        run.check_volume(len(run.parted.train.items) + len(run.parted.heldout.items))
    from stillproof.distill import cache

    folder, key = run.out / "cache", _cache_key(run)
    if cache.is_complete(folder, key):
        built = cache.Cache(folder)
    else:
        built = cache.build(
            run.teacher_model(),
            run.rows,
            key,
            folder,
            batch_rows=run.config.cache.batch_rows,
            audit_share=run.config.cache.audit_share,
            seed=run.config.seed,
            on_event=run.on_event,
        )
        _release()
    kept = {name: built.manifest[name] for name in ("n_positions", "bytes", "fidelity")}
    return {"folder": str(folder), **kept}


def train_stage(run: Run) -> dict[str, Any]:
    """The control's first steps, the pre-flight, the student, the rest of the control."""
    config = run.config.train
    made: dict[str, Any] = {"preflight": None, "control": None}
    # Of its own text the teacher is always the better model: there is nothing to find out.
    is_open = run.config.data.text == "given" and run.config.has_teacher_weights
    if _has_control(run.config) and config.preflight_steps and is_open:
        made["preflight"] = _preflight(run)
    made["student"] = _report(run, "train", _train(run, "train"))
    if _has_control(run.config):
        made["control"] = _report(run, "control", _train(run, "control"))
    return made


def eval_stage(run: Run) -> dict[str, Any]:
    """Retention on held-out text, beside the untrained student and the control."""
    students = {"init": run.fresh_student().eval(), "student": run.trained("train")}
    if _has_control(run.config):
        students["control"] = run.trained("control")
    result: dict[str, Any] = {}
    if run.config.has_teacher_weights:
        models = {"teacher": run.teacher_model(), **students}
        result |= _retention(run, models, run.heldout_rows, "held-out text")
        result["elsewhere"] = {
            source: _retention(run, models, run.elsewhere_rows(source), source) for source in run.config.eval.elsewhere
        }
    if run.config.eval.answers:
        result |= _answers(run, students)
    result["gate"] = _gate(run.config, result)
    write_json(run.out / "retention.json", result)
    return result


STAGES: dict[str, Stage] = {
    "generate": generate_stage,
    "cache": cache_stage,
    "train": train_stage,
    "eval": eval_stage,
    "ship": ship_stage,
}


def timed(run: Run, name: str) -> dict[str, Any]:
    """A stage's result, with the seconds it took in this call."""
    started = time.monotonic()
    try:
        result = STAGES[name](run)
    except OSError as error:
        if isinstance(error, StillproofError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StorageError(
            f"the disk refused in stage {name}: {error.strerror}",
            str(error.filename or run.out),
            "free some space, then go on with --if-exists resume: what was stored is kept",
        ) from error
    return result | {"duration_s": round(time.monotonic() - started, 2)}


def forget_from(run: Run, name: str) -> None:
    """Drop the results of a stage and of those after it. The teacher's answers were paid for and are kept."""
    made = {
        "generate": ("accepted.json",),
        "cache": ("cache",),
        "train": ("train", "control", "preflight.json"),
        "eval": ("retention.json",),
        "ship": ("student", "result.json", "retention.html"),
    }
    for stage in list(STAGES)[list(STAGES).index(name) :]:
        for path in (run.out / part for part in made[stage]):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    run.__dict__.pop("accepted", None)


def finish(run: Run, started_s: float, made: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The result of a whole run, as `--json` prints it; written to result.json, with a page to look at."""
    from stillproof.report import to_html

    student = made["train"]["student"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "name": run.config.name,
        "gate": made["eval"]["gate"],
        "terms": run.verdict.to_json(),
        "data": _data_report(run),
        "retention": made["eval"],
        "n_tokens": student["n_tokens"],
        "duration_s": round(time.monotonic() - started_s, 1),
        "tokens_per_s": student["tokens_per_s"],
        "peak_rss_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024)),
        "allocator": allocator.in_use(),
        "dtype": run.dtype,
        "stages": {name: result for name, result in made.items() if name != "eval"},
        "student_dir": made["ship"]["student_dir"],
        "signed_by": made["ship"]["signed_by"],
    }
    write_json(run.out / "result.json", result)
    curves = [row for which, name in (("train", "student"), ("control", "control")) for row in _curve(run, which, name)]
    to_html(result | {"metrics": curves}, run.out / "retention.html")
    return result


# --- training -------------------------------------------------------------------------------------------------


def _train(run: Run, which: Literal["train", "control"], until_step: int | None = None) -> Trained:
    from stillproof.distill import train as training
    from stillproof.distill.cache import Cache

    config, rows, targets_of = run.config.train, run.rows, None
    if which == "control":
        # As many steps as the student takes, whatever the length of the control's own text.
        n_steps = len(training.schedule(len(rows), config, run.config.seed))
        rows = run.control_rows
        epochs = -(-n_steps * config.rows_per_step // len(rows)) + 1
        update = {"loss": "cross_entropy", "max_steps": n_steps, "epochs": max(epochs, config.epochs)}
        config = config.model_copy(update=update)
    elif run.config.soft_targets:
        stored = Cache(run.out / "cache")
        stored.check(_cache_key(run))
        targets_of = stored.targets
    trained = training.train(
        run.fresh_student(),
        rows,
        targets_of,
        config,
        run.out / which,
        n_vocab=run.n_vocab,
        seed=run.config.seed,
        dtype=run.dtype,
        stage=which,
        until_step=until_step,
        on_event=run.on_event,
    )
    _release()
    return trained


def _release() -> None:
    """Give back what a training run leaves: student and optimiser refer to themselves and wait for the collector."""
    from stillproof.distill.losses import release_buffers

    release_buffers()
    gc.collect()
    allocator.give_back()


def _preflight(run: Run) -> dict[str, Any]:
    """Is the teacher better on held-out text than a student trained for a few steps on the text alone?

    Distillation copies a bad teacher faithfully, so it is worth a warning before the long part begins. The steps are
    the control's own first ones, and are not lost.
    """
    from stillproof.distill import retention as measure

    path = run.out / "preflight.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    steps = run.config.train.preflight_steps
    _train(run, "control", steps)
    models = {"teacher": run.teacher_model(), "student": run.trained("control")}
    scores = measure.score(models, run.heldout_rows.take(slice(0, 8)), n_vocab=run.n_vocab, dtype=run.dtype)
    n = scores.n_positions.sum()
    teacher, student = (float(np.exp(scores.nll_nats[name].sum() / n)) for name in ("teacher", "student"))
    warning = (
        f"after {steps} steps of plain training the student's perplexity on held-out text ({student:.2f}) is no worse "
        f"than the teacher's ({teacher:.2f}): this teacher has little to teach here, and distillation copies what it "
        "lacks"
    )
    found = {
        "steps": steps,
        "perplexity_teacher": teacher,
        "perplexity_quick_student": student,
        "warning": warning if teacher >= student else None,
    }
    write_json(path, found)
    del models
    _release()
    note = found["warning"] or f"the teacher is better than a quick student: perplexity {teacher:.2f} to {student:.2f}"
    run.on_event(Event(stage="preflight", done=1, total=1, note=note))
    return found


def _has_control(config: DistillConfig) -> bool:
    """A control that learned the same text by the same loss would be the student again."""
    return config.train.control and (config.soft_targets or config.data.control is not None)


def _data_report(run: Run) -> dict[str, Any]:
    """What was learned, and what was not: nothing is left out in silence."""
    parted, rows = run.parted, run.rows
    return {
        "train": parted.train.source,
        "heldout": parted.heldout.source,
        "n_documents": len(parted.train.items),
        "n_documents_heldout": len(parted.heldout.items),
        "dropped_because_held_out": len(parted.overlaps),
        "bad_lines": [f"{bad.where}: {bad.reason}" for bad in parted.train.bad[:20]],
        "n_bad_lines": len(parted.train.bad),
        "truncated": rows.n_truncated,
        "left_out_beyond_max_tokens": rows.n_left_out,
    }


def _report(run: Run, which: str, trained: Trained) -> dict[str, Any]:
    """Counts and speed over all calls that trained it, read from the metrics, so that a resumed run tells the same."""
    steps = _metrics(run, which)
    seconds = sum(step["step_s"] for step in steps) or 1e-9
    return {
        "n_steps": trained.step,
        "n_tokens": trained.n_tokens,
        "last_loss_nats": steps[-1]["loss_nats"],
        "train_s": round(seconds, 2),
        "tokens_per_s": round(trained.n_tokens / seconds, 1),
    }


def _metrics(run: Run, which: str) -> list[dict[str, float]]:
    path = run.out / which / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _curve(run: Run, which: str, model: str) -> list[dict[str, Any]]:
    return [{"step": row["step"], "loss": row["loss_nats"], "model": model} for row in _metrics(run, which)]


def _cache_key(run: Run) -> CacheKey:
    from stillproof.distill.cache import CacheKey

    record = run.verdict.record
    return CacheKey(
        teacher=run.identity.digest,
        tokenizer=hash_tokenizer(run.tokenizer),
        chat_template=hash_chat_template(run.tokenizer),
        rows=run.rows.digest,
        n_vocab=run.n_vocab,
        top_k=run.config.cache.top_k,
        dtype=run.dtype,
        terms=None if record is None else record.id,
    )


# --- evaluation -----------------------------------------------------------------------------------------------


def _retention(run: Run, models: Mapping[str, Any], rows: Rows, what: str) -> dict[str, Any]:
    from stillproof.distill import retention as measure
    from stillproof.finding import Run as Recomputed

    config = run.config.eval
    run.on_event(Event(stage="eval", done=0, note=f"scoring {rows.n_targets:,} positions of {what}"))
    n_bytes = _bytes_scored(rows, run.tokenizer)
    scores = measure.score(models, rows, n_vocab=run.n_vocab, n_bytes=n_bytes, dtype=run.dtype)
    return measure.retention(
        scores,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=run.config.seed,
        control_text="the same text" if run.config.data.control is None else run.config.data.control,
        run=Recomputed(
            command="stillproof distill eval --config config.json --out . --if-exists resume",
            config_sha256=sha256_of(run.config.model_dump(mode="json")),
            stillproof=version(),
            seed=run.config.seed,
        ),
    )


def _bytes_scored(rows: Rows, tokenizer: Any) -> np.ndarray:
    """UTF-8 bytes of the scored tokens of each document, shape [n_documents]; special tokens have none."""
    row, position = np.nonzero(rows.targets_mask)
    document, ids = rows.document[row, position], rows.input_ids[row, position + 1]
    n_bytes = np.zeros(int(document.max()) + 1)
    for number in np.unique(document):
        own = ids[document == number].tolist()
        n_bytes[number] = len(tokenizer.decode(own, skip_special_tokens=True).encode())
    return n_bytes


def _answers(run: Run, students: Mapping[str, Any]) -> dict[str, Any]:
    """Exact match of everybody's answers to held-out prompts, at temperature 0, asked as the training prompts were."""
    from stillproof.distill import retention as measure
    from stillproof.distill.generate import answers as answers_in

    config = run.config.eval
    items, requests = _exam(run)
    run.ask_teacher(requests)
    with Store.open(run.store_path) as store:
        by_key = {item.request_key: item.response for item in answers_in(store, requests, run.identity.model)}
    answers = {"teacher": [by_key.get(request.key(run.identity.model)) for request in requests]}
    for name, model in students.items():
        run.on_event(Event(stage="eval", done=0, total=len(items), unit="answers", note=f"{name} answers"))
        prompts = [request.messages for request in requests]
        answers[name] = measure.answer_prompts(
            model, run.tokenizer, prompts, max_tokens=config.answer_tokens, batch_size=64
        )
    gold = [item.response or "" for item in items]
    return dict(measure.exact_match(answers, gold, pattern=config.answer_pattern, confidence=config.confidence))


def _exam(run: Run) -> tuple[list[Exchange], tuple[Request, ...]]:
    """Held-out prompts with gold answers, and the calls that have the teacher answer them at temperature 0."""
    from stillproof.distill.generate import requests_for

    config = run.config.eval
    items = [item for item in run.parted.heldout.items if item.messages and item.response is not None]
    items = items[: config.max_answers]
    if not items:
        raise InputError("no held-out prompt has a gold answer", run.parted.heldout.source, "set eval.answers=false")
    greedy = {"temperature": 0.0, "max_tokens": config.answer_tokens, "samples": 1, "top_p": None, "top_k": None}
    return items, requests_for(items, run.config.generate.model_copy(update=greedy))


def _n_calls(run: Run, requests: Iterable[Request]) -> int:
    """Different calls in all that a run makes: the given ones, and those of the evaluation."""
    exam = _exam(run)[1] if run.config.eval.answers else ()
    return len({request.key(run.identity.model) for request in (*requests, *exam)})


def _gate(config: DistillConfig, result: Mapping[str, Any]) -> str | None:
    """Which of the config's gates the student did not pass; None where it passed all."""
    kl, most = result.get("kl_student_nats"), config.eval.max_kl_nats
    if most is not None and kl is not None and kl > most:
        return f"the student's KL of {kl:.3f} nats is above eval.max_kl_nats = {most}"
    least = config.eval.min_answer_share
    if least is not None and result["exact_match_student"] < least * result["exact_match_teacher"]:
        return f"the student's exact match {result['exact_match_student']:.3f} is below {least} of the teacher's"
    return None
