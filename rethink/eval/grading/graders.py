"""Graders: one a kind of answer. A verdict's answer is what was found; its score what that is worth."""

from __future__ import annotations

from collections.abc import Callable

from rethink.eval.benchmark import Grader, Verdict
from rethink.eval.grading.drop import drop_scores, normal_tokens
from rethink.eval.grading.ifeval.counting import check_packages
from rethink.eval.grading.ifeval.instructions import judge as judge_instructions
from rethink.eval.grading.stated_answer import letter_answer, line_answer, math_answer, spoken, yes_no_answer
from rethink.eval.grading.workers import worker_score
from rethink.tasks.choices import OPTIONS
from rethink.tasks.mathematics import equal_numbers
from rethink.types import Problem


def math_score(answer: str, gold: str | None) -> float | None:
    """1 where the answer equals the gold mathematically, None where the gold cannot be read.

    It says what the reward `math` says of the same texts: two numbers need no worker, everything else goes through the
    part itself. Raises what `worker_score` does.
    """
    if gold is None:
        return None
    verdict = equal_numbers(answer, gold)
    return float(verdict) if verdict is not None else worker_score("math", {"answer": "text"}, _asked(gold), answer)


def _asked(gold: str) -> Problem:
    return Problem("", "", "", gold)


def math_equivalent(answer: str, other: str) -> bool:
    """Whether two answers are the same mathematically; a comparison that fails says no."""
    if answer == other:
        return True
    try:
        # Each as the gold of the other: a decimal may be rounded where the gold is one, and is not what it rounds.
        return math_score(answer, other) == 1.0 and math_score(other, answer) == 1.0
    except Exception:  # what cannot be compared in time is not equal
        return False


def _graded(
    find: Callable[[str], str | None], score: Callable[[str, str | None], float | None]
) -> Callable[[Problem, str], Verdict]:
    def judge(problem: Problem, turn: str) -> Verdict:
        answer = find(turn)
        if problem.answer is None:
            return Verdict(answer, None)
        # No answer is wrong, but only where the gold can be read: the gold is asked with itself.
        return Verdict(answer, score(answer, problem.answer) if answer is not None else _readable(score, problem))

    return judge


def _readable(score: Callable[[str, str | None], float | None], problem: Problem) -> float | None:
    return None if score(problem.answer or "", problem.answer) is None else 0.0


def _same(answer: str, gold: str | None) -> float:
    return float(answer == gold)


def _equal_texts(answer: str, other: str) -> bool:
    return answer == other


def _judge_choice(problem: Problem, turn: str) -> Verdict:
    choices = problem.metadata.get("choices")
    answer = letter_answer(turn, OPTIONS[: len(choices)]) if choices else letter_answer(turn)
    return Verdict(answer, None if problem.answer is None else _same(answer or "", problem.answer))


MATH = Grader(
    "math: the answer by the rule `auto`, compared mathematically",
    _graded(math_answer, math_score),
    math_equivalent,
    threads=True,
)
CHOICE = Grader("choice: the letter", _judge_choice, _equal_texts)
YES_NO = Grader("yes or no (是/否)", _graded(yes_no_answer, _same), _equal_texts)


# --- reading comprehension and short answers -----------------------------------------------------------------------


def _judge_drop(problem: Problem, turn: str) -> Verdict:
    answer = line_answer(turn)
    exact, f1 = drop_scores(answer, problem.metadata["answers"]) if answer is not None else (0.0, 0.0)
    return Verdict(answer, f1, {"exact": exact})


def _same_tokens(answer: str, other: str) -> bool:
    return normal_tokens(answer) == normal_tokens(other)


def _judge_short(problem: Problem, turn: str) -> Verdict:
    answer = line_answer(turn)
    if answer is None:
        return Verdict(None, 0.0)
    found, wanted = normal_tokens(answer), normal_tokens(problem.answer or "")
    places = range(len(found) - len(wanted) + 1)
    # The gold answer may be within a sentence, but not within a list of guesses.
    short = len(found) <= len(wanted) + 12
    right = bool(wanted) and short and any(found[i : i + len(wanted)] == wanted for i in places)
    return Verdict(answer, float(right))


DROP = Grader("DROP: F1 over tokens (exact match in the details)", _judge_drop, _same_tokens)
SHORT = Grader("short answer: the gold's words occur in it", _judge_short, _same_tokens)


# --- instructions ----------------------------------------------------------------------------------------------------


def _judge_ifeval(problem: Problem, turn: str) -> Verdict:
    response = spoken(turn)
    kinds, arguments = problem.metadata["instructions"], problem.metadata["arguments"]
    strict, loose = judge_instructions(kinds, arguments, response or "")
    return Verdict(response, float(all(strict)), {"strict": strict, "loose": loose})


IFEVAL = Grader("IFEval: every instruction followed, strict", _judge_ifeval, None, check_packages)
