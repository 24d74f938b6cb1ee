"""Samples drawn from a model: problems of the tasks, several samples of each, scored by the rubric.

Every sample's seed is a function of the recipe's seed, the question and the sample's index, so what is drawn depends
on neither the order of problems nor a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rethink.endpoint.client import EndpointClient
from rethink.endpoint.reply import NoReply, Reply
from rethink.kinds.samples.asking import ask_all
from rethink.kinds.samples.models import Models
from rethink.kinds.samples.parts import Row
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.records import (
    ENDPOINT,
    NO_PROMPT,
    Sample,
    as_completion,
    new_sample,
    turns_asked,
)
from rethink.model.text.prompt import PromptRenderer
from rethink.rewards.rubric import Rubric
from rethink.rollout.sampler import Asked, sample
from rethink.seeds import draw
from rethink.tasks.mix import TaskMix
from rethink.tasks.split import question_key
from rethink.types import Problem, RewardOutcome, Rollout

DRAWN_AT_ONCE = 64
ENDPOINT_SEEDS = 0x7FFFFFFF
"""Seeds that every server takes."""
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
    number = sampling.per_problem
    asked = [
        Asked(problem, renderer.render(problem), tuple(sample_seed(recipe, problem, i) for i in range(number)))
        for problem in problems
    ]
    wanted = len(asked) * number
    sampled = sample(models.engine(path), rubric, asked, params, on_ended=lambda ended: on_sample(ended, wanted))
    rubric.check_failures(sampled.rollouts)
    samples = []
    for one, group in zip(asked, sampled.groups, strict=True):
        for index, (seed, rollout) in enumerate(zip(one.seeds, group, strict=True)):
            new = new_sample(recipe, recipe.prompt, one.problem, index, path, seed)
            new.completion = rollout.prompt.prefill + rollout.completion.text
            new.tokens, new.finish_reason = len(rollout.completion.token_ids), rollout.completion.finish_reason
            set_outcomes(new, rollout.outcomes)
            samples.append(new)
    return [one.row() for one in samples]


def sample_endpoint(
    problems: Sequence[Problem],
    recipe: CurateRecipe,
    client: EndpointClient,
    rubric: Rubric,
    encode: Callable[[str], Sequence[int]],
    on_sample: OnSample,
) -> list[Row]:
    """As `sample_problems`, of a model behind an endpoint; `encode` counts the tokens.

    A request that the endpoint refuses for what it holds is a sample without a completion, and `failures` says why.

    Raises:
        RunFailure: the endpoint does not answer; every reply that came is kept.
        RewardFailure: more of the rewards failed than the recipe allows.
    """
    sampling = recipe.sampling
    wanted = [(problem, index) for problem in problems for index in range(sampling.per_problem)]

    def seed(problem: Problem, index: int) -> int:
        return sample_seed(recipe, problem, index) & ENDPOINT_SEEDS

    def ask(item: tuple[Problem, int]) -> Reply:
        options = {
            "temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens, "seed": seed(*item),
            "top_p": sampling.top_p,
        }  # fmt: skip
        return client.complete(turns_asked(recipe.prompt, item[0].question), options)

    replies = ask_all(
        ask, wanted, recipe.endpoint.concurrency, "model", lambda ready: on_sample(ready, len(wanted))
    )  # fmt: skip
    samples, answered = [], []
    for (problem, index), reply in zip(wanted, replies, strict=True):
        new = new_sample(recipe, recipe.prompt, problem, index, str(recipe.endpoint.model), seed(problem, index))
        samples.append(new)
        if isinstance(reply, NoReply):
            new.failures = {ENDPOINT: f"{reply.cause}: {reply.detail}"}
        else:
            new.completion, new.finish_reason = reply.whole, "length" if reply.cut else "stop"
            answered.append(new)
    score_samples(answered, rubric, encode)
    return [one.row() for one in samples]


def sample_seed(recipe: CurateRecipe, problem: Problem, index: int) -> int:
    """The seed of a problem's sample of that index."""
    return draw("samples", recipe.seed, problem.task, question_key(problem.question), index)


def set_outcomes(sample: Sample, outcomes: Mapping[str, RewardOutcome]) -> None:
    """Put what the reward parts say into a sample."""
    sample.rewards = {name: outcome.score for name, outcome in outcomes.items()}
    sample.failures = {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure is not None}


def score_samples(samples: Sequence[Sample], rubric: Rubric, encode: Callable[[str], Sequence[int]]) -> None:
    """Score texts that no engine of ours sampled, and count their tokens."""
    problems, prompts = [one.problem() for one in samples], [NO_PROMPT] * len(samples)
    completions = [as_completion(one.completion, encode(one.completion), one.finish_reason) for one in samples]
    said = rubric.scoring(problems, prompts, 1).results([[completion] for completion in completions])
    rollouts = []
    for one, problem, completion, ((outcomes, reward),) in zip(samples, problems, completions, said, strict=True):
        one.tokens = len(completion.token_ids)
        set_outcomes(one, outcomes)
        rollouts.append(Rollout(problem, NO_PROMPT, completion, outcomes, reward))
    rubric.check_failures(rollouts)
