"""What a run shows while it runs: a live view on a terminal, a line a step elsewhere, JSON lines for scripts.

A view only watches. `make_progress` wraps each one in a guard, so that a closed pipe or a terminal's whim switches the
view off and never reaches the run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol, TextIO

from rethink.observe.diagnosis import LEAST, RECENT, diagnosis
from rethink.observe.number_text import TimeLeft, duration, number, percent
from rethink.terminal import json_text, say

Mode = Literal["auto", "live", "lines", "json", "none"]


class Progress(Protocol):
    """What the trainer tells a view. `row`s hold metrics by their names in the glossary."""

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """The run starts, or resumes after `done_steps`."""

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """What is being done now, e.g. `rollout`, and how much of it."""

    def step(self, row: Mapping[str, Any]) -> None:
        """A step is done; `row` is its row of metrics."""

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """A held-out evaluation is done; `row` holds the `eval/…` metrics."""

    def note(self, text: str) -> None:
        """Something that the user should read."""

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The stages of a pipeline, all of them whenever one changes: `name`, `kind`, `state`, `seconds`, `text` and
        `depth` (the number of stages before it on the longest path).
        """

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rollout workers of a cluster, about once a second: `name`, `host`, `held`, `done`, `tokens_per_s`, `late`
        (seconds without a word; None: it is not).
        """

    def close(self) -> None:
        """The run is over; the terminal is given back."""


class Silent:
    """Shows nothing."""

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """See `Progress`."""

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


class StageChanges:
    """Which stages changed since they were last shown."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def take(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those that changed and have something to say: not those that wait from the beginning."""
        changed = []
        for row in rows:
            name, state = str(row["name"]), str(row["state"])
            known = self._shown.get(name)
            if known != state and not (known is None and state in ("waiting", "left out")):
                changed.append(row)
            self._shown[name] = state
        return changed


class Lines:
    """One line a step, one an evaluation, one a note: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._left = TimeLeft()
        self._changes = StageChanges()
        self._rows: list[Mapping[str, Any]] = []
        self._diagnosed: str | None = None

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""
        self._left.start(total_steps, done_steps)
        self._rows, self._diagnosed = [], None
        after = f", resumed after step {done_steps}" if done_steps else ""
        self._write(f"{total_steps} steps{after}")

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """Not shown: a log is for results."""

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._left.step(row)
        parts = [f"step {row.get('step', '?')}/{self._left.total}"]
        for name, label, form in _SHOWN:
            value = number(row, name)
            if value is not None:
                parts.append(f"{label} {form(value)}")
        left = self._left.seconds()
        if left is not None:
            parts.append(f"left {duration(left)}")
        self._write("  ".join(parts))
        self._diagnose(row)

    def _diagnose(self, row: Mapping[str, Any]) -> None:
        """Say what keeps the run from learning, once for each cause."""
        self._rows = [*self._rows, dict(row)][-RECENT:]
        found = diagnosis(self._rows, least=LEAST)
        if found is not None and found.kind != self._diagnosed:
            self._write(found.text)
        self._diagnosed = found.kind if found is not None else None

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._write(f"evaluation after step {step}: {evaluation_text(row)}")

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._write(text)

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        for row in self._changes.take(rows):
            self._write(stage_text(row))

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Not shown: a log is for results."""

    def close(self) -> None:
        """See `Progress`."""
        self._stream.flush()

    def _write(self, line: str) -> None:
        say(line, file=self._stream, flush=True)


