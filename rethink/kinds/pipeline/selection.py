"""Which stages of a pipeline are to be run: all, or a part of the graph."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rethink.errors import UsageError
from rethink.kinds.pipeline.stages import ResolvedStage, downstream, upstream


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for; stages that are done are skipped in any case."""

    first: str | None = None
    """`--from`: this stage and all that use it."""
    until: str | None = None
    """`--until`: this stage and all that it uses."""
    only: str | None = None
    """`--only`: this stage alone."""

    def names(self, stages: Sequence[ResolvedStage]) -> set[str]:
        """The names of the stages that may be run.

        Raises:
            UsageError: there is no such stage, or no stage is both behind `first` and before `until`.
        """
        for option, name in (("--from", self.first), ("--until", self.until), ("--only", self.only)):
            _known(option, name, [stage.name for stage in stages])
        if self.only is not None:
            if self.first is not None or self.until is not None:
                raise UsageError("--only names one stage; it does not go with --from or --until. Give one or the other")
            return {self.only}
        chosen = {stage.name for stage in stages}
        if self.first is not None:
            chosen &= downstream(stages, self.first)
        if self.until is not None:
            chosen &= upstream(stages, self.until)
        if not chosen:
            raise UsageError(
                f"no stage lies between --from {self.first} and --until {self.until}: `{self.until}` does not use "
                f"`{self.first}`. Run them one after the other, or name stages on one way through the graph"
            )
        return chosen

    def check_inputs(self, stages: Sequence[ResolvedStage], done: Collection[str]) -> None:
        """Refuse a part of the graph whose inputs are not there.

        Raises:
            UsageError: names the stage and what it lacks.
        """
        chosen = self.names(stages)
        for stage in stages:
            missing = [name for name in stage.inputs if name not in chosen and name not in done]
            if stage.name in chosen and stage.name not in done and missing:
                raise UsageError(
                    f"the stage `{stage.name}` uses {_listed(missing)}, which "
                    f"{'is' if len(missing) == 1 else 'are'} neither done nor selected. Run --until {missing[0]} "
                    "first, or leave out --from and --only"
                )


def _known(option: str, name: str | None, names: Sequence[str]) -> None:
    if name is not None and name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise UsageError(f"{option} {name}: there is no such stage.{hint} The stages are {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
