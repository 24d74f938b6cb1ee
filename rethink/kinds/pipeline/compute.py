"""What a stage computed: tokens from its folder, floating-point operations by the rule of `plan/estimate.py`.

Per token 2 operations a parameter for generating and 6 for training, parameters as `count_parameters` has them (blocks
and head); attention, prompts that are read before generating, and a reference model's pass are left out. It is meant
for comparing ways to spend compute, not for measuring a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.errors import RethinkError
from rethink.plan.estimate import count_parameters, shape_of
from rethink.recipe.kind import kind_named
from rethink.store.run_folder import RunFolder


def computed(kind: str, out: Path, summary: Mapping[str, Any], model: str | None) -> dict[str, float]:
    """`tokens_generated`, `tokens_trained`, `parameters`, `flops` of a stage that is done; what is not known is left
    out.

    Args:
        kind: of the stage.
        out: the stage's folder.
        summary: what its runner returned.
        model: the model that it ran, as `load_checkpoint` takes it; None where there is none here (an endpoint).
    """
    last: Mapping[str, Any] = {}
    if RunFolder.exists(out):
        rows = RunFolder.open(out).metrics()
        last = rows[-1] if rows else {}
    trained = last.get("tokens/trained", summary.get("tokens_trained"))
    # Stages that only train count the tokens of their documents under the same name.
    generated = last.get("tokens/total", summary.get("tokens_total")) if kind_named(kind).samples else None
    found = {
        "tokens_generated": generated,
        "tokens_trained": trained,
        "parameters": None if model is None else _parameters(model),
    }
    known = {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}
    if "parameters" in known:
        per_token = 2 * known.get("tokens_generated", 0.0) + 6 * known.get("tokens_trained", 0.0)
        known["flops"] = known["parameters"] * per_token
    return known


def _parameters(model: str) -> int | None:
    """Parameters that a token visits; None for a model outside our decoder's family."""
    from rethink.model.loading import load_checkpoint

    try:
        config = load_checkpoint(model, headers_only=True).config
    except RethinkError:
        return None
    if config is None:
        return None
    counted = count_parameters(shape_of(config))
    return counted.block + counted.head
