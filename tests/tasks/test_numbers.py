"""The number that a text is: what is read, what is another number, and what is none."""

from __future__ import annotations

import json
import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.eval.grading.graders import MATH, math_equivalent
from rethink.tasks.checkers import exact_number
from rethink.tasks.mathematics import math_equal
from rethink.tasks.numbers import MAX_TEXT, read_quantity
from rethink.tasks.words import is_name, is_plain_word
from rethink.types import Problem
from tests.paths import SHARED_DATA

READ = r"""
5        5  +5  5.0  05  5.  5。  {5}  (5)  [5]  |5|  |−5|  -(-5)  5/1  10/2  5^1  \left(5\right)  \frac{10}{2}  $5$
5        \(5\)  \[5\]  \text{5}  \mathbf{5}  \boxed{5}  **5**  *5*  __5__  `5`  "5"  「5」  ５  ٥  5%  5\%  5 percent
5        $5  \$5  $5.00  €5  5€  US$5  USD 5  5 dollars  $5 per week  5 dollars/week  $5 a day  $\$5$  5 USD
5        5 apples  5 red apples.  5 more apples  5 apples left  5 in total  5 people  5 times  5 times a day  5 CDs
5        5 cm  5cm  5\,\text{cm}  5~\text{cm}  5\text{ cm}^2  5 cm²  5 square units  5 m/s  5 miles per hour  5 m
5        5-inch  5°  5^\circ  5^{\circ}C  5 degrees  5 degrees Celsius  5th  5^{\text{th}}  5 p.m.  5 o'clock  x = 5
5        x_1=5  f(2) = 5  P(A) = 5  \angle ABC = 5^\circ  AB = 5  total = $5  Total: 5  5 = x  x = 5 apples  x: 5
5        The answer is 5.  **Answer:** 5  He has 5 cows.  There are 5 apples left  x is 5  5 is the answer
5        exactly 5  2+3 = 5  x = 2 + 3 = 5  (2+3) \times 1 = 5  50% * 10 = 5  $2 + $3 = $5  5 (five)  5 (not six)
5        5 (five apples)  5元  5 个  5个苹果  5平方米  5千米  答案是5。  一共有5个  5円  5ドル  5 dólares  5 яблок
5        x ≈ 5  5 ≈ 4.9
-5       −5  ‑5  –5  －5  - 5  (-5)  -(5)  -$5  $-5  minus 5  negative 5  -5 degrees  x = -5  -\frac{10}{2}
1/2      0.5  .5  ½  1/2  1 / 2  \frac12  \tfrac{1}{2}  1/2 of the cake  5e-1  \frac{1}{2} cup
5/2      2½  2 ½  2 1/2  2\frac12  2\frac{1}{2}  \frac{5}{2}  2.5
1/3      0.\overline{3}  2/6
5000     5,000  5 000  5{,}000  5\,000  5\!000  5,\!000  $5,000.00  5 thousand  5e3  5 \times 10^3  5 x 10^{3}
5000     5·10³
5000000  5 million  $5 million  5 million dollars  5 000 000
50000    5万  50,000元
60       5 dozen eggs  60 (five dozen)
12       12 (twelve)  12 (a dozen)  12 (not thirteen)
8        2^3  2^{3}  2**3  2³
-4       -2^2
"""
UNREAD = r"""
√5  \sqrt{5}  -\sqrt 5  ∛5  x^5  5^x  x_5  5x  5 x  5\cdot x  5xy  5 xyz  5i  5 e  5\pi  5π  \frac{5}{x}  5/x  x - 5
3 − x  5!  5 !  log 5  \ln 5  \sin 5  sin(5)  5_8  5_{10}  52₈  0x5  x > 5  x≤5  >5  5 < x  x \neq 5  ≠5  ±5  \pm 5
5 ± 1  ≈5  ~5  5 mod 7  5 \pmod{7}  5+  5-  5?  #5  No. 5  5'  5''  5‰  ²5  5;6  5 or 6  5 to 6  3:5  x:5  f(5)  5 5
5①  5 00  12 34  1.000,00  0.333...  0.3…  0.3\ldots  0.3̅  0.(3)  5...  --5  +-5  (5)(6)  5(6)  {5}{6}  5 (5)  ($5)
1/2/3  5 0  5 less than x  5 or fewer  5 and a half  half of 5  twice 5  not 5  x is not 5  at least 5  about 5
5 or so  5-ish  5k  $5 m  5 squared  5 thirds  5 quarters  5 hundredths  5 divided by two  5 times x  5 times two
5 times as many  5 plus x  5 minus two  5 mod seven  5 base eight  5 (base eight)  5 (wrong)  5 (six)  5 (not five)
5 (approximately)  5 (x)  5 is wrong  5 if even  5 pi  5 to the fourth  1/2 of x  one of 1 2 3 4 5  6 = 5  2+2 = 5
2x = 5  x^2 = 5  |x| = 5  n! = 5  xy = 5  half of x = 5  约5  不是5  5以上  5个半  5的平方  5多  5 тысяч яблок или 6
5 Millionen oder mehr  five  V  5I  5m  5a+b  5 \in S  x \to 5  ≈ 5  5 below zero  12:30  5 hours 30 minutes
5 feet two inches  5th root  5th power  5-fold  5 doubled  5 exponentiated
"""


