"""The part `gym`, and the judge of tasks of reasoning-gym whose own scorer must run in the sandbox.

who judges (rethink.tasks.gym.scorers)     where
ours, compares                             a reward worker
sandbox                                    thread ─► sandbox: entry made in one process, answer judged in another
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

from rethink.recipe.reward import Place
from rethink.rewards.builtin import PartContext
from rethink.rewards.extract import AnswerRule, extract_answer
from rethink.rewards.outcome import CRASH, EXCEPTION, INVALID, TIMEOUT, PartFailed, PartFunction, placed
from rethink.rewards.sandbox.inside import wire
from rethink.rewards.sandbox.process import Limits, Role, run_job
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure, SandboxUnavailable
from rethink.rewards.sandbox.warm_sandboxes import borrow, with_sandboxes
from rethink.tasks.gym.checking import GymJudge, bare_entry, check_same
from rethink.tasks.gym.library import make_dataset
from rethink.tasks.gym.scorers import MAX_TEXT, who_judges
from rethink.tasks.judge import Judge
from rethink.types import Completion, Problem, Prompt

LIMITS = Limits(cpu_seconds=5.0, wall_seconds=5.0, memory_bytes=2 << 30, output_bytes=4 << 20)
"""Of one job. The address space holds the library, which takes a quarter of a GiB."""
REMEMBERED = 256
"""Entries that are kept: the completions of one problem come close together."""


def place_of(task: str) -> Place:
    """Where the answers to a task are judged."""
    return "thread" if who_judges(task) == "sandbox" else "worker"


def gym_part(context: PartContext, *, task: str, answer: AnswerRule = "answer-tag") -> PartFunction:
    """A task of reasoning-gym: what its judge says, 0 to 1, of the answer that the rule finds.

    Under the rule `answer-tag` a completion without `<answer>` is judged as a whole. The entry is made again from
    `task`, `index` and `params` in the problem's metadata where they are there (as in a run's rollouts); else it is the
    row itself: question, answer and `metadata`.

    Raises:
        TaskError: no such task.
        SandboxUnavailable: the task's scorer needs a sandbox, and none can be started here.
    """
    make_dataset(task, {})  # an unknown name is an error now
    sandboxed = SandboxedGymJudge(task) if who_judges(task) == "sandbox" else None
    here = GymJudge()

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        said = extract_answer(completion.text, prompt.prefill, answer)
        if said is None and answer == "answer-tag":
            said = extract_answer(completion.text, prompt.prefill, "text")
        if said is None:
            return 0.0
        metadata = problem.metadata
        if {"task", "index", "params"} <= set(metadata) and metadata["task"] == task:
            return (sandboxed or here)(problem, said)
        entry = bare_entry(problem, metadata.get("metadata", metadata))
        return (sandboxed or here).judge_entry(task, {}, said, entry)

    return placed(score, here.warm if sandboxed is None else lambda: None, place_of(task))


class SandboxedGymJudge(Judge):
    """Has the library make entries and judge answers in the sandbox. Safe to call from any thread.

    Args:
        task: the only one whose answers are judged: a row that names another one must not reach that one's scorer.

    Raises:
        SandboxUnavailable: none can be started here.
    """

    def __init__(self, task: str):
        super().__init__(self._judge)
        self._task = task
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()
        try:
            with borrow("required", 1, "reasoning-gym"):
                pass
        except SandboxUnavailable as error:
            what = f"the scorer of the task `{task}`, which is reasoning-gym's and computes with the model's answer,"
            raise SandboxUnavailable(error.cause, what) from None

    def judge_entry(self, task: str, params: Mapping[str, Any], answer: str, entry: Mapping[str, Any]) -> float | None:
        """What the task's scorer says of an answer to an entry.

        Raises:
            PartFailed: the sandbox broke, or the scorer fails, takes too long or uses too much memory on the gold
                answer too (on an empty one, where none is known).
        """
        return self._ask_scorer(task, params, answer, wire.encode(dict(entry), _plain_only), entry["answer"])

    def _judge(self, problem: Problem, answer: str) -> float | None:
        task, params, index = (problem.metadata[key] for key in ("task", "params", "index"))
        if task != self._task:
            raise PartFailed(INVALID, f"the problem is one of `{task}`, and `{self._task}` is judged here")
        key = json.dumps([task, params, index], sort_keys=True)
        with self._lock:
            node = self._entries.get(key)
        if node is None:
            made = ask("entry", {"task": task, "params": params, "index": index})
            node = made.get("entry")
            check_same(problem, _entry_of(made))
            with self._lock:
                self._entries[key] = node
                if len(self._entries) > REMEMBERED:
                    self._entries.popitem(last=False)
        return self._ask_scorer(task, params, answer, node, problem.answer)

    def _ask_scorer(self, task: str, params: Mapping[str, Any], answer: str, node: Any, gold: str | None) -> float:
        if len(answer) > MAX_TEXT:
            return 0.0
        payload = {"task": task, "params": dict(params), "entry": node}
        failure = None
        try:
            reply = ask("score", {**payload, "said": answer})
        except PartFailed as failed:
            if isinstance(failed.__cause__, SandboxFailure):
                raise
            failure, reply = failed, {}
        # The scorer can judge: whether an answer is judged must not depend on the answer.
        if (failure or "raised" in reply) and "score" in ask("score", {**payload, "said": gold or ""}):
            return 0.0
        if failure is not None:
            raise failure
        score = reply.get("score")
        if type(score) is not float:
            raise PartFailed(EXCEPTION, str(reply.get("raised") or reply.get("failed") or "no score"))
        return score


def ask(role: Role, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Have a sandbox do one job with the library, and give its reply.

    Raises:
        PartFailed: out of time or memory, or no reply that can be read.
        SandboxUnavailable: no sandbox can be started.
    """
    try:
        job, output, in_time = with_sandboxes(
            "required", 1, lambda taken: run_job(taken[0], role, dict(payload), LIMITS), "reasoning-gym"
        )
    except SandboxFailure as failure:
        raise PartFailed(CRASH, f"the sandbox broke: {failure}") from failure
    if not in_time:
        raise PartFailed(TIMEOUT, f"the task's scorer took longer than {LIMITS.wall_seconds:g} s")
    try:
        found = wire.loads(output)
    except wire.Unreadable:
        found = None
    if not isinstance(found, dict):
        how = job.ended.explain(LIMITS) if job.ended else "it was killed"
        raise PartFailed(TIMEOUT if "processor time" in how else CRASH, f"the task's scorer gave no reply: {how}")
    return found


def _entry_of(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    if "entry" not in reply:
        raise PartFailed(EXCEPTION, f"the problem cannot be made again: {reply.get('failed')}")
    entry = wire.decode(reply["entry"], _no_object)
    if not (isinstance(entry, dict) and {"question", "answer", "metadata"} <= set(entry)):
        raise PartFailed(EXCEPTION, "the problem cannot be made again: the library gave something else")
    return entry


def _plain_only(value: Any) -> Any:
    raise PartFailed(EXCEPTION, f"the row holds a {type(value).__name__}, which is no plain data")


def _no_object(number: int) -> Any:
    raise wire.Unreadable(f"object {number} is not known here")
