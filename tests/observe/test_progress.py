"""What a run shows: the right numbers in each form, and never an error for the run."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from rethink.observe import number_text, progress
from rethink.observe.live import LiveView, sparkline
from rethink.observe.report.before_after import MISSING, comparison, verdict

ROW = {
    "step": 3,
    "reward/mean": 1.25,
    "rollout/accuracy": 0.5,
    "rollout/format": 0.875,
    "rollout/length_mean": 63.4,
    "policy/kl": 0.00123,
    "time/step": 8.5,
}
EVALUATION = {
    "eval/accuracy": 0.12,
    "eval/accuracy_low": 0.08,
    "eval/accuracy_high": 0.17,
    "eval/format": 0.5,
    "eval/length_mean": 70.2,
    "eval/n": 200,
}


def drive(view: progress.Progress) -> None:
    view.start(10, 2)
    view.phase("rollout", 3, 8)
    view.phase("rollout", 4, 8)
    view.step(ROW)
    view.evaluation(3, EVALUATION)
    view.note("[red]read me[/red]")
    view.close()


def test_lines_are_one_a_step() -> None:
    stream = io.StringIO()
    drive(progress.Lines(stream))
    assert stream.getvalue().splitlines() == [
        "10 steps, resumed after step 2",
        "step 3/10  reward 1.250  accuracy 50.0 %  format 87.5 %  length 63.4  kl 0.0012  time 8.5 s  left 1 min 00 s",
        "evaluation after step 3: accuracy 12.0 % (95 % interval 8.0 to 17.0), format 50.0 %, length 70.2, "
        "200 problems",
        "[red]read me[/red]",
    ]


@pytest.mark.parametrize(
    ("judged", "text"),
    [
        (190, "accuracy 12.0 % (95 % interval 8.0 to 17.0)"),
        (0, "no accuracy"),
    ],
)
def test_accuracy_says_how_many_problems_it_is_of(judged: int, text: str) -> None:
    shown = progress.evaluation_text(EVALUATION | {"eval/judged": judged})
    assert shown == f"{text}, format 50.0 %, length 70.2, 200 problems, {judged} of them judged"
    entry = {"accuracy": 0.12, "accuracy_ci": [0.08, 0.17], "n": 200, "judged": judged}
    rows = {row.label: row.before for row in comparison(entry, None)}
    assert rows["accuracy"] == ("12.0 %" if judged else MISSING)
    assert rows["problems"] == f"200 ({judged} judged)"
    assert bool(verdict(entry, entry)) is bool(judged)


def test_json_lines_are_events() -> None:
    stream = io.StringIO()
    drive(progress.JsonLines(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["start", "phase", "step", "evaluation", "note", "end"]
    assert events[0] == {"event": "start", "total_steps": 10, "done_steps": 2}
    assert events[2] == {"event": "step", **ROW}
    assert events[3] == {"event": "evaluation", **EVALUATION, "step": 3}


def test_json_stays_json_with_a_nan() -> None:
    stream = io.StringIO()
    progress.JsonLines(stream).step({"step": 1, "policy/loss": float("nan")})
    assert json.loads(stream.getvalue(), parse_constant=pytest.fail)["policy/loss"] == "nan"


def picture(view: LiveView, console: Console) -> str:
    with console.capture() as captured:
        console.print(view.render())
    return captured.get()


def test_the_live_view_shows_where_the_run_is() -> None:
    console = Console(width=100, force_terminal=True, color_system=None, file=io.StringIO())
    view = LiveView(title="quick[start]", console=console)
    view.start(60, 0)
    try:
        assert "measuring the time left" in picture(view, console)
        for step in range(1, 4):
            view.step({**ROW, "step": step, "reward/mean": step / 2})
        view.phase("rollout", 3, 8)
        view.evaluation(3, EVALUATION)
        text = picture(view, console)
    finally:
        view.close()
    for words in (
        "quick[start]", "step 3 of 60", "about 8 min", "sampling completions  3 of 8", "0.500", "1.500", "▁▅█",
        "50.0 %", "87.5 %", "63 tokens", "8.5 s", "8.0 to 17.0", "12.0 %",
    ):  # fmt: skip
        assert words in text, text


def test_the_live_view_is_drawn_on_a_terminal_and_leaves_its_last_picture() -> None:
    stream = io.StringIO()
    console = Console(width=100, force_terminal=True, color_system=None, file=stream)
    drive(LiveView(console=console))
    text = stream.getvalue()
    assert "[red]read me[/red]" in text
    assert "step 3 of 10" in text


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([0, 1], 8, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([0, 0, 8, 8], 2, "▁█"),
        ([5, 5, 5], 8, "▁▁▁"),
        ([float("nan"), 1, float("inf"), 2], 8, "▁█"),
        ([], 8, ""),
        ([1], 0, ""),
    ],
)
def test_sparkline(values: list[float], width: int, bars: str) -> None:
    assert sparkline(values, width) == bars


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.94, "8.9 s"), (42.2, "42 s"), (425, "7 min 05 s"), (7805, "2 h 10 min"), (float("nan"), "?")],
)
def test_duration(seconds: float, text: str) -> None:
    assert number_text.duration(seconds) == text


def test_time_left_follows_recent_steps() -> None:
    left = number_text.TimeLeft(window=2)
    left.start(10, 4)
    assert left.seconds() is None
    for step, seconds in ((5, 100.0), (6, 2.0), (7, 4.0)):
        left.step({"step": step, "time/step": seconds})
    assert left.seconds() == pytest.approx(9.0)


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def _fail(self, *arguments: Any) -> None:
        self.calls += 1
        raise BrokenPipeError("closed")

    start = phase = step = evaluation = note = close = _fail


def test_a_broken_view_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken()
    drive(progress.Guarded(broken))
    assert broken.calls == 2, "the failing call and the attempt to close it"
    assert capsys.readouterr().err.count("progress view is off") == 1


def test_odd_rows_do_no_harm() -> None:
    stream = io.StringIO()
    console = Console(width=60, force_terminal=True, file=stream)
    live = LiveView(console=console)
    for view in (progress.Lines(stream), progress.JsonLines(stream), live):
        view.start(0)
        view.step({"step": 1, "reward/mean": None, "rollout/accuracy": "x", "time/step": float("nan")})
        view.evaluation(1, {})
    live.render()
    live.close()
    assert "step 1/0  time ?  left ?" in stream.getvalue().splitlines()


def test_fine_tuning_is_shown_by_its_losses() -> None:
    stream = io.StringIO()
    live = LiveView(console=Console(width=80, force_terminal=False, file=stream))
    for view in (progress.Lines(stream), live):
        view.start(4)
        view.evaluation(0, {"eval/loss": 2.5, "eval/n": 7})
        view.step({"step": 1, "train/loss": 1.25, "train/tokens": 40, "time/step": 2.0})
        view.close()
    shown = stream.getvalue()
    assert "evaluation after step 0: held-out loss 2.5000, 7 documents" in shown
    assert "step 1/4  loss 1.2500  tokens 40  time 2.0 s" in shown
    assert "2.5000" in shown.split("step 1/4")[1]  # the live view's own table
    assert "accuracy" not in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_mode_follows_the_stream() -> None:
    def inner(view: progress.Progress) -> type:
        return type(view._inner)  # type: ignore[attr-defined]

    assert inner(progress.make_progress("auto", stream=io.StringIO())) is progress.Lines
    assert inner(progress.make_progress("auto", stream=Terminal())) is LiveView
    assert inner(progress.make_progress("json", stream=Terminal())) is progress.JsonLines
    assert type(progress.make_progress("none")) is progress.Silent
