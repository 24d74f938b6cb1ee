"""What the types of a recipe cannot say: values that contradict each other or would do nothing, each with the fix.

A check yields one paragraph for each thing that is wrong; the recipe is refused with all of them at once. Here is what
several kinds share; a kind checks what it alone has in its own `recipe.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

from rethink.errors import RecipeError
from rethink.recipe.reward import TASK_REWARD, reward_names, rewards
from rethink.recipe.schema import (
    ModelSection,
    ModelShape,
    OptimizerSection,
    PromptSection,
    RewardPart,
    RewardSection,
    TaskSource,
)

RESERVED_PARTS = ("mean", "std", "failed", "abstained")
"""Names that the metrics `reward/<name>` already use."""

_PART_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FUNCTION = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:]+\.py):[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def section_contradictions(
    prompt: PromptSection,
    tasks: Sequence[TaskSource],
    reward: RewardSection,
    model: ModelSection,
    *,
    limits: Mapping[str, int],
    steps: int | None,
) -> Iterator[str]:
    """What is wrong in the sections of a recipe whose model answers problems: a paragraph for each.

    Args:
        limits: token limits of completions, by key.
        steps: optimizer updates of the run; None: it has none.
    """
    yield from _rewards(reward, steps)
    yield from _sources(tasks, reward, steps)
    yield from _tasks(tasks)
    yield from _difficulty(tasks, reward, steps)
    yield from _model(model, prompt, limits)
    yield from _prompt(prompt)


def optimizer_contradictions(optimizer: OptimizerSection, steps: int | None) -> Iterator[str]:
    """What is wrong in an optimizer section. `steps`: of the run; None: not known yet."""
    if steps is not None and optimizer.warmup_steps >= steps:
        yield _warmup_too_long(optimizer.warmup_steps, steps)
    constant = optimizer.schedule == "constant"
    if optimizer.final_rate > optimizer.learning_rate and not constant:
        yield (
            f"`optimizer.final_rate` {optimizer.final_rate:g} is above `optimizer.learning_rate` "
            f"{optimizer.learning_rate:g}; the schedule falls. Use a final rate of at most the learning rate, such as "
            f"`optimizer.final_rate={optimizer.learning_rate / 10:g}`."
        )
    if constant and optimizer.final_rate not in (0.0, type(optimizer).model_fields["final_rate"].default):
        yield (
            "`optimizer.final_rate` is set, but the schedule is `constant` and does not use it. Set "
            "`optimizer.schedule=cosine` (or `linear`), or remove the final rate."
        )


def check_warmup(optimizer: OptimizerSection, steps: int) -> None:
    """Refuse a warm-up that is as long as the run. If `epochs` are given, `steps` is known after the data are read.

    Raises:
        RecipeError: names both and the longest warm-up allowed.
    """
    if optimizer.warmup_steps >= steps:
        raise RecipeError(_warmup_too_long(optimizer.warmup_steps, steps))


def _warmup_too_long(warmup: int, steps: int) -> str:
    return (
        f"`optimizer.warmup_steps` {warmup} is not below `steps` {steps}, so the learning rate would never reach its "
        f"peak. Use at most {steps - 1}."
    )


def needs_gold(reward: RewardSection, task: TaskSource) -> bool:
    """Whether a built-in reward part that applies to a source looks at gold answers."""
    names = reward.names_for(task)
    return any(_compares(part) for part in reward.parts if part.name in names)


def _compares(part: RewardPart) -> bool:
    builtin = None if part.function is not None else part.builtin or part.name
    template = part.params.get("template", "{gold}")
    record = rewards().get(builtin or "")
    return (
        builtin == TASK_REWARD
        or (record is not None and record.gold)
        or (builtin == "judge" and "{gold}" in str(template))
    )


def check_against_context(prompt: PromptSection, limits: Mapping[str, int], context: int) -> None:
    """Refuse token limits that leave the prompt no room in the model's context.

    Args:
        prompt: its longest length.
        limits: token limits of completions, by key.
        context: longest sequence that the model takes, prompt and completion together.

    Raises:
        RecipeError: names the limit and what would fit.
    """
    found = next(_beyond_context(prompt, limits, context), None)
    if found is not None:
        raise RecipeError(found)


def _beyond_context(prompt: PromptSection, limits: Mapping[str, int], context: int) -> Iterator[str]:
    longest = prompt.max_tokens or 1
    needs = "a prompt of one token" if prompt.max_tokens is None else f"prompts of `prompt.max_tokens={longest}`"
    room = context - longest
    for key, limit in limits.items():
        if limit > room:
            fix = f"Set it to at most {room}" if room > 0 else "Lower `prompt.max_tokens`"
            yield (
                f"`{key}` is {limit}, but the model's context of {context} tokens must hold {needs} too. {fix}, or "
                "choose a model with a longer context."
            )


def _rewards(reward: RewardSection, steps: int | None) -> Iterator[str]:
    names = [part.name for part in reward.parts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        yield f"`reward.parts` names {_listed(repeated)} twice; metrics could not tell them apart. Rename one of them."
    if all(part.weight == 0 for part in reward.parts):
        yield (
            "Every part of `reward.parts` has weight 0 (or there is none), so all rewards would be 0 and nothing would "
            "be learned. Give at least one part a weight, such as `reward.parts.0.weight=1`."
        )
    for index, part in enumerate(reward.parts):
        key = f"`reward.parts.{index}"
        if part.name in RESERVED_PARTS or not _PART_NAME.fullmatch(part.name):
            yield (
                f"{key}.name` is `{part.name}`; a name begins with a letter, holds letters, digits, `_` and `-`, and "
                f"is none of {_listed(RESERVED_PARTS)}, which are metrics. Choose another."
            )
        elif part.function is None and (part.builtin or part.name) not in reward_names():
            field, name = ("builtin", part.builtin) if part.builtin else ("name", part.name)
            near = difflib.get_close_matches(name, reward_names(), n=1)
            hint = f"Did you mean `{near[0]}`? " if near else ""
            yield (
                f"{key}.{field}` is `{name}`, which is not built in. {hint}Use {_listed(reward_names(), 'or')}, or "
                f"name your function with {key}.function=module:function`."
            )
        yield from _reward_model(key, part)
        yield from _steps_of(key, part, steps)
        if part.function is not None and part.builtin is not None:
            yield f"{key}` names both `function` and `builtin`; a part is one of them. Remove the other."
        if part.function is not None and not _FUNCTION.fullmatch(part.function):
            yield f"{key}.function` is `{part.function}`; write it as `module:function`, such as `my_rewards:brevity`."


def _reward_model(key: str, part: RewardPart) -> Iterator[str]:
    """`model` and `on` belong to reward models, and those need a model."""
    is_one = part.is_reward_model
    if is_one and part.model is None and "model" not in part.params:
        yield f"{key}.model` is missing: name the reward model's folder, such as {key}.model=runs/my-rm/model`."
    for field in ("model", "on"):
        if not is_one and getattr(part, field) is not None:
            yield (
                f"{key}.{field}` is read by the part `reward-model` alone. Remove it, or set "
                f"{key}.builtin=reward-model`."
            )
        elif getattr(part, field) is not None and field in part.params:
            yield f"{key}.{field}` and {key}.params.{field}` say the same thing twice. Remove one of them."


def _steps_of(key: str, part: RewardPart, steps: int | None) -> Iterator[str]:
    if steps is None:
        yield from (
            f"{key}.{field}` counts steps of training, and this run has none: the part always applies. Remove it."
            for field, value in (("from_step", part.from_step or None), ("until_step", part.until_step))
            if value is not None
        )
        return
    if part.from_step >= steps:
        yield (
            f"{key}.from_step` is {part.from_step}, but the run has {steps} steps (the last is {steps - 1}), so the "
            "part would never apply. Lower it, or remove the part."
        )
    if part.until_step is not None and part.until_step <= part.from_step:
        yield (
            f"{key}.until_step` is {part.until_step} and `from_step` {part.from_step}: the part would never apply. "
            "`until_step` must be above `from_step`."
        )


def _sources(tasks: Sequence[TaskSource], reward: RewardSection, steps: int | None) -> Iterator[str]:
    """Which parts score which source: known names, none unused, and no source without a reward."""
    names = [part.name for part in reward.parts]
    for index, task in enumerate(tasks):
        unknown = [name for name in task.reward or () if name not in names]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"Did you mean `{near[0]}`? " if near else ""
            yield f"`tasks.{index}.reward` names `{unknown[0]}`, which is no part. {hint}There is {_listed(names)}."
    used = {name for task in tasks for name in reward.names_for(task)}
    unused = [name for name in names if name not in used]
    if unused and tasks:
        yield (
            f"No source has the reward part {_listed(unused)}, so it would score nothing. Name it in a "
            "`tasks.N.reward`, or remove it from `reward.parts`."
        )
    changes = {0} | {step for part in reward.parts for step in (part.from_step, part.until_step or 0)}
    changes |= {stage.step for task in tasks for stage in task.curriculum}
    for step in sorted(step for step in changes if step < (steps or 1)):
        for index, task in enumerate(tasks):
            scored = [p for p in reward.parts if p.weight and p.name in reward.names_for(task)]
            holds = steps is None or any(part.holds_at(step) for part in scored)
            if scored and task.weight_at(step) > 0 and not holds:
                yield (
                    f"At step {step} no reward part with a weight applies to `tasks.{index}`, so its problems would "
                    "teach nothing. Begin the source when its reward begins (`curriculum: [{step: …, weight: …}]` and "
                    "`weight: 0`), or give it another part."
                )
                return
            if not scored and any(p.weight for p in reward.parts):
                yield f"No reward part with a weight applies to `tasks.{index}`. Name one in `tasks.{index}.reward`."
                return


def _difficulty(tasks: Sequence[TaskSource], reward: RewardSection, steps: int | None) -> Iterator[str]:
    """Bounds of a pass rate that leave something out, and that something measures."""
    for index, task in enumerate(tasks):
        key, bounds = f"`tasks.{index}.difficulty", task.difficulty
        if bounds is None:
            continue
        if steps is None:
            yield f"{key}` chooses problems by what training sampled before, and this run does not train. Remove it."
        if bounds.low > bounds.high:
            yield f"{key}.low` {bounds.low:g} is above `high` {bounds.high:g}, so that every problem would be left out."
        if bounds.low == 0 and bounds.high == 1:
            yield f"{key}` has the bounds 0 and 1, which leave out no problem. Narrow them, or remove it."
        if bounds.reward not in reward.names_for(task):
            yield (
                f"{key}.reward` is `{bounds.reward}`, which does not score the problems of `tasks.{index}`. Use "
                f"{_listed(reward.names_for(task), 'or')}."
            )


def check_prompt(prompt: PromptSection) -> None:
    """Refuse a prompt section whose values contradict each other, for those who have no whole recipe.

    Raises:
        RecipeError: says what to write instead.
    """
    found = list(_prompt(prompt))
    if found:
        raise RecipeError(" ".join(found))


def _prompt(prompt: PromptSection) -> Iterator[str]:
    if "{question}" not in prompt.instruction:
        yield (
            "`prompt.instruction` does not hold `{question}`, so the model would never see the problem. Write for "
            "example `prompt.instruction=Solve this: {question}`."
        )
    if prompt.system is not None and prompt.template != "chat":
        yield (
            f"`prompt.system` has no place in the template `{prompt.template}`. Put the text into "
            "`prompt.instruction`, or set `prompt.template=chat`."
        )
    begins = prompt.prefill.strip()
    for index, example in enumerate(prompt.examples):
        if not example.completion.lstrip().startswith(begins):
            yield (
                f"`prompt.examples.{index}.completion` does not begin with the prefill `{begins}`, so it would teach "
                "another form than the one asked for. A completion is the whole turn: write the prefill too."
            )


_APPLIES_TO = {
    "params": ("reasoning-gym", "python"),
    "question_key": ("jsonl", "hub", "python"),
    "answer_key": ("jsonl", "hub", "python"),
    "answer_format": ("jsonl", "hub", "python"),
    "split": ("hub",),
    "config": ("hub",),
    "held_out": ("jsonl", "hub"),
    "difficulty": ("jsonl", "hub", "python"),
}
"""Which kinds of source read a field; the others would ignore it."""


def _tasks(tasks: Sequence[TaskSource]) -> Iterator[str]:
    for index, task in enumerate(tasks):
        yield from _task(f"`tasks.{index}", task)
    steps = sorted({0, *(stage.step for task in tasks for stage in task.curriculum)}) if tasks else ()
    for step in steps:
        if all(task.weight_at(step) == 0 for task in tasks):
            yield (
                f"All sources in `tasks` have weight 0 at step {step}, so there would be no problems. Give one of them "
                "a weight above 0."
            )


def _task(key: str, task: TaskSource) -> Iterator[str]:
    steps = [stage.step for stage in task.curriculum]
    if steps != sorted(set(steps)):
        yield f"{key}.curriculum` has steps {steps}; they must increase. Sort its stages and merge those of equal step."
    for index, stage in enumerate(task.curriculum):
        if not stage.params and stage.weight is None:
            yield f"{key}.curriculum.{index}` changes nothing. Give it `params` or a `weight`, or remove it."
    if task.kind == "python" and not _FUNCTION.fullmatch(task.name):
        yield f"{key}.name` is `{task.name}`; for the kind `python` write `module:function`, such as `my_tasks:load`."
    yield from _unread(key, task)
    if task.held_out is not None and task.held_out == {"jsonl": task.name, "hub": task.split}.get(task.kind):
        yield (
            f"{key}.held_out` is `{task.held_out}`, the same problems that are trained on. Name another one, or remove "
            "it: then a disjoint share is kept apart."
        )


def _unread(key: str, task: TaskSource) -> Iterator[str]:
    """Values that a source of this kind would not look at."""
    for field, kinds in _APPLIES_TO.items():
        default = TaskSource.model_fields[field].get_default(call_default_factory=True)
        if task.kind not in kinds and getattr(task, field) != default:
            readers = ", ".join(f"`{kind}`" for kind in kinds)
            yield (
                f"{key}.{field}` is read for {readers}; a source of the kind `{task.kind}` would not look at it. "
                f"Remove it, or write {key}.{field}={_yaml(default)}`."
            )
    if task.kind == "reasoning-gym" and task.checker not in ("auto", "task"):
        yield (
            f"{key}.checker` is `{task.checker}`, but a reasoning-gym task is judged by its own scorer alone, since "
            f"many have more than one right answer. Remove it, or write {key}.checker=task`."
        )
    if task.kind in ("jsonl", "hub") and task.checker == "task":
        yield (
            f"{key}.checker` is `task`, but rows of the kind `{task.kind}` bring no scorer of their own. Write "
            f"{key}.checker=exact-number` or `math-verify`, or leave it at `auto`, which chooses between these two by "
            "the gold answers."
        )
    for index, stage in enumerate(task.curriculum):
        if stage.params and task.kind != "reasoning-gym":
            yield (
                f"{key}.curriculum.{index}.params` changes parameters at a step, which only reasoning-gym tasks can; "
                f"the problems of the kind `{task.kind}` are read once. Give the stage a `weight` instead, and a "
                "further source for the harder problems."
            )


def _yaml(value: object) -> str:
    return "null" if value is None else "{}" if value == {} else str(value)


def _model(model: ModelSection, prompt: PromptSection, limits: Mapping[str, int]) -> Iterator[str]:
    if not model.path.strip():
        yield "`model.path` is empty. Write `embedded`, a hub id, a folder or a GGUF file."
    if model.shape is not None:
        yield from _shape(model.shape)
        yield from _beyond_context(prompt, limits, model.shape.context)


def _shape(shape: ModelShape) -> Iterator[str]:
    key, mixture = "`model.shape", shape.mixture
    if shape.heads % shape.kv_heads:
        yield f"{key}.heads` {shape.heads} must be a multiple of `kv_heads` {shape.kv_heads}: each serves equally many."
    if mixture is not None and mixture.experts_per_token > mixture.experts:
        yield f"{key}.mixture.experts_per_token` is above `experts`: a token cannot visit more than there are."
    if mixture is not None and mixture.dense_layers > shape.layers:
        yield f"{key}.mixture.dense_layers` is above `layers`."
    total, active = shape.total_parameters, shape.active_parameters
    if total is not None and active is not None and active > total:
        yield f"{key}.active_parameters` is above `total_parameters`."


def _listed(names: tuple[str, ...] | list[str], word: str = "and") -> str:
    quoted = [f"`{name}`" for name in names]
    return f" {word} ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]
