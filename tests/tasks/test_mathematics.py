"""Mathematical answers: what is the same, what is not, and what never ends."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.tasks.latex_text import one_spelling
from rethink.tasks.mathematics import MAX_ANSWER, math_equal
from rethink.tasks.numbers import read_quantity
from tests.paths import SHARED_DATA

SAME = r"""
units            | 5 \text{ cm} | 5
units            | 5\text{ cm} | $5\,\mathrm{cm}$
units            | 3 \text{ feet} | 3 ft
units            | 15\mbox{ cm}^2 | 15\text{ cm}^2
units            | 14 \text{ square units} | 14
units            | 5 | 5 cm
units            | 2220 \text{ students} | 2220
currency         | \$18.90 | 18.9
degrees          | 90^\circ | 90
degrees          | 90 | 90^{\circ}
degrees          | 90 | 90 degrees
thousands        | 1,234 | 1234
thousands        | 10080 | 10{,}080
thousands        | 11,\! 111,\! 111,\! 100 | 11111111100
percent          | 28\% | 28
percent          | 28\% | 0.28
percent          | 0.28 | 28%
percent          | 10\% | 10 percent
sets             | \{1,2\} | \{2,1\}
sets             | 1,2 | 2, 1
sets             | 2,3,5 | 2, 3 and 5
sets             | -1, \frac{3}{2} | x=-1 \text{ or } x=\frac32
tuples           | (1,2) | (1, 2)
intervals        | (-\infty,3] | (-∞, 3]
intervals        | [-2,7] | x \in [-2,7]
intervals        | 0 < x < 1 | (0,1)
matrices         | \begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{bmatrix}1\\2\end{bmatrix}
matrices         | \begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} | \begin{pmatrix}-1&0\\0&-1\end{pmatrix}
bases            | 52_8 | 52_{8}
bases            | 52_8 | $52_{\text{eight}}$
mixed numbers    | 1\frac{4}{5} | \frac95
mixed numbers    | 1.8 | 1 4/5
mixed numbers    | 137 \frac{1}{2} | 137.5
assignment       | x=5 | 5
assignment       | 5 | x = 5
assignment       | y=2x+3 | y = 3+2x
way to it        | 7 | 3 + 4 = 7
choice           | \text{(C)} | C
choice           | B | B) 12
words            | \text{Evelyn} | evelyn
words            | \text{ellipse} | \text{an ellipse}
symbols          | 3\sqrt{13} | 3√13
symbols          | \frac{\pi}{2} | π/2
symbols          | x^2+y^2 | y² + x²
functions        | \cos x | cos(x)
rounding         | \frac{1}{3} | 0.333333
expressions      | (x+1)^2 | x^2+2x+1
expressions      | 1 \pm \sqrt{19} | 1 + \sqrt{19}, 1 - \sqrt{19}
powers           | 2^{2010} | 2^{2010}
powers           | 1000000 | 10^6
repeating        | 0.\overline{3} | \frac13
repeating        | \frac{11}{30} | 0.3\overline{6}
angles           | \frac{\sqrt{6}+\sqrt{2}}{4} | \cos 15^\circ
things           | \frac{2}{3} | 2/3 of the cake
things           | 12 | 12 (twelve)
clocks           | 12:30 \text{ p.m.} | 12:30 pm
vectors          | \langle 1,2\rangle | (1,2)
decimals         | \frac{1+i}{2} | 0.5+0.5i
vulgar           | 1½ | 1.5
scientific       | 1e6 | 1000000
way to it        | 10 | \binom{5}{2} = 10
way to it        | -1 | e^{i\pi} = -1
arithmetic       | 2 | \sqrt{4}
arithmetic       | 2 | x = \sqrt{4}
arithmetic       | 2 | \sqrt{4} cm
arithmetic       | 3 | \log_2 8
arithmetic       | 120 | 5!
arithmetic       | 0.5 | \sin 30^\circ
approximation    | \frac{22}{7} | \frac{22}{7} \approx 3.14
"""
DIFFERENT = r"""
units            | 5 \text{ cm} | 5 m
units            | 5 \text{ hours} | 5 minutes
tuples           | (1,2) | (2,1)
tuples and sets  | (1,2) | \{1,2\}
tuples and sets  | \{1,2\} | (1,2)
intervals        | [0,1) | (0,1)
intervals        | [0,1] | (0,1)
intervals        | (0,1)\cup(2,3) | (0,1)\cup(2,3]
bases            | 52_8 | 52
bases            | 52_8 | 42
bases            | 52_8 | 52_7
bases            | 42 | 52_8
percent          | 28\% | 2800
mixed numbers    | 1\frac{4}{5} | \frac45
mixed numbers    | 1\frac{4}{5} | \frac{14}{5}
assignment       | x=5 | y=5
assignment       | 1 | 2x + z = 1
cut formulas     | 1 - \frac{1}{\mathrm{e}} | 1 + \frac{1}{\mathrm{e}}
cut formulas     | 2 | 2 - \frac{1}{\text{x}}
letters          | \text{east} | seat
choice           | B | A, B, C, D
choice           | A | (A), (B), (C), (D)
choice           | A | (A) or (C)
choice           | A | A or C
choice           | A | A. B. C.
choice           | A | A, B
choice           | C | (A) or (C)
several          | 5 | 4 \text{ or } 5
several          | 5 | 4, 5, 6
rounding         | \frac{1}{3} | 0.33
rounding         | 0 | 0.0000001
big numbers      | 7425000 | 7425001
big numbers      | 1000000007 | 1000000008
signs            | \pm 6 | 6
signs            | \infty | -\infty
signs            | \sqrt{2} | -\sqrt{2}
powers           | 2^{2010} | 2^{2011}
words            | \text{Yes} | Yes and No
nothing          | 5 |
nothing          | 1 | \frac{1}{0}
nothing          | 5 | nan
spaces           | 42 | 4 2
spaces           | 100 | 1 00
order            | 1,2,3 | (3,2,1)
clocks           | 12:30 pm | 12:30 am
repeating        | 0.\overline{3} | 0.3
variables        | 5 | 5 + 0x
variables        | 5 | 5x^0
not arithmetic   | 5 | \overline{5}
not arithmetic   | 5 | --5
not arithmetic   | 30 | 5 6
way to it        | 5 | 6 = 5
way to it        | 5 | \sqrt{4} = 5
way to it        | 5 | x^2 = 5
unlike           | 10 | \frac{22}{7} \approx 10
words            | \sqrt{2} | \sqrt{2} million
words            | \sqrt{2} | \sqrt{2} or so
continued        | \sqrt{2} | \sqrt{2}...
"""


def cases(table: str) -> list[tuple[str, str]]:
    found = []
    for line in table.strip().splitlines():
        _, gold, answer = (cell.strip() for cell in line.split("|", 2))
        found.append((gold, answer))
    return found


@pytest.mark.parametrize(("gold", "answer"), cases(SAME))
def test_the_same(gold: str, answer: str) -> None:
    assert math_equal(answer, gold) == 1


@pytest.mark.parametrize(("gold", "answer"), cases(DIFFERENT))
def test_different(gold: str, answer: str) -> None:
    assert math_equal(answer, gold) == 0


def kinds(text: str) -> dict[str, list[list[str]]]:
    """The rows of `answer_pairs.txt` (equal or not, gold, answer) by kind."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("# "):
            rows = found.setdefault(line[2:], [])
        else:
            rows.append(line.split(" || "))
    return found


