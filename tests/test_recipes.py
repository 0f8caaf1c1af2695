"""Every recipe in recipes/ runs, in tiny size, with nothing but its sizes, its teacher and its start replaced."""

from pathlib import Path

import pytest
from tests.faulty_server import FaultyServer
from tests.tiny_model import tiny_folder

from stillproof import distill
from stillproof.config import DistillConfig, load

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("[!w]*.toml"))
CARD = "---\nlicense: apache-2.0\n---\n"


def test_there_are_recipes():
    assert {"laptop.toml", "black_box.toml", "own_answers.toml"} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_in_tiny_size(path, tmp_path):
    tiny = str(tiny_folder(tmp_path / "tiny", card=CARD))
    words = ["data.max_documents=60", "data.heldout_share=0.3", "data.max_tokens=6_000", "data.heldout_tokens=2_000",
             "train.rows_per_step=4", "train.row_tokens=192", "train.max_steps=3", "train.preflight_steps=1",
             "train.device=cpu", "train.dtype=fp32", "eval.max_answers=4", "eval.elsewhere_tokens=1_000",
             "eval.resamples=100", "generate.max_tokens=6", "eval.answer_tokens=4"]  # fmt: skip
    with FaultyServer() as server:
        recipe = load(DistillConfig, path)
        if recipe.teacher.kind == "openai":
            words += [f'teacher.base_urls=["{server.url}"]', f"student.model={tiny}", "teacher.concurrency=4"]
        else:
            words += ["teacher.kind=weights", f"teacher.model={tiny}", "student.n_layers=1"]
        result = distill.run(load(DistillConfig, path, words), tmp_path / "run")
    assert (Path(result["student_dir"]) / "model.safetensors").exists()
    assert result["n_tokens"] > 0
    measured = "exact_match_student" if recipe.teacher.kind == "openai" else "kl_student_nats"
    assert result["retention"][measured] is not None
