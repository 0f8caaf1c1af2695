import json
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillproof.errors import InputError
from stillproof.finding import Check, Effect, Finding, Run
from stillproof.report import read, to_html, to_terminal
from stillproof.report.text import number, plain

RETENTION: dict[str, Any] = {
    "kl_init_nats": 7.93,
    "kl_init_nats_interval": [7.7, 8.1],
    "kl_student_nats": 0.745,
    "kl_student_nats_interval": [0.71, 0.78],
    "kl_control_nats": 1.43,
    "kl_control_nats_interval": [1.38, 1.49],
    "agreement_init": 0.024,
    "agreement_student": 0.649,
    "agreement_student_interval": [0.63, 0.667],
    "agreement_control": 0.60,
    "perplexity_teacher": 6.1,
    "perplexity_init": 44000.0,
    "perplexity_student": 9.46,
    "perplexity_control": 6.84,
    "kl_student_over_control": 0.52,
    "kl_student_over_control_interval": [0.5, 0.55],
    "n_positions": 12_000,
    "n_documents": 45,
    "confidence": 0.95,
    "findings": [],
}
FINDING = Finding(
    claim="the student is nearer",
    verb="distill",
    test="sign flip",
    kind="reference_based",
    null="symmetric about zero",
    statistic=0.7,
    n=45,
    n_unit="documents",
    n_reference=9999,
    decision="found",
    alpha=0.05,
    log10_p=-3.0,
    effect=Effect("KL ratio", "ratio", 0.52, 0.5, 0.55, 0.95),
    assumptions=("documents are independent",),
    checks=(Check("decoys", False, "7 of 100"),),
    run=Run("stillproof distill run", None, "0.1.0", 7),
)
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]x[/red]\r\u202egnp\u2028<script>alert(1)</script>\x00'\"&&"


def shown(capsys: pytest.CaptureFixture[str], value: dict[str, Any]) -> str:
    to_terminal(value)
    return capsys.readouterr().out


def page_of(value: dict[str, Any], tmp_path: Path) -> str:
    to_html(value, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_retention_stands_beside_untrained_control_and_teacher_with_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shown(capsys, {"retention": RETENTION, "n_tokens": 5})
    header = next(line for line in out.splitlines() if "untrained" in line)
    assert header.index("untrained") < header.index("control") < header.rindex("student") < header.index("teacher")
    line = next(line for line in out.splitlines() if "7.930" in line)
    assert "1.430" in line
    assert "0.7450" in line
    assert "[0.710, 0.780]" in out
    assert "64.9%" in out
    assert "12,000 token positions; 45 held-out documents" in out
    assert "bits per byte" not in out, "what was not measured has no row"


def test_a_retention_without_control_shows_that_it_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    partial = {k: (None if "control" in k else v) for k, v in RETENTION.items()}
    out = shown(capsys, partial)
    assert "control" in out
    assert "–" in out


def test_what_else_a_retention_holds_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, RETENTION | {"gate": {"passed": False, "reason": "KL above 0.5"}})
    assert "retention.gate" in out
    assert "KL above 0.5" in out


def test_a_finding_shows_claim_null_number_n_and_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, FINDING.to_json())
    for part in ("finding: found", "the student is nearer", "symmetric about zero", "p = 0.001", "n = 45 documents"):
        assert part in out
    for part in ("documents are independent", "FAILED: decoys 7 of 100", "[0.5000, 0.5500]", "reference_based"):
        assert part in out


def test_a_p_value_that_underflows_is_shown_as_a_power(capsys: pytest.CaptureFixture[str]) -> None:
    row = replace(FINDING, kind="design_based", n_reference=None, log10_p=-555.25).to_json()
    assert "10^-555.2" in shown(capsys, row)


def test_a_nested_mapping_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "decision": "unknown",
        "allowed": False,
        "grant": None,
        "record": {"id": "acme-terms", "clauses": [{"topic": "competing models", "effect": "forbid"}]},
        "reasons": [{"topic": "training", "quote": "You may not"}, {"topic": "output", "other": 3}],
        "duties": [],
        "findings": [FINDING.to_json()],
    }
    out = shown(capsys, value)
    for part in ("unknown", "no", "acme-terms", "record.clauses", "competing models", "You may not", "output"):
        assert part in out
    assert "the student is nearer" in out