PAIRS = kinds(Path(__file__).with_name("answer_pairs.txt").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PAIRS)
def test_pairs(kind: str) -> None:
    assert len(PAIRS[kind]) > 45
    assert not [row for row in PAIRS[kind] if math_equal(row[2], row[1]) != float(row[0])]


CASES = [
    json.loads(line)
    for kind in (
        "tiny-difference unit-names scientific-notation unicode-spelling ordinal assignment-list-order "
        "named-point-or-interval"
    ).split()
    for path in [SHARED_DATA / "cases" / f"{kind}.jsonl"]
    if path.is_file()
    for line in path.read_text("utf-8").splitlines()
]


@pytest.mark.skipif(not CASES, reason=f"no reference data at {SHARED_DATA / 'cases'}")
def test_shared_cases() -> None:
    assert not [row["id"] for row in CASES if math_equal(row["answer"], row["gold"]) != row["expected"]]


@pytest.mark.parametrize("mark", ["\u200b", "\u200d", "\u200e", "\u2060", "\ufeff", "\u00ad", "\ufe0f"])
def test_characters_that_nobody_sees(mark: str) -> None:
    assert math_equal(f"{mark}1{mark}2{mark}", "12") == 1
    assert math_equal(f"x{mark}+1", "1+x") == 1
    assert math_equal(f"1{mark}3", "12") == 0


RATIONALS = st.builds(Fraction, st.integers(-(10**9), 10**9), st.integers(1, 10**9))


