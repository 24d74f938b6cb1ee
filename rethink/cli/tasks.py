"""`rethink tasks`: the available tasks, and their problems as a model will see them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb, whole
from rethink.errors import UsageError
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.kinds.grpo.recipe import Recipe

EXAMPLES = """\
  rethink tasks                                            list all sources, and all tasks of reasoning-gym
  rethink tasks chain_sum --show 3
  rethink tasks chain_sum --option max_terms=3 --option max_digits=1
  rethink tasks rows.jsonl --option question_key=problem --option answer_format=boxed
  rethink tasks countdown --recipe quickstart              with the prompt of a recipe
  rethink tasks --recipe my.yaml --json                    the tasks of the recipe
"""
SOURCES = {
    "reasoning-gym": "a task below, by its name; problems are generated on demand",
    "jsonl": "a file of rows, such as rows.jsonl",
    "hub": "a data set of the hub, such as openai/gsm8k (extra `hub`)",
    "python": "your own function, as package.module:function",
}
ABOUT = 80
"""Characters of a task's description that the list shows."""
HELD_OUT = "one question in six, by a hash of its text, unless the source names a separate file or split"


def add_parser(verbs: Verbs) -> None:
    """Add the verb `tasks`."""
    parser = verb(verbs, "tasks", "list tasks, and show problems as the model will see them", EXAMPLES, run)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a task of reasoning-gym, file.jsonl, or as listed")
    parser.add_argument("--show", type=whole(1), default=5, metavar="N", help="problems to show (default: 5)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the task, or key of a `tasks` entry of a recipe (may be repeated)",
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="use the prompt and the model of this recipe")
    parser.add_argument(
        "--model", metavar="M", help="model whose chat template is used (default: the recipe's, else embedded)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """List, or show."""
    if args.name is None and args.recipe is None:
        listed = all_tasks()
        if args.json:
            print_json({"sources": SOURCES, "tasks": listed})
        else:
            _list(listed)
        return 0
    shown = examine(recipe_of(args.name, args.option, args.recipe, args.model), args.show)
    if args.json:
        print_json(shown)
    else:
        _show(shown)
    return 0


def all_tasks() -> list[dict[str, str]]:
    """Every task of reasoning-gym with its subject, the checker of its answers, and the library's description."""
    from reasoning_gym.factory import DATASETS

    from rethink.tasks.gym.library import REFUSED
    from rethink.tasks.gym.scorers import who_judges

    listed = []
    for name, (dataset, _) in sorted(DATASETS.items()):
        about = " ".join((dataset.__doc__ or "").strip().partition("\n\n")[0].split())
        judge = "refused" if name in REFUSED else who_judges(name)
        listed.append({"name": name, "subject": dataset.__module__.split(".")[1], "judge": judge, "about": about})
    return listed


def recipe_of(name: str | None, options: list[str], recipe: str | None, model: str | None) -> Recipe:
    """The recipe whose problems are shown.

    Raises:
        UsageError: an option is malformed, or the recipe has no prompt of problems.
    """
    import yaml

    from rethink.kinds.grpo.recipe import Recipe
    from rethink.recipe.recipe_files import load_recipe, parse_recipe
    from rethink.recipe.schema import TaskSource

    found = load_recipe(recipe) if recipe is not None else None
    if found is not None and not isinstance(found, Recipe):
        raise UsageError(
            f"--recipe {recipe} is of the kind `{found.kind}`; give a recipe of the kind `grpo`, which has a prompt"
        )
    if options and name is None:
        raise UsageError("--option changes the task NAME, but no NAME is given; change the recipe's tasks in its file")
    if name is not None:
        kind = kind_of(name)
        fields = set(TaskSource.model_fields) - {"kind", "name", "params"}
        overrides = []
        for option in options:
            key, equals, _ = option.partition("=")
            if not equals or not key:
                raise UsageError(f"--option is {option!r}; write it as key=value, such as max_terms=3")
            own = kind != "reasoning-gym" and key.partition(".")[0] in fields
            overrides.append(f"tasks.0.{'' if own else 'params.'}{option}")
        entry = yaml.safe_dump({"name": "tasks", "steps": 1, "tasks": [{"kind": kind, "name": name}]})
        made = parse_recipe(entry, f"The task {name}", overrides)
        assert isinstance(made, Recipe)
        found = made if found is None else found.model_copy(update={"tasks": made.tasks})
    assert found is not None
    return (
        found if model is None else found.model_copy(update={"model": found.model.model_copy(update={"path": model})})
    )


def kind_of(name: str) -> str:
    """The kind of source that a name belongs to, by its form."""
    if name.endswith((".jsonl", ".json")):
        return "jsonl"
    return "python" if ":" in name else "hub" if "/" in name else "reasoning-gym"


def examine(recipe: Recipe, number: int) -> dict[str, Any]:
    """The first problems for training, and as many held-out ones, rendered.

    Raises:
        UsageError: a source or the model cannot be loaded.
    """
    from rethink.errors import TaskError
    from rethink.kinds.grpo.data import task_mix
    from rethink.model.loading import load_model
    from rethink.model.text.prompt import PromptRenderer

    mix = task_mix(recipe)
    problems = [(problem, False) for problem in mix.train_batch(0, number, 0)]
    try:
        problems += [(problem, True) for problem in mix.held_out(number)]
        held_out = HELD_OUT
    except TaskError as error:
        held_out = f"none: {error}"
    checkpoint = load_model(recipe.model)
    context = 2**31 if checkpoint.config is None else checkpoint.config.max_position_embeddings
    renderer = PromptRenderer(checkpoint.tokenizer, recipe.prompt, context)
    rows = []
    for problem, held in problems:
        row: dict[str, Any] = {"id": problem.id, "held_out": held, "question": problem.question, "gold": problem.answer}
        try:
            prompt = renderer.render(problem)
            row |= {"prompt": prompt.text, "prompt_tokens": len(prompt.token_ids), "refused": None}
        except TaskError as error:
            row |= {"prompt": None, "prompt_tokens": None, "refused": str(error)}
        rows.append(row)
    return {
        "tasks": [{"kind": task.kind, "name": task.name, "params": task.params} for task in recipe.tasks],
        "model": recipe.model.path,
        "template": recipe.prompt.template,
        "held_out": held_out,
        "problems": rows,
    }


def _list(listed: list[dict[str, str]]) -> None:
    for source, about in SOURCES.items():
        say(f"{source:<14} {about}")
    say(f"\n{'task':<28} {'subject':<12} {'judge':<9} about")
    for task in listed:
        about = task["about"] if len(task["about"]) <= ABOUT else task["about"][:ABOUT].rstrip() + "…"
        say(f"{task['name']:<28} {task['subject']:<12} {task['judge']:<9} {about}".rstrip())
    say("\njudge: the checker that compares answers (docs/rewards.md). To see problems: rethink tasks NAME --show 3")


def _show(shown: dict[str, Any]) -> None:
    for task in shown["tasks"]:
        say(f"{task['kind']}: {task['name']}" + "".join(f" {key}={value}" for key, value in task["params"].items()))
    say(f"template `{shown['template']}` of {shown['model']}; held out: {shown['held_out']}")
    for problem in shown["problems"]:
        where = "held out" if problem["held_out"] else "training"
        size = f"{problem['prompt_tokens']} tokens" if problem["refused"] is None else "refused"
        say(f"\n--- {problem['id']} ({where}, {size}) ---")
        say(problem["prompt"] if problem["refused"] is None else problem["refused"])
        say(f"gold: {'none (only the task can check answers)' if problem['gold'] is None else problem['gold']}")
