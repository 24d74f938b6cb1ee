"""Iterative GRPO with a reward model that is trained on: Algorithm 1 of DeepSeekMath (arXiv 2402.03300).

    for i = 1 … I:   policy_i  = GRPO from policy_{i-1}, rewarded (among others) by reward model_{i-1}
                     pairs_i   = of policy_i's own rollouts, by rule
                     reward model_i = reward model_{i-1} trained on: pairs_i with 10 % of earlier ones

The reference of each round is the policy that it begins with, as in the algorithm. Pairs are made by rule from the
rollouts (`synthetic_pairs.py`), so they are synthetic, and so is what the reward model learns from them. Each round has
a seed of its own, made from the recipe's and the round's number: it does not draw an earlier round's problems again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.run import train
from rethink.kinds.reward_model.recipe import PreferenceData, ReplaySection, RewardModelRecipe
from rethink.kinds.reward_model.run import PAIRS_FILE, train_reward_model
from rethink.observe.progress import Progress
from rethink.seeds import draw
from rethink.store.atomic import write_json

HISTORY_SHARE = 0.1


def iterative_grpo(
    policy: Recipe,
    reward_model: RewardModelRecipe,
    out: Path,
    *,
    iterations: int,
    resume: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Run so many rounds in `out`: `round-1/policy`, `round-1/reward-model`, `round-2/policy`, …

    A round that is finished is not run again on `resume`; one that was stopped goes on exactly.

    Args:
        policy: the GRPO recipe of a round, with one reward part of the kind `reward-model`, whose `model` is the reward
            model to begin with.
        reward_model: how it is trained on: its `model`, `data` and `replay` are replaced (a `replay.share` is kept).
        progress: where to show what happens.

    Returns:
        The summary: both summaries of every round that was begun; also `summary.json` in `out`.

    Raises:
        RecipeError: the policy has not exactly one reward model, or the recipes cannot be combined.
        UsageError, RunFailure: as `train` and `train_reward_model`.
    """
    place = _model_part(policy)
    rounds: list[dict[str, Any]] = []
    model, scorer, earlier = policy.model.path, str(policy.reward.parts[place].model), None
    for number in range(1, iterations + 1):
        folder = out / f"round-{number}"
        progress.note(f"Round {number} of {iterations}: the policy.")
        seeded = _policy(policy, model, place, scorer, _seed(policy.seed, number))
        trained = _finished(seeded, folder / "policy", resume, progress)
        rounds.append({"policy": trained})
        if not trained["finished"]:
            break
        progress.note(f"Round {number} of {iterations}: the reward model.")
        recipe = _reward_model(reward_model, scorer, folder / "policy", earlier, _seed(reward_model.seed, number))
        rounds[-1]["reward_model"] = trained = _finished(recipe, folder / "reward-model", resume, progress)
        if not trained["finished"]:
            break
        model, scorer = str(folder / "policy" / "model"), str(folder / "reward-model" / "model")
        earlier = folder / "reward-model" / PAIRS_FILE
    finished = len(rounds) == iterations and bool(rounds[-1].get("reward_model", {}).get("finished"))
    summary = {"finished": finished, "iterations": iterations, "rounds": rounds, "model": model, "reward_model": scorer}
    write_json(out / "summary.json", summary)
    return summary


def _finished(recipe: Recipe | RewardModelRecipe, out: Path, resume: bool, progress: Progress) -> dict[str, Any]:
    if isinstance(recipe, Recipe):
        return train(recipe, out, resume=resume, progress=progress)
    return train_reward_model(recipe, out, resume=resume, progress=progress)


def _model_part(policy: Recipe) -> int:
    """The index of the reward model among the reward's parts."""
    found = [i for i, part in enumerate(policy.reward.parts) if part.is_reward_model]
    if len(found) != 1 or policy.reward.parts[found[0]].model is None:
        raise RecipeError(
            f"iterative GRPO trains one reward model on, and `reward.parts` of `{policy.name}` has {len(found)}; give "
            "it one part `{name: reward-model, model: FOLDER}`"
        )
    return found[0]


def _seed(given: int, number: int) -> int:
    """The seed of a round: each draws other problems, samples and orders than the others."""
    return given if number == 1 else draw("round", given, number) % 2**31


def _policy(policy: Recipe, model: str, place: int, scorer: str, seed: int) -> Recipe:
    parts = [
        part.model_dump() | ({"model": scorer} if i == place else {}) for i, part in enumerate(policy.reward.parts)
    ]
    values = policy.model_dump()
    values["model"]["path"] = model
    values["seed"] = seed
    values["reward"]["parts"] = parts
    return Recipe.model_validate(values)


def _reward_model(
    recipe: RewardModelRecipe, scorer: str, samples: Path, earlier: Path | None, seed: int
) -> RewardModelRecipe:
    share = recipe.replay.share if recipe.replay is not None else HISTORY_SHARE
    # In the first round, history is what the given recipe names, where it does.
    path = str(earlier) if earlier is not None else recipe.replay.path if recipe.replay is not None else None
    values = recipe.model_dump()
    values["model"]["path"] = scorer
    values["seed"] = seed
    values["data"] = [PreferenceData(path=str(samples), format="run").model_dump()]
    values["replay"] = None if path is None else ReplaySection(path=path, share=share).model_dump()
    return RewardModelRecipe.model_validate(values)
