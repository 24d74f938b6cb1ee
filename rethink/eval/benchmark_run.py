"""One benchmark, one model, one way to ask: draw what is missing, judge it, keep it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rethink.analysis.mixing import mixing_share
from rethink.errors import TaskError, UsageError
from rethink.eval.backend import Backend, Question, Reply, Wanted
from rethink.eval.benchmark import (
    PAPER_MAX_TOKENS,
    PAPER_TEMPERATURE,
    PAPER_TOP_P,
    Benchmark,
    Verdict,
)
from rethink.eval.benchmarks.prompting import Mode, asked, stop_strings
from rethink.eval.grading.during_generation import Judging
from rethink.eval.grading.grader_version import judged_by
from rethink.eval.sample_files import Sample, SampleStore
from rethink.seeds import draw
from rethink.types import FinishReason, Problem, SamplingParams

CHUNK = 4096
"""Completions asked of the engine at once: bounds memory, and is large enough that its end costs little."""
OnSample = Callable[[int, int], None]
"""(completions there are, completions wanted)."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user asks for instead of the benchmark's own values; None keeps those."""

    k: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first token: what is asked, how often, and how it is sampled."""

    benchmark: Benchmark
    mode: Mode
    source: str
    problems: tuple[Problem, ...]
    questions: tuple[Question, ...]
    k: int
    seed: int
    params: SamplingParams
    limited_by: str
    """What set the token limit: `paper`, `run`, `context` or `asked`."""
    prompting: str
    """The mode, or that the model is asked as it was trained."""
    instruction: str
    """The user's turn."""

    def identity(self) -> dict[str, Any]:
        """What samples must share to be counted together; k and the number of problems may grow."""
        return {
            "benchmark": self.benchmark.name,
            "prompting": self.prompting,
            "prompt": self.instruction,
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "max_new_tokens": self.params.max_new_tokens,
            "seed": self.seed,
        }


def make_plan(
    benchmark: Benchmark,
    mode: Mode,
    problems: Sequence[Problem],
    source: str,
    backend: Backend,
    overrides: Overrides,
    recorded_limit: int | None = None,
) -> Plan:
    """Render every prompt and settle the sampling, before anything is generated.

    Args:
        benchmark: what is measured.
        mode: how it is asked.
        problems: of the benchmark.
        source: where they come from, for the record.
        backend: who answers.
        overrides: of the user.
        recorded_limit: token limit of an earlier, unfinished evaluation: kept where the user names none and it fits.

    Raises:
        UsageError: a prompt cannot be rendered or the limit does not fit the model's context.
    """
    section, prompting = asked(benchmark, mode, backend.trained)
    questions = tuple(backend.question(section, problem) for problem in problems)
    limit, limited_by = _token_limit(benchmark, problems, questions, backend.context, overrides, recorded_limit)
    of_run = benchmark.sampling
    temperature, top_p = (PAPER_TEMPERATURE, PAPER_TOP_P) if of_run is None else (of_run.temperature, 1.0)
    params = SamplingParams(
        temperature=temperature if overrides.temperature is None else overrides.temperature,
        top_p=top_p if overrides.top_p is None else overrides.top_p,
        max_new_tokens=limit,
        stop_strings=stop_strings(mode, prompting, backend.trained) if of_run is None else of_run.stop_strings,
    )
    return Plan(
        benchmark,
        mode,
        source,
        tuple(problems),
        questions,
        benchmark.k if overrides.k is None else overrides.k,
        overrides.seed,
        params,
        limited_by,
        prompting,
        section.instruction,
    )


def _token_limit(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    questions: Sequence[Question],
    context: int | None,
    overrides: Overrides,
    recorded: int | None,
) -> tuple[int, str]:
    longest = max(range(len(questions)), key=lambda i: len(questions[i].token_ids))
    room = None if context is None else context - len(questions[longest].token_ids)
    asked = overrides.max_new_tokens
    if asked is not None:
        if room is not None and asked > room:
            raise UsageError(
                f"--max-new-tokens {asked} does not fit: the model's context is {context} tokens, and the longest "
                f"prompt of {benchmark.name} (problem {problems[longest].id}) takes "
                f"{len(questions[longest].token_ids)} of them; give at most {room}"
            )
        return asked, "asked"
    usual, by = (PAPER_MAX_TOKENS, "paper")
    if benchmark.sampling is not None:
        usual, by = (benchmark.sampling.max_new_tokens, "run")
    limit = usual if room is None else min(usual, room)
    if recorded is not None and recorded <= limit:
        limit = recorded
    return limit, by if limit == usual else "context"


