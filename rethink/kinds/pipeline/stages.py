"""From a pipeline's recipe to its stages in order: variables put in, stages that stand for several and evaluations
written out, each stage's recipe read by its own kind, references checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rethink.errors import RecipeError
from rethink.kinds.pipeline.graph import Parts, Stage, StageGraph
from rethink.reading import check_expanded, parts_of_value
from rethink.recipe.base import AnyRecipe
from rethink.recipe.explain import validated
from rethink.recipe.kind import DEFAULT_KIND, kind_named, kinds, listed
from rethink.recipe.yaml_text import MOST_LETTERS

REFERENCE = re.compile(r"\$\{([^{}.\s]+)\.([^{}\s]+)\}")
VARS = "vars"
EVALUATION = "eval-"
"""What the name of an evaluation's stage begins with."""
INHERITED = ("seed", "threads", "device")
MEASURED_BY = "eval"
"""Kind of the stages that `evaluation` stands for."""


@dataclass(frozen=True, slots=True)
class ResolvedStage:
    """A stage that can be run once its inputs are there."""

    name: str
    kind: str
    recipe: AnyRecipe
    """Of its kind; references to other stages' outputs still stand in its texts."""
    inputs: tuple[str, ...]
    """Names of the stages that it uses, each once."""
    description: str = ""
    evaluates: str | None = None
    """What the report calls the model that an evaluation measures: a stage's name, or a name of `evaluated`."""
    distillation: Mapping[str, str] | None = None
    """Of a distilled student: names of the evaluations to compare (`base`, `rl only`, `distilled`, `distilled + rl`)
    by their heading; those that there are."""


def pipeline_of(recipe: AnyRecipe) -> StageGraph:
    """The pipeline that a recipe of a kind with stages stands for."""
    found: StageGraph = kind_named(recipe.kind).load("stages")(recipe)
    return found


def resolve(recipe: StageGraph) -> tuple[ResolvedStage, ...]:
    """The stages in the order in which they run: inputs first, otherwise as written, an evaluation behind its model.

    Raises:
        RecipeError: an unknown reference, variable or output, a cycle, or a stage's recipe that its kind refuses.
    """
    several: dict[str, Parts] = {}
    raw = dict(_written_out(recipe, several))
    of = {name: stage.kind for name, stage in raw.items()}
    inputs = {name: _inputs(name, stage.recipe, of) for name, stage in raw.items()}
    comparisons = {} if recipe.evaluation is None else _comparisons(several, raw)
    ordered = []
    for name in _sorted(inputs):
        stage = raw[name]
        ordered.append(
            ResolvedStage(
                name,
                stage.kind,
                _read(name, stage, recipe),
                tuple(inputs[name]),
                stage.description,
                name.removeprefix(EVALUATION) if _measures(stage) and name.startswith(EVALUATION) else None,
                comparisons.get(name),
            )
        )
    return tuple(ordered)


