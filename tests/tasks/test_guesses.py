"""When a guess is as good as thinking, and that `rethink eval` says so."""

import pytest

from rethink.tasks.guesses import FEW, guess_warning
from rethink.types import Problem


def problems(*pairs: tuple[str, str | None]) -> list[Problem]:
    return [Problem(str(i), "t", question, answer) for i, (question, answer) in enumerate(pairs)]


@pytest.mark.parametrize(("asked", "said"), [
    ([(f"Make 24 of {i}, 2, 3, 4.", "24") for i in range(FEW)], "the answer '24', always,"),
    ([(f"Say the number {i}.", str(i)) for i in range(FEW)], "the last number of the question"),
    ([(f"{i} + {i}?", str(2 * i)) for i in range(3, FEW + 3)], None),
    ([("Is it?", "yes" if i % 2 else "no") for i in range(FEW)], None),
    ([("Make 24.", "24")] * (FEW - 1), None),
    ([("Say it.", None)] * FEW, None),
    ([], None),
])  # fmt: skip
def test_guesses(asked: list[tuple[str, str | None]], said: str | None) -> None:
    warning = guess_warning(problems(*asked))
    assert (warning is None) if said is None else (warning is not None and said in warning)
