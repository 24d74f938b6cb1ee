"""What a pipeline shows of its stages while it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rethink.kinds.pipeline.stages import ResolvedStage
from rethink.observe.progress import Progress


class Rows:
    """State of every stage, as `Progress.stages` takes it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self._by_name = {row["name"]: row for row in rows}

    @classmethod
    def of(cls, stages: Sequence[ResolvedStage], done: Collection[str], chosen: Collection[str]) -> Rows:
        """The rows before anything runs."""
        depth: dict[str, int] = {}
        rows = []
        for stage in stages:
            depth[stage.name] = 1 + max((depth[name] for name in stage.inputs), default=-1)
            state = "kept" if stage.name in done else "waiting" if stage.name in chosen else "left out"
            rows.append(
                {"name": stage.name, "kind": stage.kind, "state": state, "seconds": None, "text": "",
                 "depth": depth[stage.name]}
            )  # fmt: skip
        return cls(rows)

    def set(self, name: str, state: str, text: str, seconds: float | None = None) -> None:
        """Change a stage's row."""
        row = self._by_name[name]
        row["state"], row["text"] = state, text
        if seconds is not None:
            row["seconds"] = seconds

    def state(self, name: str) -> str:
        """`waiting`, `running`, `done` (by this run), `kept` (done before), `stopped`, `failed` or `left out`."""
        return str(self._by_name[name]["state"])

    def as_list(self) -> list[dict[str, Any]]:
        """A copy, in order."""
        return [dict(row) for row in self._rows]


class StageProgress:
    """A stage's view within the pipeline's: everything is passed on but the end, which is not the pipeline's."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner

    def start(self, total_steps: int, done_steps: int = 0) -> None:
        """See `Progress`."""
        self._inner.start(total_steps, done_steps)

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """See `Progress`."""
        self._inner.phase(name, done, total)

    def step(self, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._inner.step(row)

    def evaluation(self, step: int, row: Mapping[str, Any]) -> None:
        """See `Progress`."""
        self._inner.evaluation(step, row)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._inner.note(text)

    def stages(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Not a stage's business."""

    def workers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Progress`."""
        self._inner.workers(rows)

    def close(self) -> None:
        """The stage is over; the pipeline goes on."""
