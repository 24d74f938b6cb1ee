"""The live view of a run on a terminal, drawn with rich: what is being done, where the numbers go, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rethink.observe.diagnosis import LEAST, RECENT, diagnosis
from rethink.observe.number_text import TimeLeft, duration, number, percent
from rethink.terminal import make_console

MOST_WORKERS = 8
"""Rows of the table of workers."""
_BARS = "▁▂▃▄▅▆▇█"
_PHASES = {
    "rollout": "sampling completions",
    "reward": "scoring completions",
    "data": "reading the data",
    "reference": "computing log-probabilities of the reference model",
    "train": "updating the policy",
    "optimizer": "updating the weights",
    "evaluation": "evaluating on held-out problems",
    "checkpoint": "saving a checkpoint",
}
_METRICS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("reward/mean", "reward", lambda value: f"{value:.3f}"),
    ("rollout/accuracy", "accuracy", percent),
    ("rollout/format", "format", percent),
    ("rollout/length_mean", "length", lambda value: f"{value:.0f} tokens"),
    ("train/loss", "loss", lambda value: f"{value:.4f}"),
    ("reward_model/loss", "loss", lambda value: f"{value:.4f}"),
    ("reward_model/accuracy", "accuracy", percent),
    ("preference/loss", "loss", lambda value: f"{value:.4f}"),
    ("preference/accuracy", "accuracy", percent),
    ("preference/margin", "margin", lambda value: f"{value:.3f}"),
    ("time/step", "time a step", duration),
)


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars from their lowest to their highest; with more than `width`, neighbours are averaged."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite or width < 1:
        return ""
    if len(finite) > width:
        edges = [round(index * len(finite) / width) for index in range(width + 1)]
        pieces = [finite[start:end] for start, end in pairwise(edges)]
        finite = [sum(piece) / len(piece) for piece in pieces]
    low, high = min(finite), max(finite)
    if high - low <= 1e-12 * max(abs(high), abs(low)):
        return _BARS[0] * len(finite)
    return "".join(_BARS[min(7, int(8 * (value - low) / (high - low)))] for value in finite)


_MARKS = {
    "waiting": ("·", "dim"),
    "left out": (" ", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "kept": ("✓", "dim green"),
    "stopped": ("‖", "yellow"),
    "failed": ("✗", "bold red"),
}


def stage_tree(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The stages of a pipeline, each under what it uses, with its state, time and what it came to."""
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column()
    for row in rows:
        mark, style = _MARKS.get(str(row["state"]), ("?", ""))
        seconds = number(row, "seconds")
        took = duration(seconds) if seconds is not None else "done before" if row["state"] == "kept" else ""
        name = Text("  " * int(row.get("depth", 0)) + f"{mark} {row['name']}", style=style)
        table.add_row(name, Text(str(row["kind"]), style="dim"), Text(took), Text(str(row.get("text") or "")))
    return Panel(table, title="stages", title_align="left", border_style="dim", padding=(0, 1))


def workers_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Rollout workers: who is late first, then who has most to do."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("worker", no_wrap=True)
    table.add_column("machine", no_wrap=True)
    for name in ("to draw", "done", "tokens/s"):
        table.add_column(name, justify="right")
    table.add_column("")
    ordered = sorted(rows, key=lambda row: (-(row["late"] or 0.0), -row["held"], row["name"]))
    for row in ordered[:MOST_WORKERS]:
        rate = "" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:.0f}"
        late = "" if row["late"] is None else f"silent for {duration(row['late'])}"
        table.add_row(
            row["name"], str(row["host"]), str(row["held"]), str(row["done"]), rate, Text(late, style="bold red")
        )
    if len(rows) > MOST_WORKERS:
        table.add_row(Text(f"and {len(rows) - MOST_WORKERS} more", style="dim"))
    return table


