"""Who judges the answers to a task of reasoning-gym.

- `ours`: our own function (`rethink.tasks.gym.ours`).
- `compares`: the library's scorer, in a plain worker. Only scorers that were read line by line are here: they compare
  strings and numbers, keep nothing between calls, evaluate nothing, and take time that is linear in the answer.
- `sandbox`: the library's scorer in the sandbox. All others: they simulate games and graphs, read JSON, or call
  libraries of third parties. Tasks that we have never seen are here too.
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from typing import Literal

from rethink.tasks.gym.ours import OURS

Who = Literal["ours", "compares", "sandbox"]

VERSION = "0.1.25"
"""Of reasoning-gym, in which the scorers below were read. With any other version they run in the sandbox."""

DEFAULT = frozenset(
    "acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation caesar_cipher count_bits count_primes "
    "course_schedule gcd isomorphic_strings largest_island lcm leg_counting letter_counting list_functions "
    "mahjong_puzzle maze modulo_grid number_filtering number_sequence ransom_note rotate_matrix rotten_oranges "
    "simple_equations simple_geometry string_manipulation string_splitting string_synthesis syllogism "
    "word_sequence_reversal".split()
)
"""Tasks with the library's default scorer: the gold text, or its share of a text that contains it."""

OWN = frozenset(
    "ab advanced_geometry arc_agi calendar_arithmetic chain_sum circuit_logic color_cube_rotation cryptarithm "
    "decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font futoshiki kakurasu "
    "knights_knaves letter_jumble manipulate_matrix mini_sudoku needle_haystack number_format palindrome_generation "
    "path_star polynomial_equations power_function prime_factorization products rearc rectangle_count self_reference "
    "sentence_reordering shortest_path spell_backward sudoku survo time_intervals tsumego word_ladder word_sorting "
    "zebra_puzzles".split()
)
"""Tasks with a scorer of their own that compares strings and numbers."""

NUMERIC = frozenset(
    "advanced_geometry calendar_arithmetic chain_sum cryptarithm decimal_arithmetic decimal_chain_sum number_format "
    "polynomial_equations power_function prime_factorization products rectangle_count survo time_intervals".split()
)
"""Of these, those whose scorer hands the text to `int`, `float` or `Decimal`: see `plain_numbers`."""

MAX_TEXT = 20_000
"""Characters of an answer; a longer one is wrong."""
MAX_DIGITS = 60
"""Digits in a row in the answer to a numeric task."""
_ODD_NUMBER = re.compile(rf"nan|inf|_|[0-9]{{{MAX_DIGITS + 1}}}|[eE][-+]?[0-9]{{3}}", re.IGNORECASE)


def who_judges(task: str) -> Who:
    """Who judges the answers to a task."""
    if task in OURS:
        return "ours"
    return "compares" if task in DEFAULT | OWN and _installed() == VERSION else "sandbox"


@cache
def _installed() -> str:
    return importlib.metadata.version("reasoning-gym")


def plain_numbers(text: str) -> bool:
    """Whether a text may go to a scorer that reads numbers: ASCII, no `nan`, no `inf`, no huge digits or exponents.

    Python's readers of numbers take all of these, and a scorer that takes nan for a number can be fooled by it
    (`min(1.0, nan)` is 1.0).
    """
    return text.replace("×", "").replace("°", "").isascii() and _ODD_NUMBER.search(text) is None
