"""run_folder.py, stages.py: one run from terms to shipped student, whole, killed, resumed, and refused."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.faulty_server import Fault, FaultyServer
from tests.tiny_model import tiny_folder, tiny_model, tiny_tokenizer

from stillproof import distill
from stillproof.config import DistillConfig
from stillproof.errors import BudgetError, ConfigError, MismatchError, OutputExistsError, TermsError
from stillproof.exchange import Exchange
from stillproof.lineage import read_manifest, verify_manifest
from stillproof.store import Store

CARD = "---\nlicense: apache-2.0\n---\n"
WORDS = ("the", "river", "mill", "ran", "past", "a", "miller", "thought", "of", "bread", "then", "flour", "again")


def text(number):
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(14))


def texts(path, n=60):
    path.write_text("".join(json.dumps({"text": text(number)}) + "\n" for number in range(n)))
    return path


def prompts(path, n=24):
    rows = [{"prompt": text(number), "response": text(number).split()[0]} for number in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path, **sections):
    """A run of seconds: a tiny teacher at hand, given text, one of two layers."""
    teacher = tmp_path / "teacher"
    if not teacher.exists():
        tiny_folder(teacher, card=CARD)
    values = {
        "teacher": {"kind": "weights", "model": str(teacher)},
        "data": {"train": str(texts(tmp_path / "texts.jsonl")), "text": "given", "heldout_share": 0.3},
        "student": {"n_layers": 1},
        "train": {"row_tokens": 64, "rows_per_step": 2, "learning_rate": 3e-3, "checkpoint_steps": 4,
                  "preflight_steps": 2, "dtype": "fp32", "device": "cpu"},
        "eval": {"resamples": 200},
        "cache": {"top_k": 16, "batch_rows": 1, "audit_share": 0.2},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return DistillConfig.model_validate(values)


def black_box(tmp_path, url, **teacher):
    """The same student taught by the text of an endpoint."""
    return config(
        tmp_path,
        teacher={"kind": "openai", "model": "box", "base_urls": [url], "licence": "apache-2.0", "concurrency": 2,
                 "max_retries": 0, **teacher},
        data={"train": str(prompts(tmp_path / "prompts.jsonl")), "text": "teacher", "heldout_share": 0.3},
        generate={"temperature": 0.0, "max_tokens": 8},
        student={"model": str(tmp_path / "teacher"), "n_layers": None},
        train={"loss": "cross_entropy", "row_tokens": 192},
        eval={"answers": True, "answer_tokens": 6, "max_answers": 5},
    )  # fmt: skip


def weights(folder):
    return load_file(folder / "student" / "model.safetensors")


def same_weights(a, b):
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_a_run_ends_with_the_keys_it_promises_and_a_folder_that_verifies(tmp_path):
    result = distill.run(config(tmp_path), tmp_path / "run")
    retention = result["retention"]
    for key in ("kl_init_nats", "kl_student_nats", "kl_control_nats", "agreement_student", "agreement_control",
                "perplexity_teacher", "perplexity_student", "perplexity_control"):  # fmt: skip
        low, high = retention[f"{key}_interval"]
        assert low <= retention[key] <= high, key
    assert retention["kl_student_nats"] < retention["kl_init_nats"]
    assert result["n_tokens"] > 0 and result["tokens_per_s"] > 0 and result["peak_rss_mb"] > 0
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(json.dumps(result))
    student = Path(result["student_dir"])
    assert verify_manifest(student) == []
    assert read_manifest(student).retention["kl_student_nats"] == retention["kl_student_nats"]
    assert (tmp_path / "run" / "retention.html").read_text().startswith("<!")


def test_the_same_config_and_text_give_the_same_weights(tmp_path):
    for name in ("one", "two"):
        distill.run(config(tmp_path), tmp_path / name)
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_stages_one_by_one_equal_the_run(tmp_path):
    distill.run(config(tmp_path), tmp_path / "whole")
    for name in ("generate", "cache", "train", "eval", "ship"):
        distill.stage(name, config(tmp_path), tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


KILLED = """
import os, signal, sys
from pathlib import Path
from stillproof import distill
from stillproof.config import DistillConfig, load

