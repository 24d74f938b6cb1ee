"""The public fake engine plays its script, failures too."""

from __future__ import annotations

import pytest

from rethink.errors import EngineFailure
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.types import GenerationRequest, SamplingParams


def encode(text: str) -> list[int]:
    return [ord(char) for char in text]


def request(n: int = 2, limit: int = 10) -> GenerationRequest:
    return GenerationRequest((1, 2), tuple(range(n)), SamplingParams(max_new_tokens=limit))


def test_a_list_is_given_out_in_turn() -> None:
    engine = ScriptedEngine(["a", "bc", Scripted("d", logprob=-2.0)], encode, end_token=0)
    assert isinstance(engine, RolloutEngine)
    first, second = engine.generate([request(), request()])
    assert [c.text for c in first + second] == ["a", "bc", "d", "a"]
    assert first[1].token_ids.tolist() == [98, 99, 0]
    assert second[0].logprobs.tolist() == [-2.0, -2.0]
    assert len(engine.requests) == 2


def test_a_function_sees_request_and_sample() -> None:
    engine = ScriptedEngine(lambda asked, sample: f"{asked.seeds[sample]}", encode)
    ended: list[tuple[int, int, str]] = []
    engine.generate([request(), request(1)], lambda r, s, c: ended.append((r, s, c.text)))
    assert ended == [(0, 0, "0"), (0, 1, "1"), (1, 0, "0")]


def test_the_token_limit_cuts() -> None:
    [[completion]] = ScriptedEngine(["abcdef"], encode, end_token=0).generate([request(1, 3)])
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 3


def test_failures_and_delays() -> None:
    engine = ScriptedEngine([Scripted("a", seconds=0.01), Scripted("", failure="lost the node")], encode)
    [[completion]] = engine.generate([request(1)])
    assert completion.seconds == 0.01
    with pytest.raises(EngineFailure, match="lost the node"):
        engine.generate([request(1)])
    with pytest.raises(ValueError, match="at least one"):
        ScriptedEngine([], encode)