class JsonLines:
    """One JSON object an event: `{"event": "step", "step": 3, …}`. Phases appear when they begin."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._phase: str | None = None
        self._changes = StageChanges()

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""
        self._write("start", {"total_steps": total_steps, "done_steps": done_steps})

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """See `Progress`."""
        if name != self._phase:
            self._phase = name
            self._write("phase", {"phase": name, "total": total})

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._phase = None
        self._write("step", row)

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._write("evaluation", {**row, "step": step})

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._write("note", {"text": text})

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`. One event for each stage whose state changed."""
        for row in self._changes.take(rows):
            self._write("stage", row)

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Not shown: events are for results."""

    def close(self) -> None:
        """See `Progress`."""
        self._write("end", {})

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        say(json_text({"event": event, **{k: _jsonable(v) for k, v in fields.items()}}), file=self._stream, flush=True)


class Guarded:
    """Passes everything on until the view fails once; then says so and shows nothing more."""

    def __init__(self, inner: Progress) -> None:
        self._inner: Progress = inner

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.start(total_steps, done_steps))

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.phase(name, done, total))

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.step(row))

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.evaluation(step, row))

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.note(text))

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.stages(rows))

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.workers(rows))

    def close(self) -> None:
        """See `Progress`."""
        self._try(lambda: self._inner.close())

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            broken, self._inner = self._inner, Silent()
            with suppress(Exception):
                broken.close()
            with suppress(Exception):
                say(f"The progress view is off ({type(error).__name__}: {error}); the run continues.", file=sys.stderr)


def make_progress(mode: Mode = "auto", *, title: str = "", stream: TextIO | None = None) -> Progress:
    """The view for `mode`; `auto` is the live view on a terminal and lines elsewhere. It never raises into the run."""
    out = stream or sys.stdout
    if mode == "auto":
        mode = "live" if out.isatty() else "lines"
    if mode == "live":
        from rethink.observe.live import LiveView  # rich takes a while

        return Guarded(LiveView(title=title, stream=out))
    if mode == "json":
        return Guarded(JsonLines(out))
    if mode == "lines":
        return Guarded(Lines(out))
    return Silent()


def evaluation_text(row: Mapping[str, Any]) -> str:
    """One line about an evaluation, with its interval."""
    loss = number(row, "eval/loss")
    if loss is not None:
        return f"held-out loss {loss:.4f}, {number(row, 'eval/n') or 0:.0f} documents"
    accuracy, low, high = (number(row, f"eval/accuracy{end}") for end in ("", "_low", "_high"))
    count, judged = number(row, "eval/n"), number(row, "eval/judged")
    if judged == 0:
        accuracy = low = high = None
    parts = [f"accuracy {percent(accuracy)}" if accuracy is not None else "no accuracy"]
    if low is not None and high is not None:
        parts[0] += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    for name, label, form in (("eval/format", "format", percent), ("eval/length_mean", "length", _plain)):
        value = number(row, name)
        if value is not None:
            parts.append(f"{label} {form(value)}")
    if count is not None:
        parts.append(f"{count:.0f} {'examples' if 'eval/ece' in row else 'problems'}")
        if judged is not None and judged < count:
            parts[-1] += f", {judged:.0f} of them judged"
    return ", ".join(parts)


def stage_text(row: Mapping[str, Any]) -> str:
    """One line about a stage of a pipeline."""
    seconds = number(row, "seconds")
    took = f" in {duration(seconds)}" if seconds is not None else ""
    says = f": {row['text']}" if row.get("text") else ""
    state = "done before" if row["state"] == "kept" else row["state"]
    return f"stage {row['name']} ({row['kind']}) {state}{took}{says}"


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _jsonable(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_SHOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("reward/mean", "reward", lambda value: f"{value:.3f}"),
    ("rollout/accuracy", "accuracy", percent),
    ("rollout/format", "format", percent),
    ("rollout/length_mean", "length", _plain),
    ("train/loss", "loss", lambda value: f"{value:.4f}"),
    ("reward_model/loss", "loss", lambda value: f"{value:.4f}"),
    ("reward_model/accuracy", "accuracy", percent),
    ("preference/loss", "loss", lambda value: f"{value:.4f}"),
    ("preference/accuracy", "accuracy", percent),
    ("preference/margin", "margin", lambda value: f"{value:.3f}"),
    ("train/tokens", "tokens", _plain),
    ("policy/kl", "kl", lambda value: f"{value:.4f}"),
    ("critic/explained_variance", "explained", lambda value: f"{value:.2f}"),
    ("time/step", "time", duration),
)
"""Metrics of a line, with their label and form."""
