"""What a check measures: gold answers, prompts, cheats, and a few groups of the model's own completions.

Every function records numbers in a `Report` and judges nothing; `findings.py` does that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rethink.check.battery import CHEATS, Cheat, completion_of, gold_turn, setting_of
from rethink.check.found import Report
from rethink.errors import TaskError
from rethink.eval.statistics.estimates import wilson_interval
from rethink.kinds.grpo.collect import Sources, sampling_params
from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.thoughts import ANSWER, END_ANSWER
from rethink.recipe.base import AskingRecipe
from rethink.recipe.schema import RewardPart, RewardSection, RolloutSection
from rethink.rewards.extract import AnswerRule, extract_answer
from rethink.rewards.rubric import Rubric, build_rubric, closing
from rethink.rollout.sampler import Asked, complete
from rethink.seeds import draw
from rethink.tasks.guesses import commonest, guess_warning
from rethink.tasks.mix import TaskMix
from rethink.types import Completion, Problem, Prompt, RewardOutcome, is_right

GOLD_PROBLEMS = 100
"""Problems whose gold answers are scored and whose prompts are measured."""
CHEATED_PROBLEMS = 12
"""Problems that the cheats are tried on."""
LISTED, LISTED_GOLD = 5, 50
"""Examples that a section lists."""
MOST_GROUP = 16
"""Completions of a prompt that are sampled at most."""
MOST_TOKENS = 1024
"""Token limit while checking; a recipe's higher limit is not waited for."""
FIRST_PROMPTS, PROMPTS_AT_ONCE = 2, 4
"""Prompts that are sampled together: few at first, to see how long it takes."""

ACCURACY = "accuracy"
"""The built-in part that asks the task's own checker."""

Item = tuple[Problem, Prompt, Completion]
Scored = tuple[dict[str, RewardOutcome], float | None]


def score(rubric: Rubric, groups: Sequence[Sequence[Item]]) -> list[list[Scored]]:
    """Outcomes and reward of each completion, by group and sample; the groups are of equal size."""
    if not groups:
        return []
    problems, prompts = [group[0][0] for group in groups], [group[0][1] for group in groups]
    scoring = rubric.scoring(problems, prompts, len(groups[0]))
    return scoring.results([[completion for _, _, completion in group] for group in groups])


def accuracy_alone(reward: RewardSection, rule: AnswerRule, mix: TaskMix) -> Rubric:
    """No other reward than whether the answer is right; it abstains where there is no right answer."""
    return build_rubric(reward.model_copy(update={"parts": (RewardPart(name=ACCURACY),), "answer": rule}), mix.judges())


def has_answer(mix: TaskMix, problem: Problem) -> bool:
    """Whether a problem has, or should have, a right answer: general prompts have none."""
    return problem.answer is not None or mix.needs_gold(problem)


def check_gold(report: Report, reward: RewardSection, mix: TaskMix, problems: Sequence[Problem]) -> None:
    """Section `gold`: what the task's own checker, in the reward workers, says of the gold answers."""
    problems = [problem for problem in problems if has_answer(mix, problem)]
    if not problems:
        return
    known = [problem for problem in problems if problem.answer is not None]
    with closing(accuracy_alone(reward, "answer-tag", mix)) as rubric:
        outcomes = score_gold(rubric, known)
    right, unread, failing = 0, len(problems) - len(known), []
    for problem, outcome in zip(known, outcomes, strict=True):
        if outcome == RewardOutcome(None):
            unread += 1
        elif is_right(outcome.score):
            right += 1
        else:
            said: Any = outcome.failure or outcome.score
            failing.append({"id": problem.id, "gold": str(problem.answer)[:200], "said": said})
    answer, times = commonest(problem.answer for problem in known)
    report.section(
        "gold",
        {
            "problems": len(problems),
            "full_marks": right,
            "unreadable": unread,
            "failing": failing[:LISTED_GOLD],
            "failing_number": len(failing),
            "different_questions": len({problem.question for problem in problems}),
            "commonest_answer": answer,
            "commonest_share": times / len(problems),
            "guessable": guess_warning(known),
        },
    )


def score_gold(rubric: Rubric, problems: Sequence[Problem]) -> list[RewardOutcome]:
    """What the accuracy part of an `answer-tag` rubric says of each problem's gold answer."""
    prompt = Prompt("", ())

    def gold(problem: Problem) -> Completion:
        return completion_of(f"{ANSWER}{problem.answer}{END_ANSWER}", prompt, lambda text: [])

    scored = score(rubric, [[(problem, prompt, gold(problem))] for problem in problems])
    return [group[0][0][ACCURACY] for group in scored]


