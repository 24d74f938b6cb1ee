"""The last value in a text: whole, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rethink.tasks import last_value as module
from rethink.tasks.last_value import NEAR, SEARCHED, last_value, value_span

WHOLE = r"""
It drops to −5 degrees.                 | −5
So it is –12.                           | –12
It equals − 7 units                     | − 7
The slope is minus 2.                   | minus 2
He owes her -$20.                       | -$20
The balance is −$1,200.                 | −$1,200
It is $-18 now                          | $-18
an area of 12 cm^2.                     | 12
an area of 12 cm².                      | 12
an area of 12cm^2.                      | 12
an area of 12 \text{ cm}^2             | 12
a speed of 9.8 m/s^2 here               | 9.8
15 tons of CO2                          | 15
a mass of 1.5e3 grams.                  | 1.5e3
a mass of 3 x 10^4 kg                   | 3 x 10^4
a mass of 3 \times 10^{4} kg           | 3 \times 10^{4}
a ratio of 3:4.                         | 3:4
a ratio of 3 : 4                        | 3 : 4
a ratio of 3 to 4                       | 3 to 4
at 12:30 today                          | 12:30
at 12:30 p.m. today                     | 12:30 p.m.
it is 2^10 now                          | 2^10
it is 2 ** 3 now                        | 2 ** 3
3 / 4 remains                           | 3 / 4
3/4.                                    | 3/4
3 1/2 cups                              | 3 1/2
2½ cups                                 | 2½
2 ½ cups                                | 2 ½
1\frac{1}{2} cups                      | 1\frac{1}{2}
at (3, 4) there                         | (3, 4)
at P(3, 4), here                        | P(3, 4)
in [3, 4) there                         | [3, 4)
it is (-3) here                         | -3
it is |-3| here                         | |-3|
3√2 here                                | 3√2
3 √2 here                               | 3 √2
2 π here                                | 2 π
5! ways                                 | 5!
3 + 4 apples                            | 3 + 4
3 times 4 apples                        | 3 times 4
x + 3 apples                            | x + 3
3 + x apples                            | 3 + x
10-3 apples                             | 10-3
x > 7 here                              | > 7
x≥7 here                                | x≥7
x ≈ 7 here                              | 7
it is not 7                             | not 7
it is no 7                              | no 7
there are no 7 cows                     | no 7
No: 7                                   | 7
nothing but 7                           | 7
anything but 7                          | anything but 7
It can't be 7.                          | can't be 7
We do not get 7.                        | do not get 7
without 7                               | without 7
7 score                                 | 7 score
7 gross                                 | 7 gross
7 fold                                  | 7 fold
7 ninths                                | 7 ninths
7 point 5                               | 7 point 5
7 point five                            | 7 point five
7 plus tax                              | 7 plus
7 over nine                             | 7 over nine
7 and counting                          | 7 and counting
7, maybe                                | 7, maybe
7 nope                                  | 7 nope
7 x here                                | 7 x
7 K                                     | 7 K
7 r1                                    | 7 r1
7 by 8                                  | 7 by 8
7 and so on                             | 7
7 others                                | 7
7 nobles                                | 7
at least 7                              | at least 7
7 or more                               | 7 or more
7 or 8                                  | 7 or 8
7 cows or 8 cows                        | 7 cows or 8
1 in 6                                  | 1 in 6
12 remainder 3                          | 12 remainder 3
log_2 8 is it                           | log_2 8
between 10 and 20                       | between 10 and 20
x = 5 or x = -3                         | or x = -3
7 is wrong                              | 7 is wrong
5 million people                        | 5 million
5 hundred thousand people               | 5 hundred thousand
5 and a half pies                       | 5 and a half
half of 80                              | half of 80
5% of 80                                | 5% of 80
28 % of it                              | 28 %
3 hours 20 minutes                      | 3 hours 20
June 20                                 | June 20
52 in base 8                            | base 8
1,234,567 people                        | 1,234,567
12 345 people                           | 12 345
0.333... of it                          | 0.333...
f(3) of it                              | f(3)
52_8 here                               | 52_8
x = 7.                                  | 7
3*5=15 eggs                             | 15
<<3*5=15>>15 eggs                       | 15
**42**                                  | 42
**Total: 42**                           | 42
1) or 2) it                             | 1) or 2
Step 3: 4 apples                        | 4
- 12 apples                             | 12
a 24-hour day                           | 24
the 20th                                | 20th
一共有42个。                            | 42
负5度                                   | 负5
5万人                                   | 5万
５０个                                  | ５０
3：4                                    | 3：4
（3，4）                                | （3，4）
A1                                      |
none                                    |
"""


@pytest.mark.parametrize("line", WHOLE.strip().split("\n"))
def test_a_value_is_taken_whole(line: str) -> None:
    text, _, value = f"{line} ".rpartition(" | ")
    assert last_value(text.strip()) == (value.strip() or None)


@given(st.text(alphabet="0123456789.,+-−–^/()[]{}$% xaπ½²:!=*√\n（，个", max_size=40))
@example("-5 to -3")
@example("1.2.3")
def test_a_number_is_never_cut(text: str) -> None:
    found = value_span(text)
    if found is None:
        return
    start, stop = found
    assert 0 <= start < stop <= len(text)
    assert any(char.isnumeric() for char in text[start:stop])
    assert not text[start - 1 : start].isdecimal()
    assert not text[stop : stop + 1].isdecimal()


signs = st.sampled_from(["", "-", "−", "$", "-$"])
bodies = st.sampled_from(["7", "12", "1,200", "1234567", "0.5", ".5", "3.14", "2½", "½"])
ends = st.sampled_from(["", "%", "e3", "/4", "^2", "π", "!", "√2", ":30", "x", "x^2", "_8", "·10^4"])


@settings(max_examples=60)
@given(signs, bodies, ends, st.sampled_from(["", "cows", "in all", "cm^2", "of them", "。"]))
def test_a_number_in_a_sentence_is_found_whole(sign: str, body: str, end: str, after: str) -> None:
    number = sign + body + end
    assert last_value(f"So in the end there is {number} {after}") == number


@given(st.text(max_size=300))
def test_what_is_found_is_a_part_of_the_text(text: str) -> None:
    value = last_value(text)
    assert value is None or value in text


def test_a_number_longer_than_any_is_none() -> None:
    assert last_value("1" * (NEAR - 1)) == "1" * (NEAR - 1)
    assert last_value("1" * (10 * NEAR)) is None
    assert last_value(" + ".join(["1"] * 100)) is None


def test_only_the_end_is_searched() -> None:
    assert last_value("7" + " " * SEARCHED) is None
    assert last_value("x" * SEARCHED + " 7") == "7"


@pytest.mark.parametrize("unit", ["1 ", "CO2 ", "1 cm^2 ", "((1)) ", "1 + ", "1 or ", "(", "\\frac{1}{2} ", "12:3-4"])
def test_the_work_is_bounded(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal steps
            steps += 1
            return function(*args)

        return call

    for name in ("_edge", "_balance", "_opening", "_joined", "_operand", "_passed_over"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    last_value(unit * 1000)
    small, steps = steps, 0
    last_value(unit * 100_000)
    assert steps <= max(small, 20_000)
