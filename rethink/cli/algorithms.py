"""`rethink algorithms`: which objectives there are, what each needs and costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.algorithms.page import AnyObjective

EXAMPLES = """\
  rethink algorithms                                  every objective: equation, source, needs, extra cost
  rethink algorithms gspo                             one of them, with its defaults
  rethink algorithms simpo                            one that learns from preferences
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
    from rethink.recipe.objective import named, objectives
    from rethink.recipe.preference import preference_objectives

    known: dict[str, AnyObjective] = {**objectives(), **preference_objectives()}
    if args.name is not None:
        objective = named(args.name, known)
        if args.json:
            print_json(about(objective))
        else:
            _list("", {args.name: objective}, whole=True)
        return 0
    if args.json:
        groups: dict[str, Mapping[str, AnyObjective]] = {
            "algorithms": objectives(),
            "preferences": preference_objectives(),
        }
        print_json({group: [about(one) for one in found.values()] for group, found in groups.items()})
        return 0
    _list("Of sampled completions and their rewards:\n", objectives())
    _list("\nOf preferences, without sampling:\n", preference_objectives())
    say("\nDefaults and notes of one: rethink algorithms NAME. Advantages, KL and corrections: docs/algorithms.md")
    return 0


def about(objective: AnyObjective) -> dict[str, Any]:
    """What is shown of an objective, as JSON takes it."""
    from rethink.algorithms.page import defaults, fixed, needed, options

    needs = needed(objective)
    return {
        "name": objective.name,
        "summary": objective.summary,
        "equation": objective.equation,
        "source": objective.source,
        "needs": {name: need.what for name, need in needs.items()},
        "extra_cost": {name: need.cost for name, need in needs.items()},
        "defaults": defaults(objective),
        "cannot_be_set": {name: only.why for name, only in fixed(objective).items()},
        "options": {
            name: {"default": option.default, "least": option.low, "meaning": option.meaning}
            for name, option in options(objective).items()
        },
        "notes": objective.notes,
    }


def _list(heading: str, objectives: Mapping[str, AnyObjective], *, whole: bool = False) -> None:
    if heading:
        say(heading)
    for number, objective in enumerate(objectives.values()):
        say(("\n" if number else "") + f"{objective.name}: {objective.summary}")
        _show(about(objective), whole=whole)


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