def check_prompts(
    report: Report, render: PromptRenderer, problems: Sequence[Problem], context: int, longest: int
) -> list[tuple[Problem, Prompt]]:
    """Section `prompts`: lengths, and which are over the context beside a completion of `longest`. Returns those that
    fit.
    """
    fitting, over = [], []
    for problem in problems:
        try:
            fitting.append((problem, render.render(problem)))
        except TaskError as error:
            over.append({"id": problem.id, "said": str(error)[:300]})
    lengths = sorted(len(prompt.token_ids) for _, prompt in fitting) or [0]
    report.section(
        "prompts",
        {
            "problems": len(problems),
            "over": len(over),
            "examples_over": over[:LISTED],
            "longest": lengths[-1],
            "mean": sum(lengths) / len(lengths),
            "context": context,
            "max_new_tokens": longest,
        },
    )
    return fitting


def check_examples(
    report: Report, recipe: AskingRecipe, rubric: Rubric, encode: Callable[[str], Sequence[int]]
) -> None:
    """Section `examples`: whether the worked examples of the prompt give an answer where the reward looks for one."""
    silent = []
    for number, example in enumerate(recipe.prompt.examples):
        prompt = Prompt("", (), recipe.prompt.prefill)
        completion = completion_of(example.completion, prompt, encode)
        answer = extract_answer(completion.text, prompt.prefill, recipe.reward.answer)
        if answer is None:
            silent.append(number)
    report.section("examples", {"examples": len(recipe.prompt.examples), "without_answer": silent})


@dataclass(frozen=True, slots=True)
class CheatRow:
    """What one kind of cheating completion earned, on average."""

    name: str
    guess: bool
    reward: float
    parts: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "guess": self.guess, "reward": self.reward, "parts": self.parts}


def check_cheats(
    report: Report,
    rule: AnswerRule,
    limit: int,
    rubric: Rubric,
    asked: Sequence[tuple[Problem, Prompt]],
    encode: Callable[[str], Sequence[int]],
) -> None:
    """Section `cheats`: mean reward and parts of the right answer and of every cheat.

    Args:
        rule: where answers are looked for.
        limit: most tokens of a completion.
    """
    known = [pair for pair in asked if pair[0].answer is not None]
    cheated = known[:CHEATED_PROBLEMS]
    setting = setting_of([problem for problem, _ in known], rule, limit)

    def row(name: str, guess: bool, texts: Sequence[str], pairs: Sequence[tuple[Problem, Prompt]]) -> CheatRow:
        items = [[(p, prompt, completion_of(t, prompt, encode))] for (p, prompt), t in zip(pairs, texts, strict=True)]
        scored = [group[0] for group in score(rubric, items)]
        parts = {part.name: _mean([outcomes[part.name].score for outcomes, _ in scored]) for part in rubric.parts}
        return CheatRow(name, guess, _mean([reward for _, reward in scored]), parts)

    def cheat_row(cheat: Cheat) -> CheatRow:
        # A guess is judged by how often it is right, which takes more problems.
        pairs = known if cheat.guess else cheated
        return row(cheat.name, cheat.guess, [cheat.text(p, prompt, setting) for p, prompt in pairs], pairs)

    gold = row("the right answer", False, [gold_turn(p, rule) for p, _ in cheated], cheated) if cheated else None
    report.section(
        "cheats",
        {
            "problems": len(cheated),
            "right_answer": gold.plain() if gold else None,
            "rows": [cheat_row(cheat).plain() for cheat in CHEATS] if cheated else [],
        },
    )


def sample_groups(
    rollout: RolloutSection,
    seed: int,
    sources: Sources,
    asked: Sequence[tuple[Problem, Prompt]],
    seconds: float,
) -> tuple[list[list[Item]], float]:
    """Groups of the model's completions at the recipe's sampling, until there are enough or the time is up.

    Returns:
        the groups, and the seconds that sampling took.
    """
    params = sampling_params(rollout, sources, 0)
    limit = min(params.max_new_tokens, MOST_TOKENS)
    params = replace(params, max_new_tokens=limit)
    size = min(rollout.group_size, MOST_GROUP)
    groups: list[list[Item]] = []
    started = time.perf_counter()
    while len(groups) < len(asked) and time.perf_counter() - started < seconds:
        first = len(groups)
        chunk = asked[first : first + (PROMPTS_AT_ONCE if groups else FIRST_PROMPTS)]
        wanted = [
            Asked(problem, prompt, tuple(draw("check", seed, first + i, g) for g in range(size)))
            for i, (problem, prompt) in enumerate(chunk)
        ]
        # Rewards are scored when all is sampled, so that their time is measured alone.
        sampled = complete(sources.engine, wanted, params)
        groups += [[(p, prompt, c) for c in group] for (p, prompt), group in zip(chunk, sampled, strict=True)]
    return groups, time.perf_counter() - started


