"""How readable a completion is: a score between 0 and 1, the mean of four that can be looked at one by one.

DeepSeek-R1 (arXiv 2501.12948, 2.3 and 3) names what made R1-Zero's text poor to read: mixed languages, no structure,
chaotic and endless passages. It gives no score; this one is ours:

- `tags`: 1 for a well-formed turn (one thought, then one answer, nothing around them); else half the share of the four
  tags that stand exactly once, so that a turn with stray or missing tags gets at most 0.5;
- `repetition`: 1 minus the share of word 3-grams that repeat an earlier one;
- `length`: 1 for a turn that ended by itself and whose longest paragraph has at most `PARAGRAPH` words; falls to 0 at
  twice as many; 0 for a turn that was cut;
- `mixing`: the share of the thought's words in the target language (the reward part `language`); left out of the mean
  where the thought has no words.
"""

from __future__ import annotations

from dataclasses import dataclass

from rethink.model.chat import parse_completion
from rethink.rewards.format import tag_share
from rethink.rewards.language import language_share, thought_of
from rethink.rewards.shaping import repetition_penalty, words

PARAGRAPH = 150
"""Words of a paragraph that reads well."""


@dataclass(frozen=True, slots=True)
class Readability:
    """The four parts, each from 0 to 1."""

    tags: float
    repetition: float
    length: float
    mixing: float | None
    """None where the thought has no words."""

    @property
    def score(self) -> float:
        """Mean of those that there are."""
        parts = [self.tags, self.repetition, self.length, *([] if self.mixing is None else [self.mixing])]
        return sum(parts) / len(parts)


def readability(turn: str, *, truncated: bool, language: str = "en") -> Readability:
    """Rate an assistant's turn.

    Args:
        turn: the whole turn, with the prefill that began it.
        truncated: whether the token limit cut it.
        language: a key of `rethink.rewards.language.SCRIPTS`.
    """
    longest = max((len(paragraph.split()) for paragraph in turn.split("\n\n")), default=0)
    beyond = max(0, longest - PARAGRAPH) / PARAGRAPH
    return Readability(
        tags=1.0 if parse_completion(turn).well_formed else 0.5 * tag_share(turn),
        repetition=1.0 + repetition_penalty(words(turn, language), 3, -1.0),
        length=0.0 if truncated else max(0.0, 1.0 - beyond),
        mixing=language_share(thought_of(turn), language).share,
    )
