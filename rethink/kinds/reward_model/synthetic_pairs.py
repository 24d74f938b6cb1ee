"""Preference pairs made by rule from a policy's own samples, where nobody has said what they prefer.

A response is the better one where it is right, keeps the format (where that was scored) and does not repeat itself; the
worse one is wrong, or right without the format, or repeats itself. Both answer the same question. Such pairs are
synthetic: they carry the name of their rule wherever they are kept, and a reward model trained on them has learned the
rule, not a preference of people.

Of a question's candidates those closest in length are taken, so that length says little about which is better
(DeepSeek-R1, arXiv 2501.12948, keeps the lengths of both sides of its preference data comparable).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.analysis.repetition import repetition_penalty, words
from rethink.errors import RunFolderError, TaskError
from rethink.model.text.reward_text import On, scored_text
from rethink.store.run_folder import RunFolder
from rethink.tasks.preferences import Preference, jsonl_rows
from rethink.types import is_right

RIGHTNESS = ("accuracy", "math", "number", "gym", "code")
"""Reward parts that say whether a sample is right; the first that a sample has counts."""
FORMATS = ("format",)
REPEATED = 0.5
"""Share of repeated word 3-grams above which a sample repeats itself."""
RULES = {
    "wrong": "right-over-wrong",
    "unformatted": "right-over-unformatted",
    "repetitive": "right-over-repetitive",
}
"""Names of the rules, by what is the matter with the worse response."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion with what the rewards said of it."""

    task: str
    question: str
    text: str
    """The assistant's whole turn."""
    tokens: int
    rewards: Mapping[str, float | None]


def fault_of(sample: Sample) -> str | None:
    """What is the matter with a sample: a key of `RULES`, `unjudged` where no reward says whether it is right, or None.

    An unformatted or repetitive sample that is wrong as well is `wrong`.
    """
    right = next((sample.rewards[name] for name in RIGHTNESS if sample.rewards.get(name) is not None), None)
    if right is None:
        return "unjudged"
    if not is_right(right):
        return "wrong"
    form = next((sample.rewards[name] for name in FORMATS if sample.rewards.get(name) is not None), None)
    if form is not None and not is_right(form):
        return "unformatted"
    return "repetitive" if -repetition_penalty(words(sample.text), 3, -1.0) > REPEATED else None


def make_pairs(samples: Iterable[Sample], *, on: On, most: int = 4) -> tuple[list[Preference], dict[str, int]]:
    """Pairs of a better and a worse sample of each question.

    Args:
        samples: in any order; those of one question belong together by task and question.
        on: what will be scored; samples without it, and pairs in which it is the same, are of no use.
        most: pairs of a question. Each worse sample is used once at most, better ones as evenly as possible.

    Returns:
        The pairs, in the order in which their questions first come; and counts: `samples`, `questions`, `pairs`,
        `pairless` (questions without one), `unjudged` and `unscorable` samples.
    """
    grouped: dict[tuple[str, str], list[Sample]] = {}
    counts: Counter[str] = Counter(samples=0, questions=0, pairs=0, pairless=0, unjudged=0, unscorable=0)
    for sample in samples:
        grouped.setdefault((sample.task, sample.question), []).append(sample)
        counts["samples"] += 1
    pairs: list[Preference] = []
    for group in grouped.values():
        made = list(_pairs_of(group, on, most, counts))
        counts["questions"] += 1
        counts["pairless"] += not made
        pairs += made
    counts["pairs"] = len(pairs)
    return pairs, dict(counts)


def _pairs_of(group: Sequence[Sample], on: On, most: int, counts: Counter[str]) -> Iterator[Preference]:
    better: dict[str, Sample] = {}
    worse: dict[str, tuple[Sample, str]] = {}
    for sample in group:
        shown, fault = scored_text(sample.text, on), fault_of(sample)
        if fault == "unjudged" or not shown:
            counts["unjudged" if fault == "unjudged" else "unscorable"] += 1
        elif fault is None:
            better.setdefault(shown, sample)
        else:
            worse.setdefault(shown, (sample, fault))
    uses = dict.fromkeys(better, 0)
    open_ones = {shown: value for shown, value in worse.items() if shown not in better}
    for _ in range(min(most, len(open_ones)) if better else 0):
        good, bad = min(
            ((g, b) for g in better for b in open_ones),
            key=lambda pair: (uses[pair[0]], abs(better[pair[0]].tokens - open_ones[pair[1]][0].tokens)),
        )
        uses[good] += 1
        sample, fault = open_ones.pop(bad)
        prompt = ({"role": "user", "content": sample.question},)
        yield Preference(prompt, (better[good].text, sample.text), None, RULES[fault], f"samples of {sample.task}")


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a sample file (`samples.jsonl`), kept and dropped ones.

    Raises:
        TaskError: it cannot be read, or a row lacks what a sample has (file and line).
    """
    for where, row in jsonl_rows(path):
        if not isinstance(row, Mapping):
            raise TaskError(f"{where} is {type(row).__name__}, not a sample")
        question, text, rewards = row.get("question"), row.get("completion"), row.get("rewards")
        if not (isinstance(question, str) and isinstance(text, str) and isinstance(rewards, Mapping)):
            have = ", ".join(map(str, list(row)[:20])) or "no keys"
            raise TaskError(
                f"{where} is no sample (it has {have}): `question` and `completion` must be texts, and `rewards` a "
                "mapping from names to scores. Give a sample file, or preferences with data.N.format=preferences"
            )
        tokens = row.get("tokens")
        yield Sample(
            str(row.get("task", "")),
            question,
            text,
            tokens if isinstance(tokens, int) else len(text.split()),
            {str(name): score for name, score in rewards.items() if _is_score(score)},
        )


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def run_samples(path: Path) -> Iterator[Sample]:
    """The rollouts of a GRPO run, all batches in order.

    Raises:
        TaskError: the folder holds no run, or none that sampled anything.
    """
    try:
        folder = RunFolder.open(path)
    except RunFolderError as error:
        raise TaskError(f"data.N.format is `run`: {error}") from error
    batches = folder.batches()
    if not batches:
        raise TaskError(f"the run in `{path}` has no rollouts; give the folder of a GRPO run that has begun")
    for batch in batches:
        for rollout in folder.read_rollouts(batch) or ():
            rewards = {name: outcome.score for name, outcome in rollout.outcomes.items()}
            text = rollout.prompt.prefill + rollout.completion.text
            tokens = len(rollout.completion.token_ids)
            yield Sample(rollout.problem.task, rollout.problem.question, text, tokens, rewards)