def substitute(value: Any, replace: Callable[[str, str], Any]) -> Any:
    """The value with every reference in its texts replaced by `replace(first, second)`."""
    if isinstance(value, dict):
        return {key: substitute(item, replace) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [substitute(item, replace) for item in value]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return replace(whole[1], whole[2])
    room = MOST_LETTERS

    def put_in(found: re.Match[str]) -> str:
        nonlocal room
        text = str(replace(found[1], found[2]))
        room -= len(text)
        if room < 0:
            raise RecipeError(f"A text has more than {MOST_LETTERS:,} letters once its references are put in.")
        return text

    return REFERENCE.sub(put_in, value)


def references(value: Any) -> list[tuple[str, str]]:
    """Every (stage, output) that is referred to."""
    found: list[tuple[str, str]] = []

    def note(first: str, second: str) -> str:
        found.append((first, second))
        return ""

    substitute(value, note)
    return found


def downstream(stages: Iterable[ResolvedStage], name: str) -> set[str]:
    """A stage and all that use it, directly or through others."""
    reached = {name}
    for stage in stages:  # they are in order
        if reached.intersection(stage.inputs):
            reached.add(stage.name)
    return reached


def upstream(stages: Iterable[ResolvedStage], name: str) -> set[str]:
    """A stage and all that it uses, directly or through others."""
    by_name = {stage.name: stage for stage in stages}
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting += by_name[current].inputs
    return reached


# --- writing out --------------------------------------------------------------------------------------------------


def _written_out(recipe: StageGraph, several: dict[str, Parts]) -> Iterator[tuple[str, Stage]]:
    """Plain stages: those that stand for several as their parts (noted in `several`), evaluations behind what they
    measure; variables are put in.
    """
    measured: dict[int, tuple[Any, int, int]] = {}
    variables = _variables(recipe.vars, measured)

    def put_in(value: Any, where: str) -> Any:
        filled = substitute(value, partial(_look_up, variables=variables, where=where))
        return _bounded(filled, where, measured)

    plain: dict[str, Stage] = {}
    for name, stage in recipe.stages.items():
        if name == VARS:
            raise RecipeError(f"A stage cannot be called `{VARS}`: `${{{VARS}.…}}` means the values of `{VARS}`.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise RecipeError(f"The stage name `{name}` is not allowed: use letters, digits, `_` and `-`.")
        body = put_in(stage.recipe, f"stage `{name}`")
        own = {field: body.get(field, getattr(recipe, field)) for field in INHERITED}
        filled = stage.model_copy(update={"recipe": own | body})
        parts = _parts(name, filled)
        if parts is not None:
            several[name] = parts
        for part, plain_stage in (parts.stages if parts else {name: filled}).items():
            if part in plain or (part != name and part in recipe.stages):
                raise RecipeError(
                    f"Two stages are called `{part}`: the stage `{name}`, of the kind `{stage.kind}`, makes one of "
                    "that name. Rename the other."
                )
            plain[part] = plain_stage.model_copy(update={"recipe": own | plain_stage.recipe})
    evaluation = None if recipe.evaluation is None else put_in(recipe.evaluation, "`evaluation`")
    if evaluation is None and recipe.evaluated:
        raise RecipeError("`evaluated` names models, but there is no `evaluation`. Write `evaluation:`, or remove it.")
    for name, path in recipe.evaluated.items():
        if name in plain:
            raise RecipeError(f"`evaluated.{name}` has the name of a stage, which is evaluated anyway. Rename it.")
        yield EVALUATION + name, _evaluation(evaluation, str(put_in(path, f"`evaluated.{name}`")), plain)
    for name, stage in plain.items():
        yield name, stage
        if evaluation is not None and kind_named(stage.kind).evaluated:
            if EVALUATION + name in plain:
                raise RecipeError(f"A stage is called `{EVALUATION}{name}`, as the evaluation of `{name}`. Rename it.")
            yield EVALUATION + name, _evaluation(evaluation, f"${{{name}.model}}", plain)


def _variables(given: Mapping[str, Any], measured: dict[int, tuple[Any, int, int]]) -> Mapping[str, Any]:
    """Values of `vars`, which may use those written before them."""
    known: dict[str, Any] = {}
    for name, value in given.items():
        where = f"`vars.{name}`"
        known[name] = _bounded(substitute(value, partial(_look_up, variables=known, where=where)), where, measured)
    return known


def _bounded(value: Any, where: str, measured: dict[int, tuple[Any, int, int]]) -> Any:
    """The value; refused where its references, which are shared, would make it huge once it is written."""
    try:
        check_expanded(value, parts_of_value, MOST_LETTERS, measured)
    except ValueError as error:
        raise RecipeError(f"{where[0].upper() + where[1:]} cannot be used: {error}.") from None
    return value


def _look_up(first: str, second: str, variables: Mapping[str, Any], where: str) -> Any:
    if first != VARS:
        return f"${{{first}.{second}}}"
    if second not in variables:
        near = difflib.get_close_matches(second, variables, n=1)
        hint = f" Did you mean `${{vars.{near[0]}}}`?" if near else ""
        have = f"`vars` has {_listed(variables)}" if variables else "`vars` is empty"
        raise RecipeError(f"{where[0].upper() + where[1:]} uses `${{vars.{second}}}`, but {have}.{hint}")
    return variables[second]


def _evaluation(section: Any, path: str, stages: Mapping[str, Stage]) -> Stage:
    if not isinstance(section, Mapping):
        raise RecipeError("`evaluation` must be a section: an `eval` recipe without `model`.")
    model = section.get("model") or {}
    if not isinstance(model, Mapping) or "path" in model:
        raise RecipeError("`evaluation.model.path` is set, but every model is evaluated: remove it.")
    return Stage(kind=MEASURED_BY, recipe={**section, "model": {**model, "path": path}})


def _parts(name: str, stage: Stage) -> Parts | None:
    """What a stage stands for that is several; None where it is a plain one.

    Raises:
        RecipeError: its kind cannot be a stage.
    """
    allowed = [kind.name for kind in kinds().values() if kind.outputs or kind.parts]
    if stage.kind not in allowed:
        near = (difflib.get_close_matches(stage.kind, allowed, n=1) or [DEFAULT_KIND])[0]
        raise RecipeError(
            f"`stages.{name}.kind` is `{stage.kind}`; allowed is {listed(allowed)}. Write, for example, "
            f"`stages.{name}.kind={near}`."
        )
    kind = kind_named(stage.kind)
    if kind.parts is None:
        return None
    found: Parts = kind.load("parts")(name, stage)
    return found


def _measures(stage: Stage) -> bool:
    return kind_named(stage.kind).measures


def _comparisons(several: Mapping[str, Parts], stages: Mapping[str, Stage]) -> dict[str, dict[str, str]]:
    """By name of a stage that stands for several: which evaluations the report sets beside each other."""
    measured = {
        str(entry.recipe["model"]["path"]): other.removeprefix(EVALUATION)
        for other, entry in reversed(list(stages.items()))
        if _measures(entry)
    }
    found = {}
    for name, parts in several.items():
        base = {"base": measured[parts.base]} if parts.base in measured else {}
        found[name] = base | {heading: label for heading, label in parts.compared.items() if label in stages}
    return found


# --- checking -----------------------------------------------------------------------------------------------------


def _inputs(name: str, recipe: Mapping[str, Any], of: Mapping[str, str]) -> list[str]:
    """Stages that a recipe refers to."""
    for stage, output in references(recipe):
        if stage not in of:
            near = difflib.get_close_matches(stage, of, n=1)
            hint = f" Did you mean `${{{near[0]}.{output}}}`?" if near else ""
            raise RecipeError(
                f"The stage `{name}` uses `${{{stage}.{output}}}`, but there is no stage `{stage}`.{hint} The stages "
                f"are {_listed(of)}."
            )
        outputs = kind_named(of[stage]).outputs
        if output not in outputs:
            raise RecipeError(
                f"The stage `{name}` uses `${{{stage}.{output}}}`, but a stage of the kind `{of[stage]}` leaves no "
                f"`{output}`; it leaves {_listed(outputs)}."
            )
        if stage == name:
            raise RecipeError(f"The stage `{name}` uses its own output `${{{stage}.{output}}}`. Name another stage.")
    return list(dict.fromkeys(stage for stage, _ in references(recipe)))


def _sorted(inputs: Mapping[str, list[str]]) -> list[str]:
    """Names so that inputs come first, otherwise as written."""
    done: list[str] = []
    waiting = list(inputs)
    while waiting:
        ready = next((name for name in waiting if all(other in done for other in inputs[name])), None)
        if ready is None:
            raise RecipeError(
                f"The stages wait for each other: {' ← '.join(f'`{name}`' for name in _cycle(inputs, waiting))}. Each "
                "uses an output of the next, so none can be first; take one of these references out."
            )
        waiting.remove(ready)
        done.append(ready)
    return done


def _cycle(inputs: Mapping[str, list[str]], waiting: list[str]) -> list[str]:
    """A way from a stage back to itself."""
    way = [waiting[0]]
    while way[-1] not in way[:-1]:
        way.append(next(name for name in inputs[way[-1]] if name in waiting))
    return way[way.index(way[-1]) :]


def _read(name: str, stage: Stage, pipeline: StageGraph) -> AnyRecipe:
    """The stage's recipe as its kind has it."""
    model = kind_named(stage.kind).model
    for key, value in (("name", name), ("kind", stage.kind)):
        if key in stage.recipe and stage.recipe[key] != value:
            raise RecipeError(
                f"The stage `{name}`: `recipe.{key}` is {stage.recipe[key]!r}, but a stage's recipe takes its {key} "
                "from the stage. Remove it."
            )
    own = {field: getattr(pipeline, field) for field in INHERITED}
    return validated(model, {**own, **stage.recipe, "name": name, "kind": stage.kind}, f"Stage `{name}`")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