def cells(table: str) -> list[str]:
    """Cells stand two spaces apart."""
    return [cell for line in table.strip().splitlines() for cell in re.split(r" {2,}", line)]


def read_table() -> list[tuple[Fraction, str]]:
    lines = [re.split(r" {2,}", line) for line in READ.strip().splitlines()]
    return [(Fraction(value), answer) for value, *answers in lines for answer in answers]


@pytest.mark.parametrize(("value", "answer"), read_table())
def test_numbers_are_read(value: Fraction, answer: str) -> None:
    found = read_quantity(answer)
    assert found is not None
    assert found.value == value
    assert exact_number(answer, str(value)) == math_equal(answer, str(value)) == 1


@pytest.mark.parametrize("answer", cells(UNREAD))
def test_what_is_no_number(answer: str) -> None:
    found = read_quantity(answer)
    assert found is None or found.value not in (5, 3, 52), found
    for gold in ("5", "3", "52", "0.3", "1/2"):
        assert exact_number(answer, gold) == math_equal(answer, gold) == 0


@pytest.mark.parametrize("answer", ["5, 6", "(5, 6)", "5, -5", "[5, \\infty)", "\\{5, 6\\}", "(5, )", "5,6"])
def test_a_list_is_no_number(answer: str) -> None:
    assert exact_number(answer, "5") == math_equal(answer, "5") == 0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("28", "28%", 1),
        ("0.28", "28%", 1),
        ("28%", "0.28", 1),
        ("28%", "28", 1),
        ("0.28%", "28%", 0),
        ("2800", "28%", 0),
        ("5 cm", "5%", 0),
        ("5 m", "5 cm", 0),
        ("5", "5 cm", 1),
        ("5 centimeters", "5 cm", 1),
        ("y = 5", "x = 5", 0),
        ("Answer = 5", "x = 5", 1),
        ("1.000", "1000", 0),
        ("1.000", "1", 1),
        ("1,234", "1.234", 0),
    ],
)
def test_percent_units_names_and_points(answer: str, gold: str, score: int) -> None:
    assert exact_number(answer, gold) == math_equal(answer, gold) == score


def test_only_mathematics_rounds() -> None:
    assert (exact_number("0.333333", "1/3"), math_equal("0.333333", "1/3")) == (0, 1)


OTHERS = r"""
-{n}5  - {n}1  minus {n}1  {n}x  {n} x  x{n}  x^{n}  \sqrt{{{n}1}}  √{n}1  {n}!  {n}\pi  {n}i  {n}_8  x > {n}
x \ne {n}  \pm {n}1  ≈{n}  {n}...  {n}.5  {n}/7x  {n} 1/2  {n}\frac12  {n} million x  {n} or 6  {n} mod 7  {n}?
not {n}  at least {n}  {n} less than x  {n} or more  {n} (wrong)  {n} squared x  {n} is wrong  {n} if even  f({n})
{n} divided by two  {n} to the fourth  {n} times x  {n} and a half  half of {n}  {n} of x  ({n}, 1)  [{n}, \infty)
{n}k  2x = {n}  x + y = {n}  x^2 = {n}  {n}; 1  {n}:1  约{n}  不是{n}  {n}以上  {n} тысяч x  {n}'  #{n}  \log {n}1x
"""
SAME = r"""
{n}  +{n}  ({n})  ${n}$  \({n}\)  \boxed{{{n}}}  **{n}**  {n}.  {n}.0  ${n}  \${n}  {n} dollars  {n} apples  {n}元
{n} cm  {n}\text{{ cm}}  {n}^\circ  {n}%  {n} percent  x = {n}  x={n}  f(2) = {n}  The answer is {n}.  Total: {n}
{n} = x  {n} + 0 = {n}  {n} more apples  {n} of the apples  \text{{{n}}}  \frac{{{n}}}{{1}}  {n}/1  {n} (not {n}1)
"""