def spellings(value: Fraction, power: int) -> list[str]:
    """A rational number times a power of ten, in several ways."""
    top, bottom = value.numerator, value.denominator
    scaled = value * Fraction(10) ** power
    return [
        rf"\frac{{{scaled.numerator}}}{{{scaled.denominator}}}",
        rf"\frac{{{top}}}{{{bottom}}}\cdot 10^{{{power}}}",
        rf"\frac{{{top}\times 10^{{{power}}}}}{{{bottom}}}",
        f"{top}e{power}/{bottom}",
        f"({scaled.numerator}/{scaled.denominator})",
        f"x = {scaled.numerator} / {scaled.denominator}",
    ]


@settings(deadline=None, max_examples=25)
@given(RATIONALS, RATIONALS, st.integers(-40, 40), st.data())
def test_rational_numbers_are_compared_exactly_at_every_scale(
    p: Fraction, q: Fraction, power: int, data: st.DataObject
) -> None:
    gold = data.draw(st.sampled_from(spellings(p, power)))
    assert math_equal(data.draw(st.sampled_from(spellings(p, power))), gold) == 1
    for other in (q, p + Fraction(1, 10**30), p * (1 + Fraction(1, 10**18))):
        if other != p:
            assert math_equal(data.draw(st.sampled_from(spellings(other, power))), gold) == 0


FORMS = [r"\sqrt{%d}", r"\pi^{%d}", "%dx"]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.integers(2, 50), st.integers(2, 50), st.integers(-60, 60), st.sampled_from(FORMS))
def test_the_scale_changes_nothing(a: int, b: int, power: int, form: str) -> None:
    at_one = math_equal(form % b, form % a)
    assert at_one == float(a == b)
    assert math_equal(rf"{form % b}\cdot 10^{{{power}}}", rf"{form % a}\cdot 10^{{{power}}}") == at_one
    assert math_equal(rf"({form % b}\cdot 10^{{{power}}}, 1)", rf"({form % a}\cdot 10^{{{power}}}, 1)") == at_one


GOLDS = [r"27.3\%", r"\sqrt{2}", "x = 1, y = 2", "P(3, 4)", r"\frac{", "9**9**9**9", "北京", "June 20", "52_8", "(1, 2"]
GOLDS += ["E = (0, 2)", "3:2:1", r"\angle ABC", "x < 1 or x > 3", r"\ne 2", "12:30 pm"]


@pytest.mark.parametrize("gold", GOLDS)
def test_whether_an_answer_is_judged_depends_on_the_gold_alone(gold: str) -> None:
    answers = ["", "5", "abc", r"\frac{", "x^2", "(1, 2)", "9**9**9**9", "(" * 99, "x > 3", r"\text{", "1/0", "北京"]
    assert len({math_equal(answer, gold) is None for answer in [gold, *answers, *GOLDS]}) == 1


@pytest.mark.parametrize(
    "gold", [None, "", " ", "$$", "x" * (MAX_ANSWER + 1), "(" * 99 + ")" * 99, "9**9**9**9", r"\frac{"]
)
def test_a_gold_that_cannot_be_read_abstains(gold: str | None) -> None:
    assert math_equal("7", gold) is None


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "9^9^9^9",
        "9^{9^{9^{9}}}",
        "{9^9}^{9^9}",
        "2^{99999999}",
        "99999999!",
        "9!!!!!!!!",
        "(" * 1_000_000,
        "(" * 300 + "1" + ")" * 300,
        "7" * 1_000_000,
        "1" + "0" * 500,
        r"\frac{" * 100,
        r"\sqrt{" * 90 + "4" + "}" * 90,
        "\\" * 599,
        "$" * 599,
        " " * 1_000_000 + "7x",
        r"\text{" * 99,
        "^" * 599,
        ",".join("1" * 300),
        "0" * 599,
    ],
)
def test_hostile_answers_return_at_once_and_are_wrong(answer: str) -> None:
    began = time.monotonic()
    assert math_equal(answer, "7") == 0
    assert time.monotonic() - began < 5  # a single one may take what a worker allows


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([*r"0123456789.,/-+%$^_{}()[]\ ", r"\frac", r"\text", "cm", "="]), max_size=40))
def test_spelling_never_raises(pieces: list[str]) -> None:
    text = "".join(pieces)
    read_quantity(text)
    read_quantity(one_spelling(text))


@settings(deadline=None, max_examples=200)
@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_compared_exactly(a: int, b: int) -> None:
    assert math_equal(str(a), str(b)) == float(a == b)
    assert math_equal(f"{a:,}", str(a)) == 1
