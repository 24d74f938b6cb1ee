"""The comparison job, without any framework: problems, prompt and reward. Peers and Rethink both read this file."""

import re

GROUPS, GROUP_SIZE, MAX_NEW_TOKENS = 8, 8, 96

EXAMPLE_QUESTION = "State the final answer to the following arithmetic problem: 4 + 3 ="
EXAMPLE_COMPLETION = "<think>4 plus 3 is 7.</think>\n<answer>7</answer>"
TASK = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def problems(number: int, seed: int = 7) -> list[tuple[str, str]]:
    """(question, gold answer) of the first `number` problems."""
    import reasoning_gym

    rows = reasoning_gym.create_dataset("chain_sum", size=number, seed=seed, **TASK)
    return [(row["question"], row["answer"]) for row in rows]


def render(question: str) -> str:
    """The one-example prompt in ChatML; the assistant's turn begins with <think>."""
    return (
        f"<|im_start|>user\n{EXAMPLE_QUESTION}<|im_end|>\n<|im_start|>assistant\n{EXAMPLE_COMPLETION}<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>"
    )


def score(text: str, gold: str) -> tuple[bool, bool]:
    """Whether the answer is right, and whether the format is kept."""
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    shaped = re.search(r"</think>\s*<answer>(.*?)</answer>\s*(<\|im_end\|>)?$", text, re.DOTALL)
    return bool(found) and found[-1].strip() == gold, bool(shaped)


# --- for Rethink: the same problems and the same reward -------------------------------------------------------------


def rows(number: int, seed: int = 7) -> list[dict[str, str]]:
    """The problems as a `python` task source has them."""
    return [{"question": question, "answer": gold} for question, gold in problems(number, seed)]


def right(problem, text: str) -> float:
    """The accuracy part of the reward."""
    return float(score(text, problem.answer)[0])


def shaped(problem, text: str) -> float:
    """The format part of the reward."""
    return float(score(text, problem.answer)[1])
