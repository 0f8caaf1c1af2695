import io

import pytest

from stillproof.progress import LINE_INTERVAL_S, Bar, Event, Lines, duration, line, plain, renderer


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_lines_come_at_most_once_in_an_interval() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    for done in range(100):
        lines(Event("train", done, 1000, "steps"))
        clock.now_s += LINE_INTERVAL_S / 10
    assert len(stream.getvalue().splitlines()) == 10


def test_the_first_and_last_event_of_a_stage_are_always_shown() -> None:
    stream = io.StringIO()
    lines = Lines(stream, Clock())
    for event in (Event("cache", 0, 3), Event("cache", 1, 3), Event("cache", 3, 3), Event("train", 0, 9)):
        lines(event)
    assert stream.getvalue().splitlines() == ["cache: 0/3", "cache: 3/3", "train: 0/9"]


def test_a_note_is_shown_whenever_it_comes() -> None:
    stream = io.StringIO()
    lines = Lines(stream, Clock())
    lines(Event("train", 0, 9))
    lines(Event("train", 1, 9, note="the teacher is no better than the control"))
    assert stream.getvalue().splitlines()[-1] == "train: 1/9 - the teacher is no better than the control"


def test_no_carriage_return_or_escape_reaches_a_stream_that_is_no_terminal() -> None:
    stream = io.StringIO()
    with renderer(stream) as on_event:
        on_event(Event("generate\r", 1, 2, note="a\x1b[2Jb\r\nc\u202ed"))
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert not any(char in written for char in "\r\x1b\u202e")


def test_a_line_says_count_unit_rate_time_left_and_metrics() -> None:
    event = Event("train", 1_024, 20_480, "tokens", rate=812.4, eta_s=95.0, metrics={"kl_nats": 0.81234})
    assert line(event) == "train: 1,024/20,480 tokens 812/s 1 min 35 s left kl_nats=0.8123"


def test_what_is_not_known_is_not_said() -> None:
    assert line(Event("generate", 7)) == "generate: 7"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations_are_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_letters_of_every_script_stay_as_they_are() -> None:
    assert plain("déjà 蒸留 مقطر") == "déjà 蒸留 مقطر"


def test_a_bar_shows_notes_and_figures_without_reading_markup() -> None:
    stream = io.StringIO()
    with Bar(stream) as bar:
        bar(Event("train", 1, 4, "steps", note="[red]loss[/red] is NaN"))
        bar(Event("train", 4, 4, "steps"))
    assert "[red]loss[/red] is NaN" in stream.getvalue()
    assert "4/4 steps" in stream.getvalue()


def test_a_bar_outside_its_block_is_refused() -> None:
    with pytest.raises(RuntimeError, match="with"):
        Bar(io.StringIO())(Event("train", 0))
