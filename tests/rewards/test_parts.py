"""Built-in parts: options, the hacks that earn nothing, and hostile text through every one of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import RecipeError
from rethink.recipe.reward import rewards
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.outcome import PartFunction
from rethink.rewards.parts import accuracy, build_part, score_items
from rethink.tasks.judge import Judge
from rethink.types import Problem, Prompt
from tests.rewards.conftest import completion, item

GOOD = "<think>so</think><answer>5</answer>"


def part(name: str, **params: Any) -> PartFunction:
    return make_part(name, params, PartContext(), "reward.parts.0")


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("formt", {}, "did you mean `format`"),
        ("repetition", {"ngram": 3}, "did you mean `ngram_size`"),
        ("repetition", {"ngram_size": 0}, "greater than 0"),
        ("repetition", {"max_penalty": 1}, "less than or equal to 0"),
        ("overlong", {}, "Field required"),
        ("overlong", {"max_completion_len": 4, "soft_punish_cache": 9}, "every completion would be punished"),
        ("number", {"x": 1}, "no option `x`"),
        ("math", {"answer": "box"}, "answer"),
    ],
)
def test_options_are_checked(name: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        part(name, **params)


HACKS = {
    "the answer in the thoughts only": ("<think>5</think><answer>6</answer>", 1, 0),
    "the answer in the thoughts, none after": ("<think>\\boxed{5}</think>", 0, 0),
    "several answers": ("<think>a</think><answer>4, 5, 6</answer>", 1, 0),
    "several answer tags": ("<think>a</think><answer>5</answer><answer>6</answer>", 0, 0),
    "tags within tags": ("<think><answer>5</answer></think>", 0, 0),
    "an answer within an answer": ("<think>a</think><answer><answer>5</answer></answer>", 0, None),
    "the thought in the answer": ("<answer>5<think>a</think></answer>", 0, 0),
    "an answer after the end": ("<think>a</think><answer>6</answer> 5", 0, 0),
    "an answer before the thought": ("<answer>5</answer><think>a</think>", 0, 0),
    "no thought": ("<answer>5</answer>", 0, 1),
    "a thought that never ends": ("<think> it is 5", 0, 0),
    "an empty thought": ("<think></think><answer>5</answer>", 1, 1),
    "nothing": ("", 0, 0),
    "tags without content": ("<think></think><answer></answer>", 1, 0),
    "tags in another case": ("<THINK>a</THINK><ANSWER>5</ANSWER>", 0, None),
    "repeated": (GOOD * 3, 0, None),
}


@pytest.mark.parametrize("name", HACKS)
def test_hacks_earn_what_is_written_here(name: str) -> None:
    text, form, right = HACKS[name]
    assert part("format")(*item(text)) == form
    if right is not None:
        assert part("number")(*item(text)) == right
        assert part("math")(*item(text)) == right


def test_tags_that_the_prompt_shows_earn_nothing() -> None:
    prompt = Prompt(f"Answer as {GOOD}", (1,))
    assert part("format")(Problem("p", "t", GOOD, "5"), prompt, completion("5")) == 0
    assert part("format-soft")(Problem("p", "t", GOOD, "5"), prompt, completion("5")) == 0
    # What began the assistant's turn is its own.
    assert (
        part("format")(
            Problem("p", "t", "", "5"), Prompt("…<think>", (1,), "<think>"), completion("a</think><answer>5</answer>")
        )
        == 1
    )


@pytest.mark.parametrize(
    ("gold", "text", "score"),
    [("5", "<think>a", 0.0), (None, "<think>a", None), ("5", GOOD, 1.0), (None, GOOD, None)],
)
def test_accuracy_without_an_answer_is_0_and_without_a_gold_abstains(
    gold: str | None, text: str, score: float | None
) -> None:
    def judge(problem: Problem, answer: str) -> float | None:
        return None if problem.answer is None else float(answer == problem.answer)

    assert accuracy({"t": Judge(judge)}, PartContext())(*item(text, Problem("p", "t", "?", gold))) == score


def test_the_soft_format_counts_tags() -> None:
    soft = part("format-soft")
    assert soft(*item(GOOD)) == 1
    assert soft(*item("<think>a<answer>5</answer>")) == 0.75
    assert soft(*item("<think><think></think>")) == 0.25


def test_a_gold_that_cannot_be_read_abstains() -> None:
    for gold in (None, ""):
        for name in ("math", "number"):
            assert part(name)(*item(GOOD, Problem("p", "t", "?", gold))) is None
    assert part("number")(*item(GOOD, Problem("p", "t", "?", "no number"))) is None


def test_a_task_of_reasoning_gym_scores_its_own_entries_and_recorded_ones() -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", seed=0)[3]
    for metadata in ({"metadata": entry["metadata"]}, {"task": "chain_sum", "index": 3, "params": {}}):
        problem = Problem("p", "t", entry["question"], entry["answer"], metadata)
        assert part("gym", task="chain_sum")(*item(f"<answer>{entry['answer']}</answer>", problem)) == 1
        assert part("gym", task="chain_sum")(*item("<answer>x</answer>", problem)) != 1
        for answer in ("answer-tag", "auto"):
            boxed = item(f"<answer>$\\boxed{{{entry['answer']}}}$</answer>", problem)
            assert part("gym", task="chain_sum", answer=answer)(*boxed) == 1
        assert part("gym", task="chain_sum", answer="boxed")(*item("<answer>\\boxed{x}</answer>", problem)) != 1


# --- your own --------------------------------------------------------------------------------------------------------

OWN = """\
import asyncio
def single(problem, text, scale=1): return len(text) * scale
async def waits(problem, text):
    await asyncio.sleep(0)
    return 2
