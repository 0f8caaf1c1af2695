"""train.py: it learns, it resumes to the bit, and several processes do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny_model import tiny_model, tiny_tokenizer

from stillproof.config import TrainConfig
from stillproof.distill.cache import CacheKey, build
from stillproof.distill.pack import pack
from stillproof.distill.train import learning_rate, schedule, train
from stillproof.errors import MismatchError, StorageError, TrainingError
from stillproof.exchange import document

TOKENIZER = tiny_tokenizer()
ROWS = pack([document(f"line {n} of the text, and {n * n} more", "t") for n in range(60)], TOKENIZER, row_tokens=32)
CONFIG = TrainConfig(
    loss="cross_entropy", rows_per_step=4, epochs=2, learning_rate=3e-3, checkpoint_steps=3, device="cpu", dtype="fp32"
)


def run(folder, config=CONFIG, *, targets_of=None, until_step=None, rows=ROWS, model=None, on_event=None):
    student = tiny_model(seed=1) if model is None else model
    events = [] if on_event is None else None
    trained = train(
        student,
        rows,
        targets_of,
        config,
        folder,
        n_vocab=261,
        seed=5,
        dtype="fp32",
        until_step=until_step,
        on_event=events.append if events is not None else on_event,
    )
    return student, trained


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def losses_of(folder):
    return [json.loads(line)["loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_cross_entropy_goes_down(tmp_path):
    run(tmp_path)
    losses = losses_of(tmp_path)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_forward_kl_brings_the_student_to_the_teacher(tmp_path):
    key = CacheKey("t", None, None, ROWS.digest, 261, 16, "fp32", None)
    cached = build(tiny_model(seed=0), ROWS, key, tmp_path / "cache")
    config = CONFIG.model_copy(update={"loss": "forward_kl"})
    run(tmp_path / "kd", config, targets_of=cached.targets)
    losses = losses_of(tmp_path / "kd")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(tmp_path):
    whole, _ = run(tmp_path / "whole")
    for stop in (1, 3, 7, 11):
        folder = tmp_path / f"stopped-{stop}"

        def killed(event, stop=stop):
            if event.done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(folder, on_event=killed)
        resumed, trained = run(folder)
        assert trained.finished
        assert same(whole, resumed)
        assert losses_of(folder) == losses_of(tmp_path / "whole")


def test_a_run_in_two_parts_equals_one_in_one(tmp_path):
    whole, _ = run(tmp_path / "whole")
    _, first = run(tmp_path / "parts", until_step=5)
    second, trained = run(tmp_path / "parts")
    assert first.step == 5 and not first.finished
    assert trained.finished and same(whole, second)


def test_a_finished_run_takes_no_further_step(tmp_path):
    student, _ = run(tmp_path)
    again, trained = run(tmp_path)
    assert trained.tokens_per_s is None and same(student, again)


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    run(tmp_path, until_step=3)
    with pytest.raises(MismatchError, match="other data or settings"):
        run(tmp_path, CONFIG.model_copy(update={"learning_rate": 1e-3}))
    with pytest.raises(MismatchError, match="other data or settings"):
        run(tmp_path, rows=ROWS.take(slice(0, 10)))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    run(tmp_path, until_step=3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    broken = tiny_model(seed=1)

    def poison(event):
        with torch.no_grad():
            broken.model.norm.weight.fill_(float("nan"))

    with pytest.raises(TrainingError, match="step 4"):
        run(tmp_path, model=broken, on_event=poison)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path):
    code = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from tests import test_distill_train as t
folder = Path({str(tmp_path)!r})
t.run(folder, until_step=3)
size = (folder / "checkpoint.pt").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
from stillproof.errors import StorageError
try:
    t.run(folder)
except StorageError as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "told: cannot write a checkpoint" in done.stdout
    assert issubclass(StorageError, OSError)
    assert not (tmp_path / "checkpoint.pt.tmp").exists()
    _, trained = run(tmp_path)
    assert trained.finished


def test_each_epoch_reads_every_row_once_in_an_order_of_its_own():
    steps = schedule(10, CONFIG, seed=1)
    first, second = np.concatenate(steps[:3]), np.concatenate(steps[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert schedule(10, CONFIG, seed=2)[0].tolist() != steps[0].tolist()


def test_the_learning_rate_warms_up_to_its_peak_and_ends_at_its_final_share():
    config = TrainConfig(learning_rate=1.0, warmup_share=0.1, final_lr_share=0.05)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_two_processes_take_the_same_steps_as_one(tmp_path):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import torch
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
from pathlib import Path
from tests import test_distill_train as t
rank = torch.distributed.get_rank()
student, _ = t.run(Path({str(tmp_path)!r}) / "two")
torch.save(student.state_dict(), Path({str(tmp_path)!r}) / f"rank{{rank}}.pt")
torch.distributed.destroy_process_group()
"""
    script = tmp_path / "two.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, _ = run(tmp_path / "one")
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in one.state_dict().items():
        assert torch.equal(both[0][name], both[1][name])
        torch.testing.assert_close(both[0][name], value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), rtol=1e-3)
