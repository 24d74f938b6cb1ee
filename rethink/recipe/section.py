"""What every section of a recipe is, and when its fields are part of what a run is."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict


class Counts(Enum):
    """When a field is part of what a run is (`identity.py`), where that is not always; written at the field."""

    NEVER = "never"
    """It changes no result: it is in no hash, and may differ on resume."""
    WHEN_NEW = "when new"
    """It is in the hash, and may differ on resume, since what was done up to there is the same: how far to go, how
    often to evaluate, how long a reward may take."""


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