def run_plan(plan: Plan, backend: Backend, store: SampleStore, on_sample: OnSample | None = None) -> list[Sample]:
    """Draw and judge every completion of a plan that the store does not have yet.

    What ends is kept at once (within `FLUSH_SECONDS`), so a kill loses little and running the same again goes on.

    Returns:
        The plan's samples: problem by problem, each in the order of its samples.

    Raises:
        UsageError: the store's samples answer other prompts (the data has changed).
        EngineFailure: the backend broke.
    """
    there = _usable(plan, store)
    total = len(plan.problems) * plan.k
    done = sum((problem.id, sample) in there for problem in plan.problems for sample in range(plan.k))

    def keep(sample: Sample, seconds: float) -> None:
        nonlocal done
        there[sample.problem_id, sample.sample] = sample
        store.add(sample, seconds)
        done += 1
        if on_sample is not None:
            on_sample(done, total)

    missing = [
        (number, [sample for sample in range(plan.k) if (problem.id, sample) not in there])
        for number, problem in enumerate(plan.problems)
    ]
    if on_sample is not None:
        on_sample(done, total)
    try:
        with Judging(plan.benchmark.grader, lambda *given: _judged(plan, *given), keep) as judging:
            for chunk in _chunks([(number, samples) for number, samples in missing if samples]):
                wanted = [
                    Wanted(plan.questions[number], tuple(_seed(plan, number, sample) for sample in samples))
                    for number, samples in chunk
                ]
                backend.answer(wanted, plan.params, judging.takes(chunk))
    finally:
        store.flush()
    return [there[problem.id, sample] for problem in plan.problems for sample in range(plan.k)]


def judge_anew(plan: Plan, store: SampleStore) -> int:
    """Judge stored completions again whose gold answer or grader is not the one of their verdict; returns how many.

    Nothing is generated. The new verdicts are kept beside the old ones, and are read in their place.

    Raises:
        TaskError: the store's samples answer other prompts (the data has changed).
    """
    grader = plan.benchmark.grader
    numbers = {problem.id: number for number, problem in enumerate(plan.problems)}
    now = {problem.id: judged_by(problem, grader) for problem in plan.problems}
    stale = {
        place
        for place, sample in _usable(plan, store).items()
        if now.get(place[0], sample.judged_by) != sample.judged_by
    }
    if not stale:
        return 0
    samples = [sample for sample in store.read(whole=True) if (sample.problem_id, sample.sample) in stale]
    with Judging(grader, lambda *given: _judged(plan, *given), lambda sample, _: store.add(sample, 0.0)) as judging:
        reply_came = judging.takes([(numbers[sample.problem_id], [sample.sample]) for sample in samples])
        for place, sample in enumerate(samples):
            finish: FinishReason = "length" if sample.finish_reason == "length" else "stop"
            reply_came(place, 0, Reply(sample.text, sample.tokens, finish, sample.seconds, tuple(sample.token_ids)))
    store.flush()
    return len(samples)


def _judged(plan: Plan, number: int, which: int, reply: Reply) -> Sample:
    problem, question = plan.problems[number], plan.questions[number]
    failure = None
    try:
        verdict = plan.benchmark.grader.judge(problem, question.prefill + reply.text)
    except Exception as error:  # completions are hostile input: what cannot be judged is wrong, and says why
        failure = "timeout" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"[:500]
        verdict = Verdict(None, 0.0)
    return Sample(
        problem_id=problem.id,
        sample=which,
        seed=_seed(plan, number, which),
        group=str(problem.metadata.get("group", "")),
        question=problem.question,
        gold=problem.answer,
        prompt=question.text,
        prompt_hash=_hash(question),
        prefill=question.prefill,
        text=reply.text,
        token_ids=list(reply.token_ids),
        tokens=reply.tokens,
        finish_reason=reply.finish_reason,
        answer=verdict.answer,
        score=verdict.score,
        failure=failure,
        judged_by=judged_by(problem, plan.benchmark.grader),
        detail=json.dumps(dict(verdict.detail)),
        mixing=mixing_share(problem.question, reply.text),
        seconds=reply.seconds,
    )


def _usable(plan: Plan, store: SampleStore) -> dict[tuple[str, int], Sample]:
    """What the store has, by problem and sample."""
    hashes = {problem.id: _hash(question) for problem, question in zip(plan.problems, plan.questions, strict=True)}
    there: dict[tuple[str, int], Sample] = {}
    for sample in store.read():
        if hashes.get(sample.problem_id, sample.prompt_hash) != sample.prompt_hash:
            raise TaskError(
                f"the samples that are kept for problem {sample.problem_id} of {plan.benchmark.name} answer another "
                "prompt: the data or the model's chat template has changed since. Give another --out to evaluate the "
                "new data"
            )
        there[sample.problem_id, sample.sample] = sample
    return there


def _hash(question: Question) -> str:
    return hashlib.blake2b(question.text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _seed(plan: Plan, number: int, sample: int) -> int:
    """The same whatever else is drawn with it, so that a resumed evaluation draws what an unbroken one would have."""
    return draw("eval", plan.seed, plan.benchmark.name, plan.problems[number].id, sample) >> 32


def _chunks(missing: Sequence[tuple[int, list[int]]]) -> list[list[tuple[int, list[int]]]]:
    chunks: list[list[tuple[int, list[int]]]] = []
    size = CHUNK
    for item in missing:
        if size + len(item[1]) > CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += len(item[1])
    return chunks