@settings(deadline=None, max_examples=150)
@given(st.integers(3, 10**9), st.sampled_from(cells(OTHERS)))  # 2! is 2
def test_a_wrong_neighbour_never_counts(n: int, form: str) -> None:
    answer, gold = form.format(n=n), str(n)
    assert exact_number(answer, gold) == math_equal(answer, gold) == 0
    assert MATH.judge(Problem("p", "b", "q", gold), f"\\boxed{{{answer}}}").score == 0


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**9), st.sampled_from(cells(SAME)))
def test_honest_spellings_count(n: int, form: str) -> None:
    answer, gold = form.format(n=n), str(n)
    assert exact_number(answer, gold) == math_equal(answer, gold) == 1
    assert MATH.judge(Problem("p", "b", "q", gold), f"\\boxed{{{answer}}}").score == 1


PIECES = [
    *"0123456789.,/-+%$^_{}()[]|*'\" =x\n−½²٥①",
    *r"\frac \text{ \boxed{ ≈ million apples the is (ten) \, ** 元".split(),
]


@settings(deadline=None, max_examples=400)
@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_reading_never_raises(text: str) -> None:
    read_quantity(text)
    assert exact_number(text, "5") in (0, 1)


HOSTILE = r"""
(  {  [  |  -  +  *  /  ^  _  $  .  ,  =  9  1+  (1+  1/  x=  5 million  1,000,  1 000  \text{  \boxed{5  **  *a  (ten)
5(  2^  9^9  \frac  ≈5  1 1/  a:  '  the answer is  is  10^99*  5!
"""


@pytest.mark.parametrize("piece", [*cells(HOSTILE), " ", "5 million ", "1 000 ", "the answer is ", "is ", "' "])
def test_hostile_text_costs_little(piece: str) -> None:
    def seconds(size: int) -> float:
        texts = [(start + piece * size)[:size] for start in ("", "5", "x = ", "5 ")]
        began = time.process_time()
        for text in texts:
            read_quantity(text)
        return time.process_time() - began

    seconds(50)
    assert seconds(MAX_TEXT) < 0.2
    assert seconds(1_000_000) < 0.2  # longer texts are not looked into


@pytest.mark.parametrize("text", ["2^{999}", "10^{999}", "9" * 101, "1e999", "9^9^9", "1/0", "0^{-1}", "10^{99999999}"])
def test_numbers_have_bounds(text: str) -> None:
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    "word", "apples dollars kg lbs months years students mph CDs pm weekly 元 平方米 dólares".split()
)
def test_words_that_leave_a_number_alone(word: str) -> None:
    assert is_plain_word(word)


@pytest.mark.parametrize(
    "word", "million not wrong than x xy abc thirds squared isn't hopefully pi 万 以上 sinx twelve".split()
)
def test_words_that_change_a_number(word: str) -> None:
    assert not is_plain_word(word)


@pytest.mark.parametrize("text", ["x", "f(2)", "total cost", r"\theta", r"\sin A", r"\int_0^1 x dx", "P(A)", "x_1"])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["2x", "xy", "x^2", "x + y", "n(n-1)", "half of x", "x and y", "|x|", "", "-x", "if x"]
)
def test_what_names_nothing(text: str) -> None:
    assert not is_name(text)


# --- cases after public bug reports ----------------------------------------------------------------------------------

FOLDER = SHARED_DATA / "cases"


def shared(*kinds: str) -> list[dict[str, Any]]:
    files = [path for path in (FOLDER / f"{kind}.jsonl" for kind in kinds) if path.is_file()]
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


CASES = shared("number-in-expression", "number-guards", "words-change-number")


@pytest.mark.skipif(not CASES, reason=f"no reference data at {FOLDER}")
def test_shared_cases() -> None:
    for row in CASES:
        answer, gold = row["answer"], row["gold"]
        verdicts = [
            exact_number(answer, gold),
            math_equal(answer, gold),
            MATH.judge(Problem("p", "b", "q", gold), f"\\boxed{{{answer}}}").score,
            float(math_equivalent(answer, gold)),
            float(math_equivalent(gold, answer)),
        ]
        assert verdicts == [row["expected"]] * 5, row["id"]
