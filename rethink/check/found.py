"""What a check found: sections of plain numbers, and findings that say what is wrong and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["problem", "warning"]
"""`problem`: the recipe cannot work, or would learn something else; `warning`: it may, and one should know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    section: str
    """The section of the report that shows it."""
    defect: str
    """A fixed name for programs, e.g. `gold-not-right`."""
    message: str
    """What was found, with numbers, and what to change."""


@dataclass(slots=True)
class Report:
    """Everything that one check found."""

    recipe: str
    recipe_hash: str
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Numbers by section, in the order in which they were measured."""
    findings: list[Finding] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What was not examined, and why; of a pipeline's stages."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no finding is a problem."""
        return not any(finding.level == "problem" for finding in self.findings)

    def section(self, name: str, values: Mapping[str, Any]) -> None:
        """Record a section's numbers."""
        self.sections[name] = dict(values)

    def problem(self, section: str, defect: str, message: str) -> None:
        """Record what must be mended."""
        self.findings.append(Finding("problem", section, defect, message))

    def warn(self, section: str, defect: str, message: str) -> None:
        """Record what one should know."""
        self.findings.append(Finding("warning", section, defect, message))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "recipe": self.recipe,
            "recipe_hash": self.recipe_hash,
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "left_out": self.left_out,
            "findings": [asdict(finding) for finding in self.findings],
            **self.sections,
        }
