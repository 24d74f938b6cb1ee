"""Endpoints that answer, judge and rewrite: many questions at once, and what a failure means.

A failure of one sample (a reply that was cut, say) is that sample's; an endpoint that does not answer stops the run,
whose parts and recorded replies stay, so that a resumed one asks for what is missing and for nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rethink.endpoint.reply import NoReply
from rethink.errors import RunFailure
from rethink.kinds.samples.parts import Row, in_parts
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.records import NO_PROMPT, Sample, as_completion
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.endpoint_judge import JudgeOptions
from rethink.rewards.outcome import PartFailed

Item = TypeVar("Item")
Value = TypeVar("Value")
JUDGED_AT_ONCE = 64
ELSEWHERE = {"teacher": "teacher.url", "model": "endpoint.url"}
"""What may change on resume, by who is asked."""
JUDGED_WRONG, KEPT_BY_JUDGE = "judged-wrong", "kept"


def ask_all(
    ask: Callable[[Item], Value],
    items: Sequence[Item],
    at_once: int,
    who: str,
    on_each: Callable[[int], None] = lambda _: None,
) -> list[Value | NoReply]:
    """What comes of each item; failures that are one sample's own in their place.

    `on_each` is called in this thread with the number of items that are ready.

    Raises:
        RunFailure: the endpoint does not answer.
    """

    broken: list[NoReply] = []

    def one(item: Item) -> Value | NoReply:
        if broken:  # nobody waits for the rest of the tries
            return broken[0]
        try:
            return ask(item)
        except NoReply as failure:
            if not failure.only_this:
                broken.append(failure)
            return failure

    executor = ThreadPoolExecutor(at_once, thread_name_prefix=who)
    try:
        found: list[Value | NoReply] = []
        for value in executor.map(one, items):
            found.append(value)
            on_each(len(found))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    if broken:
        elsewhere = f" (elsewhere, perhaps: `{ELSEWHERE[who]}` may change)" if who in ELSEWHERE else ""
        raise RunFailure(
            f"the {who}'s endpoint does not answer as it should ({broken[0].cause}: {broken[0].detail}). Every reply "
            f"that came is kept: see that it runs{elsewhere}, then go on with --resume; nothing is asked twice."
        )
    return found


def judge_samples(
    samples: Sequence[Sample],
    recipe: CurateRecipe,
    folder: Path,
    *,
    stop: Callable[[], bool],
    phase: Callable[[int, int], None],
) -> None:
    """Give each sample the judge's score; None where its reply is of no use.

    Args:
        samples: those to be judged.
        recipe: its `judge`, a reward part's options.
        folder: of parts and recorded replies.
        stop: Ctrl-C.
        phase: (samples judged, of how many).

    Raises:
        RecipeError: options that the part `judge` does not take, or no endpoint.
        RunFailure: the endpoint does not answer.
    """
    if not samples:
        return
    params = {"cache": str(folder / "replies")} | dict(recipe.judge.params)
    usual = JudgeOptions.model_fields["concurrency"].default
    score = make_part("judge", params, PartContext(recipe.reward.answer), "judge")

    def ask(sample: Sample) -> float | None:
        completion = as_completion(sample.completion, (), sample.finish_reason)
        try:
            return score(sample.problem(), NO_PROMPT, completion)
        except PartFailed as failure:  # it replied, and without a score
            raise NoReply("invalid", failure.detail) from None

    def work(chunk: Sequence[Sample]) -> list[Row]:
        said = ask_all(ask, chunk, int(params.get("concurrency", usual)), "judge")
        return [
            {"id": sample.id, "judge": None, "failure": f"{value.cause}: {value.detail}"}
            if isinstance(value, NoReply)
            else {"id": sample.id, "judge": value, "failure": None}
            for sample, value in zip(chunk, said, strict=True)
        ]

    judged = 0

    def done(index: int, rows: Sequence[Row], now: bool) -> None:
        nonlocal judged
        judged += len(rows)
        phase(judged, len(samples))

    rows = in_parts(folder, samples, JUDGED_AT_ONCE, lambda sample: sample.id, work, stop=stop, done=done)
    for sample, row in zip(samples, rows, strict=True):
        sample.judge = row["judge"]
        if row["failure"] is not None:
            sample.failures["judge"] = row["failure"]


def decide_by_judge(samples: Sequence[Sample], least: float) -> None:
    """The judge's score in the place of the rule that could not read the gold."""
    for sample in samples:
        if sample.judge is not None:
            sample.reason = KEPT_BY_JUDGE if sample.judge >= least - 1e-9 else JUDGED_WRONG
