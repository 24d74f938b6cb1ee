"""The reward of a rollout: a weighted sum of named parts, each a rule. No part is a model; each outcome is recorded.

DeepSeek-R1 (arXiv 2501.12948, 2.2.2): accuracy and format, of equal weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rethink.errors import RecipeError, RewardFailure
from rethink.recipe.schema import Recipe, RewardPart
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.extract import AnswerRule, extract_answer
from rethink.rewards.outcome import SHOWN, PartFunction, run_part
from rethink.tasks.mix import TaskMix
from rethink.tasks.plugins import load_function
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout


@dataclass(frozen=True, slots=True)
class Part:
    """One part, ready to score."""

    name: str
    weight: float
    function: PartFunction


@dataclass(frozen=True, slots=True)
class Rubric:
    """Scores completions."""

    parts: tuple[Part, ...]
    max_failure_share: float

    def score(
        self, problem: Problem, prompt: Prompt, completion: Completion
    ) -> tuple[dict[str, RewardOutcome], float | None]:
        """Outcome of every part, and the reward: the weighted sum of the scores.

        A part that abstains or fails adds nothing. The reward is None where no part with a weight gave a score.
        """
        outcomes = {part.name: run_part(part.function, problem, prompt, completion) for part in self.parts}
        terms = [
            part.weight * score
            for part in self.parts
            if part.weight != 0 and (score := outcomes[part.name].score) is not None
        ]
        return outcomes, sum(terms) if terms else None

    def check_failures(self, rollouts: Sequence[Rollout]) -> None:
        """Stop a run whose rewards do not work.

        Raises:
            RewardFailure: more than the allowed share of a part's outcomes failed; with the causes and an example.
        """
        for part in self.parts:
            failed = [r for r in rollouts if r.outcomes[part.name].failure is not None]
            if len(failed) > self.max_failure_share * len(rollouts):
                causes = Counter(str(r.outcomes[part.name].failure) for r in failed).most_common(3)
                listed = "; ".join(f"{count} × {cause}" for cause, count in causes)
                example = failed[0].completion.text[-SHOWN:]
                raise RewardFailure(
                    f"the reward part `{part.name}` failed on {len(failed)} of {len(rollouts)} completions, more than "
                    f"reward.max_failure_share={self.max_failure_share:g} allows: {listed}. The last one of problem "
                    f"{failed[0].problem.id} ends with {example!r}. Mend the checker and go on with --resume."
                )


def build_rubric(recipe: Recipe, mix: TaskMix) -> Rubric:
    """The rubric of a recipe.

    Args:
        recipe: its `reward` section.
        mix: whose checkers judge accuracy.

    Raises:
        RecipeError: a part's function cannot be found, or a built-in part is given options.
    """
    parts = [
        Part(part.name, part.weight, _function(part, f"reward.parts.{i}", recipe.reward.answer, mix))
        for i, part in enumerate(recipe.reward.parts)
    ]
    return Rubric(tuple(parts), recipe.reward.max_failure_share)


def _function(part: RewardPart, field: str, rule: AnswerRule, mix: TaskMix) -> PartFunction:
    if part.function is not None:
        return _own(part, field)
    name = part.builtin or part.name
    if name == "accuracy":
        if part.params:
            raise RecipeError(
                f"{field}.params: the part `{name}` takes no options, but {sorted(part.params)} are given"
            )
        return accuracy(mix, rule)
    return make_part(name, part.params, PartContext(rule), field)


def _own(part: RewardPart, field: str) -> PartFunction:
    function = load_function(str(part.function), f"{field}.function", RecipeError)

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        value: float | None = function(problem, prompt.prefill + completion.text, **part.params)
        return value

    return score


def accuracy(mix: TaskMix, rule: AnswerRule) -> PartFunction:
    """What the task's checker says of the answer; 0 for a completion that gives none."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        answer = extract_answer(completion.text, prompt.prefill, rule)
        # A problem whose gold cannot be read abstains whatever the completion says, so it is asked with a dummy.
        if answer is None:
            return None if problem.answer is None and mix.score(problem, "0") is None else 0.0
        return mix.score(problem, answer)

    return score
