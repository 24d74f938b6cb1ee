"""From a report's numbers to findings: what cannot work, what may not, and what to change.

The bounds are here and nowhere else. They are rules of thumb: groups without signal cost their share of every step, a
cheat that earns as much as the right answer will be found by the policy.
"""

from __future__ import annotations

from typing import Any

from rethink.check.found import Report
from rethink.recipe.schema import RewardSection
from rethink.tasks.guesses import GUESSED

SILENT_WARNING, SILENT_PROBLEM = 0.5, 0.9
"""Share of groups without signal."""
TRUNCATED_WARNING, TRUNCATED_PROBLEM = 0.25, 0.75
"""Share of completions that reach the token limit."""
CHEAT_WARNING, CHEAT_PROBLEM = 0.1, 0.34
"""Mean accuracy of a cheat."""
GUESS_WARNING, GUESS_PROBLEM = 0.34, GUESSED
"""Mean accuracy of a guess that needs no thought."""
SLOW_WARNING, SLOW_PROBLEM = 0.2, 1.0
"""Seconds of rewards in a step, as a share of the step's other seconds."""
LEAST_SECONDS = 0.1
"""Seconds of rewards in a step that nobody minds."""
FAILED_WARNING = 0.02
"""Share of a part's outcomes that failed."""
UNREAD_WARNING = 0.05
"""Share of gold answers that cannot be read."""
FEW_QUESTIONS = 0.5
"""Share of the problems that ask something different, below which there are too few."""
RIGHT_LEAST = 0.99
"""What the right answer must get from a part that judges it."""
CHEAT_SHARE = 0.75
"""Of the right answer's reward, that a cheat may earn in all."""
ANSWERED_PROBLEM, OTHER_RULE = 0.05, 0.2
"""Share of completions that give an answer where it is looked for; share by another rule that is worth naming."""
ABSTAINED_WARNING = 0.5
"""Share of completions that a part gives no score."""
RIGHTNESS = ("accuracy", "math", "number", "gym")
"""Built-in parts that say whether the answer is right."""
FEW_GROUPS = 4
"""Groups below which nothing is concluded from their number."""
HARD = 0.15
"""Where nothing was right: upper end of the interval at which there were enough samples to call the task too hard."""
EASY = 0.95
"""Share of right answers above which there is nothing left to learn."""
DAYS = 7
"""Days of a run above which one should know."""


def judge(report: Report, reward: RewardSection) -> None:
    """Add a finding to the report for everything that its sections show to be wrong."""
    judges = {
        "gold": _gold,
        "prompts": _prompts,
        "examples": _examples,
        "cheats": _cheats,
        "signal": _signal,
        "length": _length,
        "rewards": _rewards,
        "cost": _cost,
    }
    for name, judge_section in judges.items():
        if name in report.sections:
            judge_section(report, reward, report.sections[name])