def test_no_text_reaches_the_terminal_as_control_or_markup(capsys: pytest.CaptureFixture[str]) -> None:
    finding = FINDING.to_json() | {"claim": HOSTILE, "decision": HOSTILE}
    value = {HOSTILE: HOSTILE, "inner": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}, "finding": finding}
    out = shown(capsys, value | {"retention": RETENTION})
    bad = [c for c in out if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert bad == []
    flat = re.sub(r"\s+", "", out)
    assert "[red]x[/red]" in flat
    assert r"\x1b]0;owned\x07" in flat
    assert r"\u202egnp" in flat


@given(st.text(st.characters(codec=None)))
def test_plain_leaves_nothing_that_moves_or_hides_and_changes_no_other_text(text: str) -> None:
    safe = plain(text)
    assert not [
        c for c in safe if c not in "\n\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    safe.encode("utf-8")
    if text.isprintable():
        assert safe == text


def test_a_terminal_without_unicode_shows_text_escaped_not_a_traceback(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "from stillproof.report import to_terminal; to_terminal({'model': 'Grüße', 'none': None})"
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path), "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert r"Gr\xfc\xdfe" in done.stdout


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


RUN: dict[str, Any] = {
    "name": "student",
    "retention": RETENTION | {"findings": [FINDING.to_json()]},
    "n_tokens": 317_440,
    "teacher": {"model": "m", "licence": "apache-2.0"},
    "metrics": [{"step": s, "loss": 8 / (s + 1), "model": m} for m in ("student", "control") for s in range(900)],
}


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = Page(page_of(RUN, tmp_path))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        assert not {"src", "href", "onload", "onclick", "srcset", "style"} & set(attributes)
    assert "://" not in page_of(RUN, tmp_path)


def test_the_page_draws_bars_to_scale_with_whiskers_and_the_loss_curve(tmp_path: Path) -> None:
    page = Page(page_of(RUN, tmp_path))
    bars = [a for tag, a in page.tags if tag == "rect" and a.get("height") == "18"]
    widths = {a["class"]: float(a["width"] or 0) for a in bars[:4]}
    assert widths["init"] > widths["control"] > widths["student"] > widths["teacher"] == 0
    assert widths["student"] / widths["control"] == pytest.approx(0.745 / 1.43, rel=0.01)
    assert sum(tag == "line" and a.get("class") == "whisker" for tag, a in page.tags) == 3 * 4
    curves = [a for tag, a in page.tags if tag == "polyline"]
    assert [a["class"] for a in curves] == ["student", "control"]
    points = [tuple(map(float, p.split(","))) for p in (curves[0]["points"] or "").split()]
    assert 200 <= len(points) <= 900
    assert points[0][1] < points[-1][1], "a falling loss runs down the page"
    for part in ("64.9%", "[0.710, 0.780]", "Finding: found", "apache-2.0", "317,440", "Training loss"):
        assert part in page.text


def test_an_untrained_student_far_off_does_not_flatten_the_other_bars(tmp_path: Path) -> None:
    page = Page(page_of({"retention": RETENTION}, tmp_path))
    perplexity = [float(a["width"] or 0) for tag, a in page.tags if tag == "rect" and a.get("height") == "18"][8:12]
    assert perplexity[0] == perplexity[2] == 400
    assert perplexity[1] / perplexity[2] == pytest.approx(6.84 / 9.46, rel=0.01)
    assert "44,000 (bar cut)" in page.text


def test_the_page_escapes_every_text_that_others_wrote(tmp_path: Path) -> None:
    value = {
        "name": HOSTILE,
        HOSTILE: HOSTILE,
        "teacher": {HOSTILE: [HOSTILE, {"x": HOSTILE}]},
        "retention": RETENTION | {"findings": [FINDING.to_json() | {"claim": HOSTILE, "checks": [{"name": HOSTILE}]}]},
        "metrics": [{"step": 1, "loss": 2.0, "model": '"><script>alert(1)</script>'}],
    }
    html = page_of(value, tmp_path)
    assert "<script" not in html
    assert not [c for c in html if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    page = Page(html)
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    assert {a.get("class") for tag, a in page.tags if tag == "polyline"} == {"other"}


@given(st.text(st.characters(codec=None), max_size=30))
@settings(max_examples=30, deadline=None)
def test_no_text_adds_a_tag_to_the_page(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("page")
    safe, hostile = (Page(page_of({"name": name, "a": {"b": name}}, folder)) for name in ("x", text or "x"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in safe.tags]


def test_numbers_that_are_none_leave_the_page_whole(tmp_path: Path) -> None:
    wild = RETENTION | {"kl_student_nats": float("nan"), "kl_init_nats_interval": [0.0, float("inf")]}
    metrics = [{"step": 0, "loss": float("nan")}, {"step": 1, "loss": None}, {"loss": 3}, {"step": 2, "loss": 1.0}]
    html = page_of({"retention": wild, "metrics": metrics}, tmp_path)
    assert 'width="nan"' not in html
    assert "inf" not in " ".join(re.findall(r'(?:x|x1|x2|width|points)="([^"]*)"', html))
    assert len(re.findall("<polyline", html)) == 1


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        to_html({"retention": RETENTION, "metrics": _broken()}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    to_html(FINDING.to_json(), tmp_path / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def _broken() -> Any:
    yield {"step": 1, "loss": 1.0}
    raise ValueError("broken")


def test_read_finds_what_a_file_or_folder_is(tmp_path: Path) -> None:
    for folder, name in (("run", "result.json"), ("model", "stillproof.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps({"here": name}))
        assert read(tmp_path / folder) == {"here": name}
    (tmp_path / "finding.json").write_text(json.dumps(FINDING.to_json()))
    assert read(tmp_path / "finding.json") == FINDING.to_json()


def test_read_refuses_a_finding_that_nobody_should_believe(tmp_path: Path) -> None:
    (tmp_path / "finding.json").write_text(json.dumps(FINDING.to_json() | {"log10_p": None}))
    with pytest.raises(InputError, match="neither a p-value"):
        read(tmp_path / "finding.json")


@pytest.mark.parametrize("content", [b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_read_says_what_is_wrong_with_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read(tmp_path / "x.json")


def test_read_refuses_other_folders_and_absent_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder of ours"):
        read(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent")


def test_a_store_is_counted_by_model_and_status_without_its_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datetime import UTC, datetime

    from stillproof.exchange import Exchange, Message
    from stillproof.store import Store

    store = Store.create(tmp_path / "store")
    for place, (model, status) in enumerate([("a", 200), ("a", 200), ("a", 429), (None, None)]):
        time = datetime(2026, 1, 1, place, tzinfo=UTC) if model else None
        store.append(
            Exchange("", (Message("user", f"secret {place}"),), "secret", model=model, status=status, time=time)
        )
    store.seal()
    summary = read(tmp_path / "store")
    assert summary["exchanges"] == 4
    counted = [(row["model"], row["status"], row["exchanges"]) for row in summary["models"]]
    assert counted == [("a", 200, 2), (None, None, 1), ("a", 429, 1)]
    assert (summary["first"], summary["last"]) == ("2026-01-01T00:00:00+00:00", "2026-01-01T02:00:00+00:00")
    assert "secret" not in json.dumps(summary)
    assert "429" in shown(capsys, summary)


def test_numbers_keep_four_digits_and_never_round_to_zero() -> None:
    said = [number(v) for v in (0.7454, 12.3456, 1234567, 1234.5, 0.00012345, 0.0, None, -3.0, float("inf"))]
    assert said == ["0.7454", "12.35", "1,234,567", "1,234", "1.234e-04", "0", "–", "-3.000", "inf"]
