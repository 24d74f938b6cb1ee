"""Nothing of an answer becomes code in sympy: attacks that worked, and honest answers that go the same way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rethink.tasks.mathematics import math_equal
from rethink.tasks.no_code import WouldBeCode, no_code

SERIES = r"\sum_{{n=0}}^{{\infty}} \frac{{n \dot{{=={}}}+1}}{{n!}}"
SUBSCRIPT = r"\sum_{{n=0}}^{{\infty}} \frac{{n c_{{+{}}}+1}}{{n!}}"
PLACES = [
    ("{}", r"\sqrt{2}"),
    ("{}", r"\pi"),
    (r"\{{{}\}}", "5"),
    (r"\{{{}\}}", r"25\%"),
    (r"\{{{},2\}}", r"\{1,2\}"),
    ("x+{}", "x+1"),
    ("x={}", "x=3"),
    ("x<{}", "x<5"),
]
_compiled: list[list[str]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "compile" and _compiled and arguments[0] is not None:
        _compiled[-1].append(str(arguments[0]))


sys.addaudithook(_watch)  # it cannot be taken away again, and does nothing while no test watches


@pytest.mark.parametrize("form", [SERIES, SUBSCRIPT])
@pytest.mark.parametrize(
    ("place", "gold", "swapped"), [*((*p, False) for p in PLACES), *((*p, True) for p in PLACES[1:4])]
)
def test_an_answer_never_becomes_code(form: str, place: str, gold: str, swapped: bool, tmp_path: Path) -> None:
    """Nor does a gold, which comes from a file."""
    mark = tmp_path / "m"
    source = f"open({str(mark)!r},'w')"
    payload = "exec(" + "+".join(f"chr({byte})" for byte in source.encode()) + ")"
    if form is SERIES:
        payload = f"exec(bytes([{','.join(str(byte) for byte in source.encode())}]))"
    answer = place.format(form.format(payload))
    said, right = (gold, answer) if swapped else (answer, gold)
    _compiled.append([])
    try:
        assert math_equal(said, right) in (0.0, None)
    finally:
        seen = _compiled.pop()
    assert not mark.exists()
    assert [text for text in seen if "exec" in text or "chr(" in text or "bytes" in text] == []


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\sum_{n=0}^{\infty}\frac{1}{n!}", "e"),
        (r"\sum_{n=1}^{\infty}\frac{1}{n^2}", r"\frac{\pi^2}{6}"),
        ("x_{1}+1", "1+x_{1}"),
        (r"\vec{a}+1", r"1+\vec{a}"),
        (r"\frac{3.25}{x}", r"\frac{13}{4x}"),
        ("f(x)+1", "1+f(x)"),
        ("x_{10}y", "y x_{10}"),
    ],
)
def test_honest_answers_are_compared_as_before(answer: str, gold: str) -> None:
    assert math_equal(answer, gold) == 1.0


@pytest.mark.parametrize("text", ["__import__('os')", "1+1", "open", "Integer(1).__class__", "x.y", "f(x)"])
def test_within_the_block_sympy_evaluates_numbers_alone(text: str) -> None:
    import sympy

    with no_code():
        assert sympy.Number("12") == 12
        assert sympy.Number("1.5E3") == sympy.Float(1500)
        with pytest.raises(WouldBeCode):
            sympy.parse_expr(text)
    assert sympy.parse_expr("1+1") == 2  # outside, sympy is what it was


def test_within_the_block_functions_are_made_of_their_arguments_alone() -> None:
    import sympy
    import sympy.core.evalf

    lambdify = sympy.core.evalf.lambdify
    x, hostile = sympy.Symbol("x"), sympy.Symbol("x==exec")
    made = [(x, x + sympy.Symbol("y")), (x, x + hostile), (x, sympy.Function("f")(x)), (x, [x, hostile])]
    with no_code():
        assert lambdify(x, x + 1)(1) == 2
        assert lambdify(hostile, hostile + 1)(1) == 2  # an argument's name is replaced
        for arguments, formula in made:
            with pytest.raises(WouldBeCode):
                lambdify(arguments, formula)
        with pytest.raises(WouldBeCode):
            sympy.pycode(x + hostile)
    assert lambdify(x, x + 1)(1) == 2
