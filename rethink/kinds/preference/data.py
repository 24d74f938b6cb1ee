"""The examples of a run on preferences, as token ids: prompts and answers rendered as for fine-tuning and sampling.

rows ─► usable? ─► held out by prompt ─► ids ─► for KTO, the answer to another prompt beside each
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rethink.errors import TaskError
from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.kinds.reward_model.examples import Example, Examples, load_examples
from rethink.model.decoder.packing import PackedGroup
from rethink.model.text.training_text import ConversationRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.seeds import draw
from rethink.tasks.preferences import EMPTY, EQUAL, Preference


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """All examples of a run."""

    examples: Examples
    train_kl: tuple[PackedGroup, ...] = ()
    """For each training example its prompt with the answer to another prompt, where the objective needs a KL."""
    held_out_kl: tuple[PackedGroup, ...] = ()
    """The same for the held-out examples; empty too where all of them have one prompt."""


def load_data(recipe: PreferenceRecipe, tokenizer: Tokenizer, context: int) -> PreferenceData:
    """Read, render and split a recipe's data.

    Args:
        recipe: the run.
        tokenizer: of the model.
        context: longest sequence of the model; `max_tokens` may be less.

    Raises:
        TaskError: a file or a row cannot be used, nothing is left to train on, or the objective learns nothing from
            what is there (labels of one kind; one prompt).
        ModelError: the tokenizer has no chat template, or none that can be used.
    """
    limit = min(recipe.max_tokens or context, context)
    section = recipe.prompt
    renderer = ConversationRenderer(tokenizer, section.template, system=section.system, turns="last")
    examples = load_examples(recipe, lambda row: _encode(renderer, row), limit)
    if "kl" not in recipe.algorithm.objective.needs:
        return PreferenceData(examples)
    _refuse_one_label(recipe, examples.train)
    train, cut = kl_groups(examples.train, recipe.seed, limit)
    if not train:
        raise TaskError(
            f"all {len(examples.train)} training examples have the same prompt, but `algorithm.type="
            f"{recipe.algorithm.type}` compares with answers to other prompts. Give examples with other prompts"
        )
    held_out, cut_there = kl_groups(examples.held_out, recipe.seed, limit)
    facts = examples.facts | {"kl_answers_cut": cut + cut_there}
    return PreferenceData(replace(examples, facts=facts), tuple(train), tuple(held_out))


def _encode(renderer: ConversationRenderer, row: Preference) -> PackedGroup | str:
    """The prompt, and each answer with the token that ends it."""
    if not all(response.strip() for response in row.responses):
        return EMPTY
    prompts, answers = [], []
    for response in row.responses:
        document = renderer.render([*row.prompt, {"role": "assistant", "content": response}], row.where)
        first = int(document.trained.argmax())
        prompts.append(document.token_ids[:first].tolist())
        answers.append(document.token_ids[first:].tolist())
    assert all(prompt == prompts[0] for prompt in prompts)
    if len(answers) == 2 and answers[0] == answers[1]:
        return EQUAL
    return PackedGroup(prompts[0], answers)


def _refuse_one_label(recipe: PreferenceRecipe, train: Sequence[Example]) -> None:
    labels = {example.preference.label for example in train}
    if len(labels) == 1:
        has, lacks = ("good", "bad") if labels == {1} else ("bad", "good")
        raise TaskError(
            f"all {len(train)} training examples are {has} ones, and `algorithm.type={recipe.algorithm.type}` learns "
            f"from both kinds. Give {lacks} answers too (`label: {str(has == 'bad').lower()}`), or pairs"
        )


def kl_groups(examples: Sequence[Example], seed: int, limit: int) -> tuple[list[PackedGroup], int]:
    """For each example its prompt with the answer of the next one that has another prompt, in an order drawn from the
    seed: what KTO estimates its KL from.

    Args:
        examples: with one answer each.
        seed: of the run.
        limit: most tokens of a prompt with an answer; a longer answer is cut.

    Returns:
        (a group for each example, how many of their answers are cut); no groups where all prompts are the same.
    """
    order = list(range(len(examples)))
    random.Random(draw("preferences", seed, "kl")).shuffle(order)
    following: dict[int, Example] = {}
    other: Example | None = None  # the next one with another prompt, going backwards twice around
    for place, after in zip([*order, *order][-2::-1], [*order, *order][:0:-1], strict=True):
        other = examples[after] if examples[after].key != examples[place].key else other
        if other is not None:
            following[place] = other
    if len(following) < len(examples):
        return [], 0
    made, cut = [], 0
    for place, example in enumerate(examples):
        prompt, answer = example.group.prompt_ids, following[place].group.completions[0]
        room = max(limit - len(prompt), 1)
        cut += len(answer) > room
        made.append(PackedGroup(prompt, [answer[:room]]))
    return made, cut
