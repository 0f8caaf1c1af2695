import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.tiny_model import TEMPLATE, tiny_model, tiny_tokenizer

from stillproof import lineage, terms
from stillproof.config import DistillConfig
from stillproof.distill.card import SMOLLM2_HUB_ID, Start, code_span, markdown, retention_rows
from stillproof.distill.ship import ship
from stillproof.errors import ConfigError, InputError, OutputExistsError, StorageError, TermsError
from stillproof.teacher import Identity

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TEACHER = Identity(model="acme/teacher-7b", kind="weights", weights="e" * 64, licence="apache-2.0")
GRANT = terms.Grant("g-7", "Acme *Legal*", "us", terms.SCOPE, "*", TODAY, None, "letter of 3 May")
RETENTION: dict[str, Any] = {
    "kl_init_nats": 7.93,
    "kl_init_nats_interval": [7.8, 8.0],
    "kl_student_nats": 0.7451,
    "kl_student_nats_interval": [0.72, 0.77],
    "kl_control_nats": 1.43,
    "kl_control_nats_interval": None,
    "agreement_student": 0.654,
    "agreement_student_interval": [0.64, 0.67],
    "perplexity_teacher": 12.5,
    "exact_match_student": None,
    "n_positions": 12000,
    "n_documents": 40,
    "confidence": 0.95,
}
DATA = {
    "sources": [{"name": "python-docs", "digest": "a" * 64}, "hub:acme/corpus"],
    "n_tokens": 320_000,
    "n_documents": 400,
}


@dataclass(frozen=True)
class Saved:
    """Stands where a model stands when only the folder around it is tested; writes one file."""

    file: str
    fails: bool = False

    def save_pretrained(self, save_directory: str) -> None:
        (Path(save_directory) / self.file).write_text("saved")
        if self.fails:
            raise OSError(28, "No space left on device")


def ask(licence: str | None, *, grant: terms.Grant | None = None, derivative: bool = False) -> terms.Verdict:
    return terms.ask(
        licence=licence,
        provider=None,
        model=TEACHER.model,
        declared_by="weights metadata",
        grant=grant,
        today=TODAY,
        derivative=derivative,
    )


def send(folder: Path, licence: str | None = "apache-2.0", **changes: Any) -> Path:
    """Ship a stand-in student of a teacher under this licence."""
    order = folder / "order.npy"
    order.write_bytes(b"0 1 2")
    arguments: dict[str, Any] = {
        "out": folder / "out",
        "name": "student",
        "identity": replace(TEACHER, licence=licence),
        "init": None,
        "verdict": ask(licence),
        "config": DistillConfig(),
        "retention": RETENTION,
        "data": DATA,
        "data_order": order,
        "created": NOW,
    }
    return ship(changes.pop("student", Saved("model.safetensors")), Saved("tokenizer.json"), **{**arguments, **changes})


def front_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def shown(text: str) -> str:
    """What a reader of the Markdown sees, as plain text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    leaves = [leaf for token in tokens for leaf in token.children or ()]
    return " ".join(leaf.content for leaf in leaves if leaf.type in ("text", "code_inline"))


LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "hi"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
made = model.generate(**prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
assert "stillproof" not in sys.modules
print(made.shape[1] - prompt["input_ids"].shape[1], tokenizer.chat_template == sys.argv[2])
"""


