"""Samples drawn from a model: problems of the tasks, several samples of each, scored by the rubric.

Every sample's seed is a function of the recipe's seed, the question and the sample's index, so what is drawn depends
on neither the order of problems nor a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rethink.curation.models import Models
from rethink.curation.parts import Row
from rethink.curation.records import NO_PROMPT, Sample, as_completion, sample_id, turns_before
from rethink.model.chat import PromptRenderer
from rethink.recipe.curate import CurateRecipe
from rethink.rewards.rubric import Rubric
from rethink.tasks.mix import TaskMix
from rethink.tasks.source import draw
from rethink.tasks.split import question_key
from rethink.types import GenerationRequest, Problem, RewardOutcome, Rollout

DRAWN_AT_ONCE = 64
PATIENCE = 20
"""Problems drawn for each one wanted before the tasks count as used up."""
OnSample = Callable[[int, int], None]
"""(samples drawn of this part, samples wanted)."""


def different_problems(mix: TaskMix, wanted: int) -> list[Problem]:
    """Up to `wanted` problems of the mixture, no question of a task twice; fewer where the tasks have no more.

    Raises:
        TaskError: a source has no problem for training.
    """
    found: dict[tuple[str, int], Problem] = {}
    for batch in range(PATIENCE * wanted // DRAWN_AT_ONCE + PATIENCE):
        before = len(found)
        for problem in mix.train_batch(batch, DRAWN_AT_ONCE, 0):
            found.setdefault((problem.task, question_key(problem.question)), problem)
        if len(found) >= wanted or (len(found) == before and batch >= PATIENCE):
            break
    return list(found.values())[:wanted]


def sample_problems(
    problems: Sequence[Problem],
    recipe: CurateRecipe,
    models: Models,
    renderer: PromptRenderer,
    rubric: Rubric,
    on_sample: OnSample,
) -> list[Row]:
    """The scored samples of some problems, as rows.

    Raises:
        TaskError: a prompt is too long.
        EngineFailure: generation broke.
        RewardFailure: more of the rewards failed than the recipe allows.
    """
    path, sampling = recipe.model.path, recipe.sampling
    params = models.params(
        path,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_strings=sampling.stop_strings,
    )
    prompts = [renderer.render(problem) for problem in problems]
    seeds = [tuple(sample_seed(recipe, problem, i) for i in range(sampling.per_problem)) for problem in problems]
    requests = [GenerationRequest(p.token_ids, own, params) for p, own in zip(prompts, seeds, strict=True)]
    scoring = rubric.scoring(problems, prompts, sampling.per_problem)
    drawn = 0

    def finished(request: int, sample: int, completion: object) -> None:
        nonlocal drawn
        drawn += 1
        on_sample(drawn, len(problems) * sampling.per_problem)
        scoring.add(request, sample, completion)  # type: ignore[arg-type]

    completions = models.generate(path, requests, finished)
    rows, rollouts = [], []
    scored = scoring.results(completions)
    for p, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        for index, completion in enumerate(completions[p]):
            outcomes, reward = scored[p][index]
            rollouts.append(Rollout(problem, prompt, completion, outcomes, reward))
            sample = Sample(
                id=sample_id(problem.task, problem.question, index),
                task=problem.task,
                question=problem.question,
                gold=problem.answer,
                messages=turns_before(recipe.prompt, problem.question),
                completion=prompt.prefill + completion.text,
                tokens=len(completion.token_ids),
                finish_reason=completion.finish_reason,
                source={"model": path, "stage": recipe.name, "seed": seeds[p][index], "index": index},
                metadata={**problem.metadata},
            )
            set_outcomes(sample, outcomes)
            rows.append(sample.row())
    rubric.check_failures(rollouts)
    return rows


def sample_seed(recipe: CurateRecipe, problem: Problem, index: int) -> int:
    """The seed of a problem's sample of that index."""
    return draw(recipe.seed, "samples", problem.task, question_key(problem.question), index)


def set_outcomes(sample: Sample, outcomes: dict[str, RewardOutcome]) -> None:
    """Put what the reward parts say into a sample."""
    sample.rewards = {name: outcome.score for name, outcome in outcomes.items()}
    sample.failures = {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure is not None}


def score_samples(samples: Sequence[Sample], rubric: Rubric, encode: Callable[[str], Sequence[int]]) -> None:
    """Score texts that no engine of ours sampled, and count their tokens."""
    completions = [as_completion(s.completion, encode(s.completion), s.finish_reason) for s in samples]
    scorings = [rubric.scoring([sample.problem()], [NO_PROMPT], 1) for sample in samples]
    for scoring, completion in zip(scorings, completions, strict=True):
        scoring.add(0, 0, completion)
    rollouts = []
    for sample, scoring, completion in zip(samples, scorings, completions, strict=True):
        outcomes, reward = scoring.results()[0][0]
        sample.tokens = len(completion.token_ids)
        set_outcomes(sample, outcomes)
        rollouts.append(Rollout(sample.problem(), NO_PROMPT, completion, outcomes, reward))
    if rollouts:
        rubric.check_failures(rollouts)
