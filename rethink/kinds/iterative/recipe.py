"""Iterative GRPO as a recipe (`kind: iterative`): Algorithm 1 of DeepSeekMath (arXiv 2402.03300).

    for i = 1 … rounds:   policy_i       = GRPO from policy_{i-1}, rewarded (among others) by reward model_{i-1}
                          reward model_i = reward model_{i-1}, trained on pairs of policy_i's rollouts and 10 % of
                                           earlier pairs

The reference of a round is the policy that it starts from, as in the algorithm. Rules make the pairs from the rollouts
(`kinds/reward_model/synthetic_pairs.py`), so they are synthetic, and so is what the reward model learns from them.

It is a short form of a pipeline. As a stage of a pipeline it expands to two stages a round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from rethink.errors import RecipeError
from rethink.kinds.pipeline.graph import Parts, Stage
from rethink.kinds.pipeline.recipe import PipelineRecipe, body_of, of_one_stage
from rethink.recipe.base import AnyRecipe
from rethink.recipe.schema import ModelSection, RewardPart
from rethink.seeds import draw


class IterativeRecipe(AnyRecipe):
    """Iterative GRPO: each round trains the policy, then the reward model on pairs of the policy's rollouts."""

    kind: Literal["iterative"] = "iterative"
    """Kind of run."""
    vars: dict[str, Any] = Field(default_factory=dict)
    """Values that the sections share, used as `${vars.NAME}`."""
    rounds: int = Field(gt=0)
    """Number of rounds."""
    policy: dict[str, Any]
    """A `grpo` recipe: one round. `model` is the policy before the first round. One part of `reward.parts` is a
    `reward-model`, without `model`."""
    reward_model: dict[str, Any]
    """A `reward-model` recipe without `replay`: one round. `model.path` is the reward model before the first round.
    With `data` or with `samples`, that one is trained first, from a language model (by default the policy's)."""
    samples: dict[str, Any] | None = None
    """A `samples` recipe without `model`: answers of the policy before the first round, from which rules make pairs for
    the first reward model. None: no such answers."""
    replay: float = Field(default=0.1, ge=0, lt=1)
    """Share of a round's training examples of the reward model that are earlier ones (10 % in the paper)."""
    history: str | None = None
    """JSONL of the examples that a given first reward model was trained on, for the replay of the first round. None:
    the examples of `data` and `samples`, if any."""
    evaluation: dict[str, Any] | None = None
    """As `evaluation` of a pipeline. If the rounds are a stage of a pipeline, set it there instead."""

    @property
    def trains_first(self) -> bool:
        """Whether the reward model before the first round is trained here."""
        return self.samples is not None or "data" in self.reward_model

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in iterative GRPO."""
        yield from super().contradictions()
        if "replay" in self.reward_model:
            yield (
                "`reward_model.replay` is set by the rounds. Write the share as `replay: 0.1`, and the file of earlier "
                "examples as `history: FILE.jsonl`."
            )
        if self.samples is not None and "model" in self.samples:
            yield "`samples.model` is set, but the policy answers. Remove it; `policy.model` names the policy."
        if not self.trains_first and "path" not in _section(self.reward_model, "model"):
            yield (
                "There is no reward model to start from. Write `reward_model: {model: {path: FOLDER}}` (the folder "
                "`model` of a run of the kind `reward-model`), or let one be trained first: `samples:` or "
                "`reward_model: {data: [{path: FILE.jsonl}]}`."
            )
        if self.history is not None and (self.trains_first or self.replay == 0):
            reason = "the first reward model is trained here, on its own examples" if self.replay else "`replay` is 0"
            yield f"`history` would not be read, because {reason}. Remove `history`."


def as_pipeline(recipe: IterativeRecipe) -> PipelineRecipe:
    """The pipeline with these rounds as its only stage, and the first policy for comparison."""
    return of_one_stage(recipe, "iterative", _path(recipe.policy))


def parts(name: str, stage: Stage) -> Parts:
    """Two stages a round; the last policy has the stage's own name, the last reward model `NAME-reward-model`.

    Raises:
        RecipeError: the stage's recipe is refused.
    """
    body = body_of(IterativeRecipe, name, stage)
    found: dict[str, Stage] = {}
    policy, scorer, history = None, None, body.history
    if body.trains_first:
        first = f"{name}-reward-model-0"
        found |= _first_reward_model(name, first, body)
        scorer, history = f"${{{first}.model}}", f"${{{first}.pairs}}"
    for number in range(1, body.rounds + 1):
        end = f"-{number}" if number < body.rounds else ""
        trained, learned = f"{name}-policy{end}" if end else name, f"{name}-reward-model{end}"
        recipe = _of_round(body.policy, policy, body.seed, number)
        recipe["reward"] = _rewarded(body.policy, scorer or _path(body.reward_model), f"The stage `{name}`")
        found[trained] = Stage(kind="grpo", recipe=recipe, description=f"Round {number}: the policy.")
        recipe = _of_round(body.reward_model, scorer, body.seed, number)
        recipe["data"] = [{"path": f"${{{trained}.folder}}", "format": "run"}]
        if history is not None and body.replay:
            recipe["replay"] = {"path": history, "share": body.replay}
        found[learned] = Stage(kind="reward-model", recipe=recipe, description=f"Round {number}: the reward model.")
        policy, scorer, history = f"${{{trained}.model}}", f"${{{learned}.model}}", f"${{{learned}.pairs}}"
    return Parts(found)


def _first_reward_model(name: str, first: str, body: IterativeRecipe) -> dict[str, Stage]:
    """The policy's answers before the first round, if they are wanted, and the reward model before it."""
    found = {}
    data = body.reward_model.get("data", [])
    if body.samples is not None:
        asked = {**body.samples, "model": _section(body.policy, "model")}
        found[f"{name}-samples"] = Stage(kind="samples", recipe=asked, description="Answers of the first policy.")
        made = {"path": f"${{{name}-samples.samples}}", "format": "samples"}
        data = [*data, made] if isinstance(data, list) else data  # what is no list is refused later
    model = {"path": _path(body.policy), **_section(body.reward_model, "model")}
    recipe = {**body.reward_model, "model": model, "data": data}
    found[first] = Stage(kind="reward-model", recipe=recipe, description="The reward model before the first round.")
    return found