def batch(problems, texts): return [float(len(text) == max(map(len, texts))) for text in texts]
async def batch_waits(problems, texts): return [1 for _ in texts]
def short(problems, texts): return [1]
def word(problems, texts): return "high"
def no_arguments(): return 1
def three(problem, text, gold): return 1
def broken(problem, text):
    return text.no_such_thing
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    path = tmp_path / "own_parts.py"
    path.write_text(OWN)
    monkeypatch.chdir(tmp_path)

    def score(name: str, texts: list[str], file: bool = False, **params: Any) -> list[Any]:
        where = str(path) if file else "own_parts"
        spec = {"name": "mine", "weight": 1, "builtin": None, "function": f"{where}:{name}", "params": params}
        built = build_part({"answer": "auto", "judges": {}, "parts": [spec]}, 0)
        return [o.failure if o.score is None else o.score for o in score_items(built, [item(text) for text in texts])]

    return score


def test_your_own_reward_single_batch_async_and_from_a_file(own: Callable[..., list[Any]]) -> None:
    for file in (False, True):
        assert own("single", ["a", "abc"], file, scale=2) == [2, 6]
        assert own("waits", ["a"], file) == [2]
        assert own("batch", ["a", "abc"], file) == [0, 1]
        assert own("batch_waits", ["a", "abc"], file) == [1, 1]


def test_what_your_own_reward_does_wrong_is_named(own: Callable[..., list[Any]]) -> None:
    assert own("short", ["a", "b"]) == ["invalid: returned 1 scores for 2 completions"] * 2
    assert "returned a str where a list" in own("word", ["a"])[0]
    assert own("broken", ["a"])[0].endswith("(own_parts.py:13)")


