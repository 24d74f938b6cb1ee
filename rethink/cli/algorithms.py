"""`rethink algorithms`: which objectives there are, what each needs and costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.recipe.objective import Objective

EXAMPLES = """\
  rethink algorithms                                  every objective: equation, source, needs, extra cost
  rethink algorithms gspo                             one of them, with its defaults
  rethink algorithms --json
  rethink train quickstart algorithm.type=gspo        train with it
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `algorithms`."""
    parser = verb(verbs, "algorithms", "list the objectives that a run may train with", EXAMPLES, run)
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one (default: list all)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """List, or show one."""
    from rethink.recipe.objective import objective_named, objectives

    chosen = list(objectives().values()) if args.name is None else [objective_named(args.name)]
    facts = [about(objective) for objective in chosen]
    if args.json:
        print_json({"algorithms": facts} if args.name is None else facts[0])
        return 0
    for number, (objective, fact) in enumerate(zip(chosen, facts, strict=True)):
        say(("\n" if number else "") + f"{objective.name}: {objective.summary}")
        _show(fact, whole=args.name is not None)
    if args.name is None:
        say("\nDefaults and notes of one: rethink algorithms NAME. Advantages, KL and corrections: docs/algorithms.md")
    return 0


def about(objective: Objective) -> dict[str, Any]:
    """What is shown of an objective, as JSON takes it."""
    from rethink.algorithms.page import defaults
    from rethink.recipe.objective import NEEDS

    return {
        "name": objective.name,
        "summary": objective.summary,
        "equation": objective.equation,
        "source": objective.source,
        "needs": {need: NEEDS[need].what for need in NEEDS if need in objective.needs},
        "extra_cost": {need: NEEDS[need].cost for need in NEEDS if need in objective.needs},
        "defaults": defaults(objective),
        "cannot_be_set": {name: fixed.why for name, fixed in objective.fixed.items()},
        "options": {
            name: {"default": option.default, "least": option.low, "meaning": option.meaning}
            for name, option in objective.usual_options.items()
        },
        "notes": objective.notes,
    }


def _show(fact: dict[str, Any], *, whole: bool) -> None:
    from rethink.algorithms.page import shown

    say(f"  loss      {fact['equation']}")
    say(f"  source    {fact['source']}")
    for need, words in fact["needs"].items():
        say(f"  needs     {need}: {words}; extra cost: {fact['extra_cost'][need]}")
    if not fact["needs"]:
        say("  needs     nothing beside the policy's own log-probabilities")
    if not whole:
        return
    for name, value in fact["defaults"].items():
        why = f" (cannot be set: {fact['cannot_be_set'][name]})" if name in fact["cannot_be_set"] else ""
        say(f"  default   {name}: {shown(value)}{why}")
    for name, why in fact["cannot_be_set"].items():
        if name not in fact["defaults"]:
            say(f"  fixed     {name}: {why}")
    for name, option in fact["options"].items():
        say(f"  option    options.{name}: {option['meaning']} (default {option['default']:g})")
    if fact["notes"]:
        say(f"  note      {fact['notes']}")