def check_samples(
    report: Report,
    reward: RewardSection,
    allowed: int,
    rubric: Rubric,
    groups: Sequence[Sequence[Item]],
    seconds: float,
    mix: TaskMix,
) -> None:
    """Sections `signal`, `length` and `rewards`, from the model's own completions; `allowed`: tokens that the recipe
    allows them, `seconds`: that sampling took.
    """
    items = [item for group in groups for item in group]
    started = time.perf_counter()
    by_group = score(rubric, groups)
    reward_seconds = time.perf_counter() - started
    scored = [one for group in by_group for one in group]
    rewards = [[reward for _, reward in group] for group in by_group]
    with closing(accuracy_alone(reward, reward.answer, mix)) as accuracy:
        solved = [[_solved(outcomes[ACCURACY]) for outcomes, _ in group] for group in score(accuracy, groups)]
    report.section(
        "signal",
        _signal(rewards, solved)
        | _constant_parts(rubric, scored)
        | _answers(reward.answer, [item for item in items if has_answer(mix, item[0])]),
    )
    tokens = [len(item[2].token_ids) for item in items]
    report.section(
        "length",
        {
            "limit": allowed,
            "limit_sampled": min(allowed, MOST_TOKENS),
            "truncated": sum(item[2].finish_reason == "length" for item in items) / len(items),
            "mean": sum(tokens) / len(tokens),
            "longest": max(tokens),
            "tokens_per_second": sum(tokens) / seconds if seconds > 0 else None,
        },
    )
    report.section("rewards", _rewards(rubric, scored, reward_seconds))


def _solved(outcome: RewardOutcome) -> bool | None:
    """Whether the answer gets full marks; None where the checker cannot say."""
    return None if outcome.score is None else is_right(outcome.score)


def _signal(rewards: list[list[float | None]], solved: list[list[bool | None]]) -> dict[str, Any]:
    number, size = len(rewards), len(rewards[0])
    silent = [len({r for r in group if r is not None}) < 2 for group in rewards]
    shares = [sum(bool(s) for s in group) / size for group in solved]
    flat = [s for group in solved for s in group if s is not None]
    low, high = wilson_interval(sum(flat), len(flat)) if flat else (0.0, 1.0)
    return {
        "prompts": number,
        "group_size": size,
        "solved": sum(flat) / len(flat) if flat else None,
        "solved_interval": [low, high],
        "prompts_solved_never": sum(share == 0 for share in shares) / number,
        "prompts_solved_sometimes": sum(0 < share < 1 for share in shares) / number,
        "prompts_solved_always": sum(share == 1 for share in shares) / number,
        "no_signal": sum(silent) / number,
        "no_signal_below": sum(s and share < 0.5 for s, share in zip(silent, shares, strict=True)) / number,
        "no_signal_above": sum(s and share >= 0.5 for s, share in zip(silent, shares, strict=True)) / number,
        "reward_mean": _mean([r for group in rewards for r in group]),
    }


def _constant_parts(rubric: Rubric, scored: Sequence[Scored]) -> dict[str, Any]:
    """Parts that said the same of every completion."""
    constant = {}
    for part in rubric.parts:
        said = {outcomes[part.name].score for outcomes, _ in scored} - {None}
        if len(said) == 1 and part.weight != 0:
            constant[part.name] = said.pop()
    return {"constant_parts": constant}


def _answers(own_rule: AnswerRule, items: Sequence[Item]) -> dict[str, Any]:
    """Where completions give an answer: by the recipe's rule, and by the others."""
    if not items:  # nothing that has a right answer
        return {"answered": None, "answered_by_rule": {}}
    found = {}
    rules: tuple[AnswerRule, ...] = ("answer-tag", "boxed", "last-number")
    for rule in rules:
        given = [extract_answer(c.text, prompt.prefill, rule) is not None for _, prompt, c in items]
        found[rule] = sum(given) / len(given)
    own = [extract_answer(c.text, prompt.prefill, own_rule) is not None for _, prompt, c in items]
    return {"answered": sum(own) / len(own), "answered_by_rule": found}


def _rewards(rubric: Rubric, scored: Sequence[Scored], seconds: float) -> dict[str, Any]:
    failures: dict[str, Any] = {}
    for part in rubric.parts:
        causes = Counter(str(o[part.name].failure) for o, _ in scored if o[part.name].failure is not None)
        if causes:
            failures[part.name] = {
                "share": sum(causes.values()) / len(scored),
                "commonest": causes.most_common(1)[0][0],
            }
    abstained = {
        part.name: said_nothing
        for part in rubric.parts
        if (said_nothing := _mean([float(o[part.name] == RewardOutcome(None)) for o, _ in scored])) > 0
    }
    return {
        "completions": len(scored),
        "seconds_each": seconds / len(scored),
        "failures": failures,
        "abstained": abstained,
    }


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
