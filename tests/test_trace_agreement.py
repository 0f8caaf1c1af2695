"""Agreement with null models: valid ranks, power where answers were learned, and what is refused or undecided."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator, Philox
from typer.testing import CliRunner

from stillproof.cli import app
from stillproof.errors import ConfigError, InputError
from stillproof.exchange import Exchange, Message, Provenance
from stillproof.store import Store
from stillproof.trace.agreement import AgreementSettings, Statistic, answers_in, find_agreement, null_stores

WORDS = ("river", "engine", "garden", "letter", "harbour", "winter", "market", "violin", "ladder", "orchard")
BOTH: tuple[Statistic, ...] = ("paired", "rare")


def told(rng: Generator, n: int, words: int = 3) -> list[str]:
    return [" ".join(WORDS[i] for i in rng.integers(0, len(WORDS), words)) for _ in range(n)]


def learned(ours: list[str], own: list[str], share: float, rng: Generator) -> list[str]:
    return [a if rng.random() < share else b for a, b in zip(ours, own, strict=True)]


def nulls_of(rng: Generator, n: int, prompts: int) -> dict[str, list[str]]:
    return {f"null {i}": told(rng, prompts) for i in range(n)}


@pytest.mark.parametrize("statistic", BOTH)
def test_a_model_that_learned_from_our_answers_is_found_at_the_floor(statistic: Statistic) -> None:
    rng = Generator(Philox(1))
    ours = told(rng, 60)
    suspect = learned(ours, told(rng, 60), 0.4, rng)
    finding = find_agreement(ours, suspect, nulls_of(rng, 120, 60), AgreementSettings(statistic))
    assert (finding.decision, finding.kind, finding.n_reference) == ("found", "reference_based", 120)
    assert finding.log10_p == pytest.approx(-math.log10(121))
    assert "does not prove" in finding.claim


@pytest.mark.parametrize("statistic", BOTH)
def test_innocent_suspects_have_uniform_ranks(statistic: Statistic) -> None:
    rng, n_suspects = Generator(Philox(2)), 2_000
    settings = AgreementSettings(statistic, 0.2, min_prompts=2)
    ours = told(rng, 5, 2)
    p = np.empty(n_suspects)
    for i in range(n_suspects):
        nulls = {str(j): told(rng, 5, 2) for j in range(4)}
        p[i] = 10 ** (find_agreement(ours, told(rng, 5, 2), nulls, settings).log10_p or 0.0)
    for level in (0.2, 0.4):
        assert (p <= level + 1e-9).mean() <= level + 3 * math.sqrt(level * (1 - level) / n_suspects)


def test_siblings_of_one_base_weigh_one() -> None:
    rng = Generator(Philox(3))
    ours = told(rng, 40)
    nulls = nulls_of(rng, 300, 40)
    one_base = find_agreement(ours, ours, nulls, bases=dict.fromkeys(nulls, "base"))
    assert one_base.decision == "inconclusive"
    assert one_base.log10_p is None
    assert find_agreement(ours, ours, nulls, bases={name: name for name in nulls}).decision == "found"


def test_style_that_is_the_same_for_every_prompt_is_no_paired_agreement() -> None:
    rng = Generator(Philox(4))
    ours = [f"{text} in the style of the house" for text in told(rng, 60)]
    stylish = [f"{text} in the style of the house" for text in told(rng, 60)]
    finding = find_agreement(ours, stylish, nulls_of(rng, 120, 60))
    assert finding.statistic is not None
    assert abs(finding.statistic) < 0.1


def test_a_suspect_that_says_nothing_and_few_prompts_decide_nothing() -> None:
    rng = Generator(Philox(5))
    ours = told(rng, 40)
    nulls = nulls_of(rng, 120, 40)
    assert find_agreement(ours, [None] * 40, nulls).decision == "inconclusive"
    few = find_agreement(ours[:5], ours[:5], {name: own[:5] for name, own in nulls.items()})
    assert (few.decision, few.log10_p, few.statistic) == ("inconclusive", None, None)
    for wrong in ({}, {"a": ours[:3]}):
        with pytest.raises(InputError):
            find_agreement(ours, ours, wrong)
    with pytest.raises(ConfigError):
        AgreementSettings(alpha=2.0)


def stored(path: Path, answers: list[str], skip: int = 0) -> Path:
    with Store.create(path) as store:
        rows = [
            Exchange(
                id=f"{path.name}-{i}",
                messages=(Message("user", f"question {i}"),),
                response=text,
                provenance=Provenance("teacher", "t"),
            )
            for i, text in enumerate(answers)
        ]
        store.append_many(rows[skip:])
    return path


def test_the_command_ranks_a_suspect_among_stores(tmp_path: Path) -> None:
    rng = Generator(Philox(6))
    ours = told(rng, 40)
    served, suspect = stored(tmp_path / "ours", ours), stored(tmp_path / "theirs", ours, skip=2)
    (tmp_path / "nulls").mkdir()
    for i in range(4):
        stored(tmp_path / "nulls" / f"m{i}", told(rng, 40))
    words = ["--test", "agreement", "--suspect", suspect, "--served", served, "--nulls", tmp_path / "nulls"]
    result = CliRunner().invoke(app, ["trace", "outputs", *map(str, words), "--alpha", "0.2", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 3, result.output
    assert (found["decision"], found["kind"], found["n"], found["n_reference"]) == ("found", "reference_based", 38, 4)
    missing = CliRunner().invoke(app, ["trace", "outputs", *map(str, words[:4]), "--json"])
    assert missing.exit_code == 2


def test_stores_of_one_base_lie_in_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    a, b = stored(tmp_path / "alone", ["x"]), stored(tmp_path / "base" / "child", ["y"])
    assert null_stores(tmp_path) == {a: "alone", b: "base"}
    with pytest.raises(InputError, match="no null models"):
        null_stores(tmp_path / "base" / "child" / "nothing")
    with pytest.raises(InputError, match="no prompt"):
        answers_in([a, stored(tmp_path / "other", ["x", "y"], skip=1)])
