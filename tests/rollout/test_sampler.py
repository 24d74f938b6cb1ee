"""The sampler: rollouts in the order of what was asked, scored as they end, and plain enough to cross a process."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from rethink.errors import EngineFailure
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.sampler import Asked, complete, sample
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout, SamplingParams, Turn

SPEC = {
    "answer": "text",
    "judges": {},
    "parts": [{"name": "format", "weight": 2.0, "builtin": "format", "function": None, "params": {}}],
}


class Backwards(RolloutEngine):
    """Ends the last sample of the last request first; its text names the prompt and the seed."""

    context = 1000

    def __init__(self, failure: Exception | None = None):
        super().__init__()
        self.failure = failure

    def _step(self) -> bool:
        if self.failure is not None:
            raise self.failure
        while self._queue:
            key, request = self._queue.pop()
            for number in reversed(range(request.n)):
                self._finish(key, number, answer(f"{request.prompt_ids[0]} {request.seeds[number]}"))
        return False


def answer(text: str) -> Completion:
    nothing = np.zeros(2, np.float32)
    return Completion(np.array([1, 2], np.int32), f"t</think><answer>{text}</answer>", nothing, nothing, "stop")


def wanted() -> list[Asked]:
    return [Asked(Problem(f"p{i}", "t", "?", None), Prompt("<think>", (i,), "<think>"), (10, 11, 12)) for i in range(3)]


def test_rollouts_come_in_the_order_of_problems_and_seeds() -> None:
    ended: list[int] = []
    rubric = Rubric(SPEC, (build_part(SPEC, 0),), 1.0)
    sampled = sample(Backwards(), rubric, wanted(), SamplingParams(), on_ended=ended.append)
    said = [[r.completion.text for r in group] for group in sampled.groups]
    assert said == [[f"t</think><answer>{i} {seed}</answer>" for seed in (10, 11, 12)] for i in range(3)]
    assert [r.problem.id for r in sampled.rollouts] == ["p0"] * 3 + ["p1"] * 3 + ["p2"] * 3
    assert {r.reward for r in sampled.rollouts} == {2.0}
    assert {r.outcomes["format"] for r in sampled.rollouts} == {RewardOutcome(1.0)}
    assert ended == list(range(1, 10))
    assert sample(Backwards(), rubric, [], SamplingParams()).rollouts == []


def test_an_engine_that_breaks_says_what_was_asked_of_it() -> None:
    with pytest.raises(EngineFailure, match=r"9 completions of 3 prompts \(MemoryError: no more\).*--resume"):
        complete(Backwards(MemoryError("no more")), wanted(), SamplingParams())
    with pytest.raises(EngineFailure, match=r"^as it is$"):
        complete(Backwards(EngineFailure("as it is")), wanted(), SamplingParams())
    with pytest.raises(KeyboardInterrupt):
        complete(Backwards(KeyboardInterrupt()), wanted(), SamplingParams())  # type: ignore[arg-type]


def test_what_is_asked_and_what_comes_of_it_cross_a_process() -> None:
    assert pickle.loads(pickle.dumps(wanted())) == wanted()
    one = wanted()[0]
    turns = (Turn(0, 1, 7), Turn(1, 2, 8))
    sent = Rollout(
        one.problem, one.prompt, answer("x"), {"a": RewardOutcome(0.5)}, 0.5, np.array([0.25, -1 / 3]), turns
    )
    back = pickle.loads(pickle.dumps(sent))
    assert (back.problem, back.prompt, back.outcomes, back.turns) == (one.problem, one.prompt, sent.outcomes, turns)
    assert back.advantage.tobytes() == np.array([0.25, -1 / 3]).tobytes()
    assert back.completion.token_ids.tolist() == [1, 2]
    assert back.completion.text == sent.completion.text


def test_only_what_the_policy_sampled_is_trained_on() -> None:
    one = wanted()[0]
    assert Rollout(one.problem, one.prompt, answer("x"), {}, None).trained.tolist() == [True, True]
    turns = Rollout(one.problem, one.prompt, answer("x"), {}, None, turns=(Turn(1, 2),))
    assert turns.trained.tolist() == [False, True]