def test_a_process_without_stillproof_loads_the_student_and_generates(tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_text("[0]")
    folder = ship(
        tiny_model(),
        tiny_tokenizer(),
        out=tmp_path / "out",
        name="student",
        identity=TEACHER,
        init=Start(TEACHER, ask("apache-2.0", derivative=True), "layers 0, 1 of 4"),
        verdict=ask("apache-2.0", derivative=True),
        config=DistillConfig(),
        retention=RETENTION,
        data=DATA,
        data_order=order,
        created=NOW,
    )
    answer = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), TEMPLATE], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.split() == ["5", "True"]
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert names >= {"README.md", "stillproof.json", "stillproof_config.json", "data_order.json", "LICENSE", "NOTICE"}
    assert lineage.verify_manifest(folder) == []
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_card_shows_every_number_beside_the_untrained_student_and_the_control(tmp_path: Path) -> None:
    text = (send(tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "| on held-out data | teacher | before training | control | student |" in text
    assert "| – | 7.930 [7.800, 8.000] | 1.430 | 0.745 [0.720, 0.770] |" in text
    assert "| – | – | – | 65.4 [64.0, 67.0] |" in text
    assert "exact match (%)" not in text
    assert "12,000 positions of 40 held-out documents" in text
    assert "95% confidence" in text
    assert "took as many steps under plain cross-entropy" in text
    assert "not legal advice" in text


def test_a_retention_of_nones_is_a_table_without_rows() -> None:
    assert retention_rows({"kl_student_nats": None})[0] == []
    assert (
        retention_rows({"kl_student_nats": 0.5, "kl_student_nats_interval": [None, None]})[0][0]["cells"][3] == "0.500"
    )


def test_the_front_matter_names_licence_teacher_data_and_base(tmp_path: Path) -> None:
    start = Start(replace(TEACHER, model="acme/base"), ask("apache-2.0", derivative=True))
    front = front_of(send(tmp_path, init=start))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "acme/base"
    assert front["distilled_from"] == [{"model": TEACHER.model, "digest": TEACHER.digest, "weights": "e" * 64}]
    assert front["tags"] == ["distillation", "stillproof"]
    assert front["datasets"] == ["acme/corpus"]


def test_the_bundled_smollm2_is_named_by_its_hub_id_and_a_local_folder_by_its_last_part(tmp_path: Path) -> None:
    bundled = replace(TEACHER, model="smollm2", kind="smollm2")
    folder = send(tmp_path, identity=bundled, init=Start(bundled, ask("apache-2.0", derivative=True)))
    assert front_of(folder)["base_model"] == SMOLLM2_HUB_ID
    assert "as quantised to Q4\\_1" in (folder / "README.md").read_text(encoding="utf-8")
    local = replace(TEACHER, model=str(tmp_path / "secret" / "mine"))
    folder = send(tmp_path, out=tmp_path / "two", identity=local, init=Start(local, ask("apache-2.0", derivative=True)))
    assert "base_model" not in front_of(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "mine" in text
    assert "secret" not in text


def test_the_manifest_holds_parents_config_order_and_retention(tmp_path: Path) -> None:
    folder = send(tmp_path)
    manifest = lineage.read_manifest(folder)
    assert manifest.created == NOW.isoformat()
    assert manifest.parents[0].verdict["record"] == "apache-2.0"
    assert manifest.config["seed"] == DistillConfig().seed
    assert manifest.data_order == {"file": "data_order.npy", "sha256": lineage.file_sha256(tmp_path / "order.npy")}
    assert manifest.retention["kl_control_nats_interval"] is None
    assert json.loads((folder / "stillproof_config.json").read_text())["train"]["loss"] == "forward_kl"


# --- duties ---------------------------------------------------------------------------------------------------


def test_a_llama_student_without_the_prefix_is_refused_and_with_it_carries_what_it_owes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set name=Llama-student") as caught:
        send(tmp_path, "llama3.1")
    assert "at the beginning of any such AI model name" in str(caught.value)
    assert not (tmp_path / "out").exists()
    folder = send(tmp_path, "llama3.1", name="Llama-student")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert front_of(folder)["license"] == "llama3.1"
    assert "**Built with Llama**" in text
    assert "use-policy" in text
    record = ask("llama3.1").record
    assert record is not None
    assert terms.text_digest((folder / "LICENSE").read_text(encoding="utf-8")) == record.sha256
    assert not (folder / "NOTICE").exists()


def test_a_student_made_of_llama_weights_also_carries_the_notice(tmp_path: Path) -> None:
    init = Start(TEACHER, ask("llama3.1", derivative=True))
    folder = send(tmp_path, "llama3.1", name="Llama-student", init=init)
    assert "Llama 3.1 is licensed under" in (folder / "NOTICE").read_text(encoding="utf-8")


def test_a_gemma_student_passes_the_restrictions_on(tmp_path: Path) -> None:
    folder = send(tmp_path, "gemma")
    assert front_of(folder)["license"] == "gemma"
    assert "Gemma is provided under and subject to" in (folder / "NOTICE").read_text(encoding="utf-8")
    assert "Prohibited" in (folder / "USE_RESTRICTIONS-gemma-prohibited-use.txt").read_text(encoding="utf-8")
    assert "must bind others so" in (folder / "README.md").read_text(encoding="utf-8")


def test_restrictions_that_are_part_of_the_licence_are_not_copied_twice(tmp_path: Path) -> None:
    folder = send(tmp_path, "bigscience-openrail-m")
    assert "Attachment A" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert not list(folder.glob("USE_RESTRICTIONS*"))
    assert "must bind others so" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_weights_a_student_starts_from_bind_it_beside_its_teacher(tmp_path: Path) -> None:
    folder = send(tmp_path, "mit", init=Start(TEACHER, ask("gemma", derivative=True)))
    assert front_of(folder)["license"] == "gemma"
    folder = send(
        tmp_path, "gemma", out=tmp_path / "two", name="Llama-x", init=Start(TEACHER, ask("llama3.2", derivative=True))
    )
    front = front_of(folder)
    assert (front["license"], front["license_name"]) == ("other", "gemma-2025-03-24-and-llama-3.2")
    assert {path.name for path in folder.glob("LICENSE*")} == {"LICENSE-gemma-2025-03-24", "LICENSE-llama-3.2"}


def test_permissive_parents_give_the_stricter_of_their_licences(tmp_path: Path) -> None:
    assert front_of(send(tmp_path, "mit"))["license"] == "mit"
    init = Start(TEACHER, ask("apache-2.0", derivative=True))
    assert front_of(send(tmp_path, "mit", out=tmp_path / "two", init=init))["license"] == "apache-2.0"


@pytest.mark.parametrize("licence", [None, "llama2"])
def test_what_the_terms_do_not_carry_is_not_shipped_but_with_a_grant_that_stays_in_the_card(
    tmp_path: Path, licence: str | None
) -> None:
    with pytest.raises(TermsError):
        send(tmp_path, licence)
    with pytest.raises(TermsError):
        send(tmp_path, "apache-2.0", init=Start(TEACHER, ask(licence)))
    folder = send(tmp_path, licence, verdict=ask(licence, grant=GRANT))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert front_of(folder)["license_name"] == "by-recorded-grant"
    assert "`g-7`, by Acme \\*Legal\\*, to us" in text
    assert "whoever builds on this model has to carry it on" in text
    assert "**deny**" in text if licence else "**unknown**" in text
    grant = lineage.read_manifest(folder).parents[0].grant
    assert grant is not None
    assert grant["evidence"] == "letter of 3 May"


# --- hostile names, and a folder that is whole or absent ------------------------------------------------------

HOSTILE = 'x"\n---\nlicense: mit\n# <script>alert(1)</script> | [a](http://evil) `b` {{ 7*7 }} ![i](x) \x1b[31m\u2028y'


def test_a_hostile_model_name_is_only_text(tmp_path: Path) -> None:
    identity = replace(TEACHER, model=HOSTILE)
    folder = send(tmp_path, identity=identity, init=Start(identity, ask("apache-2.0", derivative=True), HOSTILE))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert front_of(folder)["license"] == "apache-2.0"
    assert "base_model" not in front_of(folder)
    assert lineage.declared(folder)["licence"] == "apache-2.0"
    body = text.split("---\n", 2)[2]
    html = MarkdownIt("commonmark").enable("table").render(body)
    assert "<script>" not in html
    assert "<img" not in html
    assert 'href="http://evil"' not in html
    assert "\x1b" not in text
    assert "{{ 7*7 }}" in shown(body)


@given(st.text(max_size=60))
def test_escaped_text_is_shown_as_itself(text: str) -> None:
    plain = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    assert shown(f"a {markdown(text)} b") == " ".join(f"a {plain} b".split(" ")) or not plain
    assert len(MarkdownIt("commonmark").parse(markdown(text))) in (0, 3)


def test_addresses_from_outside_become_no_links_on_sites_that_link_bare_ones() -> None:
    assert markdown("www.evil.example") == "www\\.evil.example"
    assert markdown("https://evil.example") == "https\\://evil.example"
    assert markdown("a@evil.example") == "a\\@evil.example"


@given(st.text(min_size=1, max_size=60))
def test_a_code_span_holds_any_text(text: str) -> None:
    inline = MarkdownIt("commonmark").parseInline(f"a {code_span(text)} b")[0].children or []
    assert [token.type for token in inline] == ["text", "code_inline", "text"]


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[31m", "x" * 97])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="printable"):
        send(tmp_path, name=name)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"):
        send(tmp_path, student=Saved("model.safetensors", fails=True))
    assert [path.name for path in tmp_path.iterdir()] == ["order.npy"]


def test_what_an_interrupted_run_left_is_not_shipped(tmp_path: Path) -> None:
    stale = tmp_path / ".out.building"
    stale.mkdir()
    (stale / "old.safetensors").write_text("old")
    folder = send(tmp_path)
    assert not (folder / "old.safetensors").exists()
    assert not stale.exists()


def test_an_earlier_student_is_never_overwritten(tmp_path: Path) -> None:
    folder = send(tmp_path)
    was = (folder / "stillproof.json").read_bytes()
    with pytest.raises(OutputExistsError):
        send(tmp_path, name="another")
    assert (folder / "stillproof.json").read_bytes() == was


def test_a_student_without_its_data_order_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data order"):
        send(tmp_path, data_order=tmp_path / "none")
