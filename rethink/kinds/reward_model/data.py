"""The examples of a reward model: the text of each response that is scored, as token ids."""

from __future__ import annotations

from rethink.kinds.reward_model.examples import Example, Examples, load_examples, step_places
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.model.decoder.packing import PackedGroup
from rethink.model.text.reward_text import Template, encode_prompt, encode_response, scored_text
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.tasks.preferences import EMPTY, EQUAL, Preference


def load_reward_data(recipe: RewardModelRecipe, tokenizer: Tokenizer, template: Template, context: int) -> Examples:
    """Read a recipe's data.

    Args:
        recipe: the run.
        tokenizer: of the model.
        template: makes text of a conversation.
        context: longest sequence of the model; `max_tokens` may be less.

    Raises:
        TaskError: see `load_examples`.
    """

    def encode(row: Preference) -> PackedGroup | str:
        shown = [scored_text(response, recipe.scored_on) for response in row.responses]
        if not all(text and text.strip() for text in shown):
            return EMPTY
        if len(shown) == 2 and shown[0] == shown[1]:
            return EQUAL
        prompt = encode_prompt(tokenizer, row.prompt, template)
        return PackedGroup(prompt, [encode_response(tokenizer, str(text), template) for text in shown])

    return load_examples(recipe, encode, min(recipe.max_tokens or context, context), recipe.replay)


def step_examples(recipe: RewardModelRecipe, data: Examples, step: int) -> list[Example]:
    """The examples of a step (0-based)."""
    return [data.train[place] for place in step_places(recipe, len(data.train), step, "reward model")]