def kill(event):
    if event.stage == sys.argv[3] and event.done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

distill.run(load(DistillConfig, Path(sys.argv[1])), Path(sys.argv[2]), "resume", kill)
"""
KILLS = (("cache", 128), ("control", 1), ("train", 6), ("control", 9), ("eval", 0))


def killed_at(stage, done, path, out):
    """Run in a process of its own that the kernel kills at an event; whether it got that far."""
    command = [sys.executable, "-c", KILLED, str(path), str(out), stage, str(done)]
    return subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL


def test_killed_in_every_stage_and_resumed_it_ends_with_the_same_bits(tmp_path):
    wanted = config(tmp_path)
    path = tmp_path / "wanted.json"
    path.write_text(wanted.model_dump_json())
    distill.run(wanted, tmp_path / "whole")
    out = tmp_path / "killed"
    for stage, done in KILLS:
        assert killed_at(stage, done, path, out), (stage, done)
    distill.run(wanted, out, "resume")
    assert same_weights(tmp_path / "whole", out)


def test_no_answer_that_was_stored_is_asked_for_again_after_kills(tmp_path):
    with FaultyServer([Fault(delay_s=0.03)] * 400, reply=lambda body: body["messages"][-1]["content"][:5]) as server:
        wanted = black_box(tmp_path, server.url)
        path = tmp_path / "wanted.json"
        path.write_text(wanted.model_dump_json())
        out = tmp_path / "killed"
        for done in (3, 3, 3):
            assert killed_at("generate", done, path, out), done
        result = distill.run(wanted, out, "resume")
        repeated = sum(n - 1 for n in server.calls_by_body.values())
        assert repeated <= 3 * wanted.teacher.concurrency
        asked = set(server.calls_by_body)
    n_train = result["data"]["n_documents"]
    assert result["stages"]["generate"]["n_exchanges"] == n_train
    assert len(asked) == n_train + result["retention"]["n_answers"]
    with FaultyServer(reply=lambda body: body["messages"][-1]["content"][:5]) as server:
        distill.run(black_box(tmp_path, server.url), tmp_path / "whole")
    assert same_weights(tmp_path / "whole", out)


def test_an_endpoint_that_dies_half_way_loses_nothing_and_the_run_goes_on_with_another(tmp_path):
    with FaultyServer([*[Fault()] * 7, Fault(die=True)]) as server, pytest.raises(Exception, match="resume") as caught:
        distill.run(black_box(tmp_path, server.url), tmp_path / "run")
    assert caught.value.exit_code == 1  # type: ignore[attr-defined]
    with FaultyServer() as server:
        result = distill.run(black_box(tmp_path, server.url), tmp_path / "run", "resume")
        assert server.calls <= result["data"]["n_documents"] - 7 + 2 + result["retention"]["n_answers"]


def test_a_black_box_run_measures_answers_and_says_that_it_cannot_measure_kl(tmp_path):
    with FaultyServer(reply=lambda body: body["messages"][-1]["content"].split()[0]) as server:
        retention = distill.run(black_box(tmp_path, server.url), tmp_path / "run")["retention"]
    assert retention["exact_match_teacher"] == 1.0
    assert "kl_student_nats" not in retention or retention["kl_student_nats"] is None


@pytest.mark.parametrize("licence, decision", [("llama2", "forbid"), ("somebody's licence", "not known to allow")])
def test_terms_that_deny_or_are_unknown_stop_before_any_call(tmp_path, licence, decision):
    with FaultyServer() as server:
        with pytest.raises(TermsError, match=decision) as caught:
            distill.run(black_box(tmp_path, server.url, licence=licence), tmp_path / "run")
        assert server.calls == 0
    assert caught.value.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_a_grant_lets_the_run_go_on_and_stays_with_the_student(tmp_path):
    grant = {"id": "grant-17", "grantor": "Example Models Inc.", "grantee": "us", "scope": "train_other_model",
             "teacher": "box", "issued": "2026-01-01", "expires": "2099-01-01", "evidence": "a letter"}  # fmt: skip
    (tmp_path / "grant.json").write_text(json.dumps(grant))
    with FaultyServer() as server:
        wanted = black_box(tmp_path, server.url, licence="llama2")
        wanted = wanted.model_copy(
            update={"terms": wanted.terms.model_copy(update={"grant": str(tmp_path / "grant.json")})}
        )
        student = Path(distill.run(wanted, tmp_path / "run")["student_dir"])
    assert "grant-17" in (student / "README.md").read_text()
    assert read_manifest(student).parents[0].grant["id"] == "grant-17"


def test_a_cache_made_for_other_text_is_refused(tmp_path):
    out = tmp_path / "run"
    for name in ("generate", "cache"):
        distill.stage(name, config(tmp_path), out)
    manifest = json.loads((out / "cache" / "cache.json").read_text())
    manifest["key"]["tokenizer"] = "another"
    (out / "cache" / "cache.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match="tokenizer"):
        distill.stage("train", config(tmp_path), out)


def test_another_config_in_the_same_folder_is_refused_by_the_names_that_differ(tmp_path):
    distill.stage("generate", config(tmp_path), tmp_path / "run")
    with pytest.raises(OutputExistsError, match="--if-exists"):
        distill.run(config(tmp_path), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        distill.run(config(tmp_path, train={"learning_rate": 1e-3}), tmp_path / "run", "resume")


def test_a_student_with_a_padded_vocabulary_works_and_gives_padding_no_mass(tmp_path):
    wide = tmp_path / "wide"
    model = tiny_model(seed=3)
    model.resize_token_embeddings(288)
    model.save_pretrained(wide)
    tiny_tokenizer().save_pretrained(wide)
    (wide / "README.md").write_text(CARD)
    result = distill.run(config(tmp_path, student={"model": str(wide)}), tmp_path / "run")
    assert result["retention"]["kl_student_nats"] < result["retention"]["kl_init_nats"]
    # Rows that no token has are cut off: nothing trains them, and a sampler could draw them.
    assert weights(tmp_path / "run")["model.embed_tokens.weight"].shape[0] == 261


def test_a_student_without_rows_for_the_teachers_tokens_is_refused(tmp_path):
    narrow = tmp_path / "narrow"
    model = tiny_model(seed=3)
    model.resize_token_embeddings(260)
    model.save_pretrained(narrow)
    tiny_tokenizer().save_pretrained(narrow)
    (narrow / "README.md").write_text(CARD)
    with pytest.raises(MismatchError, match="rows for 260"):
        distill.run(config(tmp_path, student={"model": str(narrow)}), tmp_path / "run")


def test_a_teacher_that_is_no_better_than_a_quick_student_is_warned_of(tmp_path):
    events = []
    distill.run(config(tmp_path, train={"preflight_steps": 15}), tmp_path / "run", "fail", events.append)
    warned = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert warned["warning"] is not None  # the tiny teacher is random: plain text teaches more
    assert any(event.note == warned["warning"] for event in events)


def test_a_gate_that_the_student_misses_is_named(tmp_path):
    result = distill.run(config(tmp_path, eval={"resamples": 200, "max_kl_nats": 1e-6}), tmp_path / "run")
    assert "max_kl_nats" in result["gate"]


def test_the_shipped_student_generates_without_stillproof(tmp_path):
    student = distill.run(config(tmp_path), tmp_path / "run")["student_dir"]
    code = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"m = AutoModelForCausalLM.from_pretrained({student!r}); t = AutoTokenizer.from_pretrained({student!r})\n"
        "out = m.generate(**t('the river', return_tensors='pt'), max_new_tokens=5, do_sample=False)\n"
        "assert out.shape[1] > 5 and 'stillproof' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, capture_output=True)


def test_a_plan_counts_calls_tokens_money_and_disk_and_calls_nobody(tmp_path):
    with FaultyServer() as server:
        prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_response_tokens": 2.0}
        plan = distill.plan(black_box(tmp_path, server.url, **prices))
        assert server.calls == 0
    assert plan["n_requests"] == 17 + 5  # 24 prompts less the 7 held out, and the answers asked for in eval
    response_tokens = 17 * 8 + 5 * 6
    assert plan["max_usd"] == pytest.approx((plan["prompt_tokens"] + 2 * response_tokens) / 1e6)
    assert plan["disk_mb"] is not None and plan["hours"] is not None


def test_the_students_first_weights_meet_the_terms_before_any_call(tmp_path):
    unknown = tiny_folder(tmp_path / "unknown")
    with FaultyServer() as server:
        wanted = black_box(tmp_path, server.url)
        values = wanted.model_dump(mode="json")
        values["student"]["model"] = str(unknown)
        with pytest.raises(TermsError, match="not known to allow"):
            distill.run(DistillConfig.model_validate(values), tmp_path / "run")
        assert server.calls == 0


def test_replace_deletes_a_run_and_nothing_else(tmp_path):
    model = tiny_folder(tmp_path / "model", card=CARD)
    with pytest.raises(OutputExistsError, match="no run of stillproof"):
        distill.run(config(tmp_path), model, "replace")
    assert (model / "model.safetensors").exists()
    distill.stage("generate", config(tmp_path), tmp_path / "run")
    distill.run(config(tmp_path, train={"max_steps": 2}), tmp_path / "run", "replace")


def test_replacing_a_stage_keeps_the_answers_that_were_paid_for(tmp_path):
    with FaultyServer() as server:
        distill.run(black_box(tmp_path, server.url), tmp_path / "run")
        calls = server.calls
        distill.stage("generate", black_box(tmp_path, server.url), tmp_path / "run", "replace")
        distill.run(black_box(tmp_path, server.url), tmp_path / "run", "resume")
        assert server.calls == calls


def test_a_cap_holds_over_all_attempts_at_a_run(tmp_path):
    with FaultyServer() as server:
        wanted = black_box(tmp_path, server.url, max_requests=10)
        for if_exists in ("fail", "resume", "resume"):
            with pytest.raises(BudgetError):
                distill.run(wanted, tmp_path / "run", if_exists)
        assert server.calls <= 10


def test_text_that_a_model_wrote_under_unrecorded_terms_is_refused(tmp_path):
    with Store.create(tmp_path / "store") as store:
        for number in range(20):
            store.append(Exchange(id=f"e{number}", messages=(), response=text(number), model="somebody", status=200))
        store.seal()
    with pytest.raises(TermsError, match="no terms are recorded"):
        distill.run(config(tmp_path, data={"train": str(tmp_path / "store")}), tmp_path / "run")


def test_several_processes_are_refused_not_let_loose_on_one_folder(tmp_path):
    command = [sys.executable, "-m", "stillproof", "distill", "run", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | {"WORLD_SIZE": "2"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "one process" in done.stderr


def test_what_was_left_out_is_told(tmp_path):
    result = distill.run(config(tmp_path, data={"max_tokens": 600}), tmp_path / "run")
    assert result["data"]["left_out_beyond_max_tokens"] > 0


def test_a_shipped_config_names_no_path_of_this_machine(tmp_path):
    extra = str(texts(tmp_path / "elsewhere.jsonl", n=10))
    result = distill.run(config(tmp_path, eval={"resamples": 200, "elsewhere": (extra,)}), tmp_path / "run")
    assert str(tmp_path) not in (Path(result["student_dir"]) / "stillproof_config.json").read_text()