class LiveView:
    """The view. Drawing happens in rich's own thread, a few times a second, from plain fields set by the run."""

    def __init__(self, *, title: str = "", stream: TextIO | None = None, console: Console | None = None) -> None:
        self._title = title
        self._console = console or make_console(file=stream)
        self._live: Live | None = None
        self._stages: list[dict[str, Any]] = []
        self._workers: list[dict[str, Any]] = []
        self._reset()

    def _reset(self) -> None:
        """Forget the run that was shown: a stage of a pipeline begins."""
        self._left = TimeLeft()
        self._history: dict[str, list[float]] = {name: [] for name, _, _ in _METRICS}
        self._rows: list[Mapping[str, Any]] = []
        self._evaluations: list[tuple[int, dict[str, Any]]] = []
        self._phase: tuple[str, int | None, int | None] = ("starting", None, None)
        self._phase_began = time.monotonic()
        self._step_began = time.monotonic()

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""
        self._reset()
        self.expect(total_steps, done_steps)
        self._begin()

    def _begin(self) -> None:
        if self._live is None:
            self._live = Live(
                get_renderable=self._safe_render, console=self._console, refresh_per_second=4, transient=True
            )
            self._live.start()

    def expect(self, total_steps: int, done_steps: int = 0) -> None:
        """Count steps without drawing: for a single picture by `render`."""
        self._left.start(total_steps, done_steps)

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """See `Progress`."""
        if name != self._phase[0]:
            self._phase_began = time.monotonic()
        self._phase = (name, done, total)

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._left.step(row)
        self._step_began = time.monotonic()
        self._rows = [*self._rows, dict(row)][-RECENT:]
        for name, values in self._history.items():
            value = number(row, name)
            if value is not None:
                values.append(value)

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._evaluations = [*self._evaluations, (step, dict(row))]

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(Text(text))

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        running = {row["name"] for row in self._stages if row["state"] == "running"}
        self._stages = [dict(row) for row in rows]
        if any(row["state"] == "running" and row["name"] not in running for row in rows):
            self._reset()
        self._begin()

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        self._workers = [dict(row) for row in rows]

    def close(self) -> None:
        """See `Progress`. The last picture stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print(self.render(final=True))

    def _safe_render(self) -> RenderableType:
        # Called in rich's thread, where no handler of ours catches its exceptions.
        try:
            return self.render()
        except Exception as error:
            return Text(f"(view: {type(error).__name__}: {error})")

    def render(self, *, final: bool = False) -> RenderableType:
        """The picture of this moment: the run, under the tree of a pipeline's stages where there is one."""
        if self._stages:
            tree = stage_tree(self._stages)
            running = any(row["state"] == "running" for row in self._stages)
            return Group(tree, self._run(final)) if running and not final else tree
        return self._run(final)

    def _run(self, final: bool) -> RenderableType:
        parts: list[RenderableType] = [self._progress_line(final)]
        if not final:
            parts.append(self._phase_line())
            if self._workers:
                parts += [Text(""), workers_table(self._workers)]
        if any(self._history.values()):
            parts += [Text(""), self._metrics_table()]
        if self._evaluations:
            parts += [Text(""), self._evaluation_table()]
        if found := diagnosis(self._rows, least=LEAST):
            parts += [Text(""), Text(found.text, style="yellow")]
        title = Text(self._title, style="bold") if self._title else None
        return Panel(Group(*parts), title=title, title_align="left", border_style="dim", padding=(0, 1))

    def _progress_line(self, final: bool) -> RenderableType:
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        left = self._left.seconds()
        if left is not None and not final:
            # The step under way counts as it goes, so that the number falls every second and not once a step.
            left = max(0.0, left - (time.monotonic() - self._step_began))
        remaining = "" if final else "measuring the time left" if left is None else f"about {duration(left)} left"
        bar = ProgressBar(total=max(1, self._left.total), completed=self._left.done)
        step = Text.assemble("step ", (str(self._left.done), "bold"), f" of {self._left.total}")
        line.add_row(step, bar, remaining)
        return line

    def _phase_line(self) -> RenderableType:
        name, done, total = self._phase
        text = _PHASES.get(name, name)
        if done is not None:
            text += f"  {done}" + (f" of {total}" if total is not None else "")
        return Text(f"{text}  {duration(time.monotonic() - self._phase_began)}", style="cyan")

    def _metrics_table(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        table.add_column("")
        table.add_column("first", justify="right")
        table.add_column("latest", justify="right")
        table.add_column("course", no_wrap=True, overflow="crop")
        width = max(8, min(60, self._console.width - 46))
        for name, label, form in _METRICS:
            values = self._history[name]
            if values:
                course = Text(sparkline(values, width), style="green")
                table.add_row(label, form(values[0]), Text(form(values[-1]), style="bold"), course)
        return table

    def _evaluation_table(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        shown = self._evaluations if len(self._evaluations) <= 5 else [self._evaluations[0], *self._evaluations[-4:]]
        if all(number(row, "eval/accuracy") is None for _, row in shown):
            table.add_column("held-out, after step", justify="right")
            table.add_column("loss", justify="right")
            for step, row in shown:
                loss = number(row, "eval/loss")
                table.add_row(str(step), Text("" if loss is None else f"{loss:.4f}", style="bold"))
            return table
        for name in ("held-out, after step", "accuracy", "95 % interval", "format", "length"):
            table.add_column(name, justify="right")
        for step, row in shown:
            accuracy, low, high, form, length = (
                number(row, f"eval/{name}")
                for name in ("accuracy", "accuracy_low", "accuracy_high", "format", "length_mean")
            )
            interval = f"{100 * low:.1f} to {100 * high:.1f}" if low is not None and high is not None else ""
            table.add_row(
                str(step),
                Text("" if accuracy is None else percent(accuracy), style="bold"),
                interval,
                "" if form is None else percent(form),
                "" if length is None else f"{length:.0f}",
            )
        return table