def _gold(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    number, failing, unread = found["problems"], found["failing_number"], found["unreadable"]
    if failing:
        first = found["failing"][0]
        report.problem(
            "gold",
            "gold-not-right",
            f"{failing} of {number} gold answers do not get full marks from their own checker: {first['id']} with gold "
            f"{first['gold'][:80]!r} gets {first['said']}. Choose another tasks.checker or "
            "tasks.answer_format, or mend the data.",
        )
    if unread == number:
        report.problem(
            "gold",
            "gold-unreadable",
            f"none of {number} gold answers can be read, so no answer can be checked. Set tasks.answer_key and "
            "tasks.answer_format to where the answers are.",
        )
    elif unread > UNREAD_WARNING * number:
        report.warn(
            "gold", "gold-unreadable", f"{unread} of {number} gold answers cannot be read; their rewards abstain."
        )
    if found["guessable"]:
        report.warn("gold", "gold-guessable", f"{found['guessable']}.")
    if found["different_questions"] < FEW_QUESTIONS * number:
        report.warn(
            "gold",
            "few-questions",
            f"only {found['different_questions']} of the first {number} problems ask something different; the policy "
            "can learn them by heart. Widen the task's parameters or give more data.",
        )


def _prompts(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    if found["over"]:
        share = found["over"] / found["problems"]
        say = report.problem  # one such prompt stops the run where it is drawn
        say(
            "prompts",
            "prompt-over-context",
            f"{found['over']} of {found['problems']} prompts ({share:.0%}) do not fit beside "
            f"{found['max_new_tokens']} new tokens in the context of {found['context']}: "
            f"{found['examples_over'][0]['said']}",
        )


def _examples(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    if found["without_answer"]:
        listed = ", ".join(f"prompt.examples.{n}" for n in found["without_answer"])
        report.problem(
            "examples",
            "example-without-answer",
            f"{listed} gives no answer where reward.answer=`{reward.answer}` looks for one, so the "
            "prompt teaches a form that earns nothing. Write the example's answer in that form, or change "
            "reward.answer.",
        )


def _cheats(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    right = found["right_answer"]
    if right is None:
        return
    accuracy = _accuracy_parts(reward)
    best = right["reward"]
    for part in accuracy:
        if right["parts"][part] < RIGHT_LEAST:
            report.problem(
                "cheats",
                "right-answer-not-rewarded",
                f"the gold answer in the form that reward.answer=`{reward.answer}` asks for gets "
                f"{right['parts'][part]:.2f} from the part `{part}`, not 1. Extraction and checker do not fit each "
                "other: change reward.answer or tasks.checker.",
            )
    for row in found["rows"]:
        _cheat(report, row, best, accuracy)


def _cheat(report: Report, row: dict[str, Any], best: float, accuracy: list[str]) -> None:
    name, reward = row["name"], row["reward"]
    earned = max((row["parts"][part] for part in accuracy), default=0.0)
    warning, problem = (GUESS_WARNING, GUESS_PROBLEM) if row["guess"] else (CHEAT_WARNING, CHEAT_PROBLEM)
    shown = ", ".join(f"{part} {value:.2f}" for part, value in row["parts"].items() if value)
    if row["guess"]:
        if earned > warning:
            say = report.problem if earned > problem else report.warn
            say(
                "cheats",
                "guess-rewarded",
                f"the guess `{name}` is right in {earned:.0%} of the problems: the policy needs no thought. Balance or "
                "widen the answers.",
            )
        return
    if reward >= best - 1e-6 or earned > problem:
        report.problem(
            "cheats",
            "cheat-rewarded",
            f"the cheat `{name}` earns {reward:.2f} ({shown}) where the right answer earns {best:.2f}; under RL the "
            "policy will find it. Make the checker or the reward stricter, or reward.answer more exact.",
        )
    elif earned > warning or reward > CHEAT_SHARE * best:
        report.warn(
            "cheats",
            "cheat-rewarded-in-part",
            f"the cheat `{name}` earns {reward:.2f} ({shown}) where the right answer earns {best:.2f}.",
        )


def _signal(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    size, silent, solved = found["group_size"], found["no_signal"], found["solved"]
    n = found["prompts"] * size
    answered = found["answered"]
    if answered is not None and answered < ANSWERED_PROBLEM:
        others = {rule: share for rule, share in found["answered_by_rule"].items() if share > max(OTHER_RULE, answered)}
        most = max(others, key=lambda rule: others[rule], default=None)
        hint = f" {others[most]:.0%} give one by the rule `{most}`." if most else ""
        report.problem(
            "signal",
            "answer-not-found",
            f"{answered:.0%} of {n} completions give an answer where reward.answer=`{reward.answer}` "
            f"looks for it.{hint} Show the form in prompt.examples and prompt.instruction, or change reward.answer.",
        )
    if solved == 0:
        say = report.problem if found["solved_interval"][1] <= HARD else report.warn
        say(
            "signal",
            "too-hard",
            f"none of {n} completions is right (95 % interval up to {found['solved_interval'][1]:.1%}): there "
            "is nothing to reinforce. Take an easier task or parameters, an example in the prompt, a larger model, or "
            "begin with supervised fine-tuning.",
        )
    elif solved is not None and solved > EASY:
        report.problem(
            "signal",
            "too-easy",
            f"{solved:.0%} of {n} completions are right already: there is little to learn. Take harder "
            "parameters, or a curriculum.",
        )
    if silent > SILENT_WARNING:
        below, above = found["no_signal_below"], found["no_signal_above"]
        fix = (
            "mostly because nothing is right: make the task easier, show an example, or raise rollout.group_size"
            if below >= above
            else "mostly because everything is right: make the task harder, or use a curriculum"
        )
        say = report.problem if silent > SILENT_PROBLEM and found["prompts"] >= FEW_GROUPS else report.warn
        say(
            "signal",
            "no-signal",
            f"{silent:.0%} of the groups of {size} have equal rewards ({below:.0%} below, {above:.0%} above) "
            f"and give no gradient, {fix}.",
        )
    for part, value in found["constant_parts"].items():
        if value <= 0:  # a part that is full from the start is learned already
            report.warn(
                "signal",
                "constant-part",
                f"the part `{part}` said {value:g} of every one of {n} completions, so it teaches nothing at the "
                "start. Show in prompt.examples what earns it.",
            )


def _length(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    truncated, limit = found["truncated"], found["limit_sampled"]
    if truncated > TRUNCATED_WARNING:
        if limit < found["limit"]:
            report.warn(
                "length",
                "long-completions",
                f"{truncated:.0%} of the completions were longer than the {limit} tokens that a check samples; the "
                f"recipe allows {found['limit']}.",
            )
            return
        say = report.problem if truncated > TRUNCATED_PROBLEM else report.warn
        say(
            "length",
            "truncated",
            f"{truncated:.0%} of the completions were cut at rollout.max_new_tokens={limit} and cannot give an answer "
            "any more. Raise the limit, or show a shorter example.",
        )


def _rewards(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    for part, failed in found["failures"].items():
        share = failed["share"]
        if share > FAILED_WARNING:
            say = report.problem if share > reward.max_failure_share else report.warn
            say(
                "rewards",
                "reward-fails",
                f"the part `{part}` fails on {share:.0%} of the completions: {failed['commonest']}. Above "
                f"reward.max_failure_share={reward.max_failure_share:g} the run stops. Mend the function.",
            )
    for part, share in found["abstained"].items():
        if share > ABSTAINED_WARNING:
            report.warn(
                "rewards", "reward-abstains", f"the part `{part}` gives no score for {share:.0%} of the completions."
            )


def _cost(report: Report, reward: RewardSection, found: dict[str, Any]) -> None:
    least, have = found["memory_least_gb"], found["memory_available_gb"]
    if least > have:
        report.problem(
            "cost",
            "memory",
            f"the run needs at least {least:.1f} GiB and {have:.1f} GiB are free. Take a smaller model, a lower "
            "rollout.max_new_tokens, or another machine.",
        )
    elif found["memory_most_gb"] > have:
        report.warn(
            "cost",
            "memory",
            f"the run would use up to {found['memory_most_gb']:.1f} GiB and {have:.1f} GiB are free; it "
            "limits itself by smaller micro-batches and fewer sequences at once, which is slower.",
        )
    step, rewards = found["seconds_per_step"], found["reward_seconds_per_step"]
    if step and rewards > max(SLOW_WARNING * step, LEAST_SECONDS):
        say = report.problem if rewards > SLOW_PROBLEM * step else report.warn
        say(
            "cost",
            "slow-reward",
            f"rewards take {rewards:.1f} s a step beside {step:.1f} s for sampling and training. Make the slow part "
            "faster, or cache what it computes.",
        )
    if found["hours"] and found["hours"] > 24 * DAYS:
        report.warn(
            "cost", "long-run", f"the whole run would take about {found['hours'] / 24:.0f} days on this machine."
        )


def _accuracy_parts(reward: RewardSection) -> list[str]:
    """Names of the parts that say whether the answer is right."""
    return [p.name for p in reward.parts if (p.builtin or p.name) in RIGHTNESS and p.function is None]