@pytest.mark.parametrize(
    ("name", "says"),
    [("no_arguments", r"own_parts.py:10.*too many"), ("three", "missing a required"), ("nothing", "it has")],
)
def test_a_function_that_cannot_be_called_is_refused(own: Callable[..., list[Any]], name: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        own(name, ["a"])


def test_an_option_that_the_function_does_not_take_is_refused(own: Callable[..., list[Any]]) -> None:
    with pytest.raises(RecipeError, match="colour"):
        own("single", ["a"], colour=1)


def test_a_file_that_is_not_there_is_refused() -> None:
    spec = {"name": "mine", "weight": 1, "builtin": None, "function": "no/such/file.py:f", "params": {}}
    with pytest.raises(RecipeError, match=r"no/such/file\.py"):
        build_part({"answer": "auto", "judges": {}, "parts": [spec]}, 0)


# --- hostile text through every part ---------------------------------------------------------------------------------

PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "<think", "\\boxed{", "}", "{", "$", "$$", "\\(", "\\)", "####",
    "5", "answer is", "A:", "\\frac{1}{2}", "\\text{", "^", "_", "**", "9**9**9", ",", "\n", " ", "\0", "\x1b[31m",
    "\u202e", "\ud800", "é", "中文", "１２", "1,234", "%", "\\begin{pmatrix}", "&", "\\\\", "(", ")", "[", "nan",
    "1e999", "-", "=", "the", "```python\n", "```", "Step 1:", "<|im_end|>", "\u00a0", "²", "∞",
]  # fmt: skip
HUGE = ["<answer>", "</answer>", "\\boxed{", "(", "$", "#### ", "answer is ", "a", " ", "1 ", "1,", "\\text{", "x y "]
RANGES = {"repetition": (-1.0, 0.0), "overlong": (-1.0, 0.0), "cosine": (-1.0, 1.0)}
OPTIONS: dict[str, dict[str, Any]] = {
    "overlong": {"max_completion_len": 50, "soft_punish_cache": 10},
    "gym": {"task": "chain_sum"},
}


def in_range(name: str, text: str, function: PartFunction) -> None:
    score = function(*item(text, Problem("p", "t", "?", "5", {"metadata": {}})))
    low, high = RANGES.get(name, (0.0, 1.0))
    assert score is None or low <= score <= high, (name, text[:200], score)


HERE = sorted(name for name in rewards() if name not in ("judge", "code", "gym", "reward-model"))


@pytest.mark.parametrize("name", HERE)
@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=40))
def test_mutated_completions(name: str, pieces: list[str]) -> None:
    in_range(name, "".join(pieces), part(name, **OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize(
    "piece",
    ["<answer>", "</answer>", "\\boxed{", "(", "$", "#### ", "answer is ", "a", " ", "1 ", "1,", "\\text{", "x y "],
)
def test_huge_completions(name: str, piece: str) -> None:
    in_range(name, piece * (1_000_000 // len(piece)), part(name, **OPTIONS.get(name, {})))


@pytest.mark.slow
def test_ten_thousand_mutated_completions() -> None:
    """Through every built-in part in workers, as training does it: no crash, no hang, no score out of range."""
    from rethink.rewards.reward_pool import RewardPool

    dice = random.Random(0)
    texts = []
    for _ in range(10_000):
        pieces = [dice.choice(PIECES) for _ in range(dice.randrange(60))]
        if dice.random() < 0.01:
            pieces.append(dice.choice(PIECES) * 10 ** dice.randrange(2, 6))
        texts.append("".join(pieces))
    names = [*HERE, "gym"]
    specs = [{"name": n, "weight": 1, "builtin": n, "function": None, "params": OPTIONS.get(n, {})} for n in names]
    problem = Problem("p", "t", "?", "5", {"metadata": {}})
    pool = RewardPool({"answer": "auto", "judges": {}, "parts": specs}, list(range(len(names))), seconds=20)
    try:
        for index, name in enumerate(names):
            futures = [pool.submit(index, [item(text, problem)]) for text in texts]
            low, high = RANGES.get(name, (0.0, 1.0))
            for text, future in zip(texts, futures, strict=True):
                outcome = future.result(timeout=600)[0]
                assert outcome.failure is None, (name, text[:200], outcome.failure)
                assert outcome.score is None or low <= outcome.score <= high, (name, text[:200], outcome.score)
    finally:
        pool.close()