def _of_round(section: Mapping[str, Any], path: str | None, seed: int, number: int) -> dict[str, Any]:
    """The recipe of a round, with a seed that draws other problems, samples and orders than the rounds before.

    Args:
        path: of the model that an earlier stage made; None: the model is the one that the section names.
    """
    given = section.get("seed", seed)
    recipe = {**section, "seed": given if number == 1 else draw("round", given, number) % 2**31}
    if path is not None:
        recipe["model"] = {**_section(section, "model"), "path": path, "revision": None}
    return recipe


def _rewarded(policy: Mapping[str, Any], scorer: str, where: str) -> dict[str, Any]:
    """The policy's `reward` with the model of its reward model put in.

    Raises:
        RecipeError: there is not exactly one reward model, or it names its model itself.
    """
    reward = _section(policy, "reward")
    given = reward.get("parts")
    rewards = given if isinstance(given, list) else []
    scoring = [part for part in rewards if isinstance(part, dict) and _is_reward_model(part)]
    if len(scoring) != 1:
        raise RecipeError(
            f"{where}: iterative GRPO trains one reward model, and `policy.reward.parts` has {len(scoring)}. Give it "
            "one part `{name: reward-model}`, besides the rules that judge the answers."
        )
    if "model" in scoring[0]:
        raise RecipeError(
            f"{where}: the rounds set `model` of the reward model in `policy.reward.parts`. Remove it there, and name "
            "the first one as `reward_model.model.path`."
        )
    return {**reward, "parts": [part | {"model": scorer} if part is scoring[0] else part for part in rewards]}


def _is_reward_model(part: Mapping[str, Any]) -> bool:
    named = {key: part[key] for key in ("name", "builtin", "function") if isinstance(part.get(key), str)}
    return "name" in named and RewardPart(**named).is_reward_model


def _section(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a raw recipe; empty where there is none, or what is there is refused later."""
    found = recipe.get(name)
    return dict(found) if isinstance(found, Mapping) else {}


def _path(recipe: Mapping[str, Any]) -> str:
    """Where a raw recipe's model is."""
    return str(_section(recipe, "model").get("path", ModelSection().path))
