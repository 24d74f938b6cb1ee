"""The part `reward-model`: what a trained reward model says of a response, beside the rules.

The score becomes a probability, so that it is between 0 and 1 like other rewards: for pairs, that the response is
preferred to a usual one (the sigmoid of the score less the mean score of held-out responses); of labels, that the label
is 1. DeepSeek-R1 (arXiv 2501.12948) adds such a reward for general prompts, in the last steps alone, since a policy
that is trained on it for long learns what the model overlooks.

The model runs in the training process, on all completions of a batch at once, packed, prompts shared by their group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from rethink.errors import RecipeError
from rethink.model.decoder.packing import PackedGroup
from rethink.model.heads.value_head import RewardModel, build_reward_model, load_reward_checkpoint
from rethink.model.text.reward_text import On, encode_prompt, encode_response, scored_text
from rethink.rewards.builtin import PartContext
from rethink.rewards.outcome import INVALID, failed
from rethink.types import Completion, Problem, Prompt, RewardOutcome

Item = tuple[Problem, Prompt, Completion]

TOKENS = 4096
"""Most tokens in one pass, as far as one prompt with its responses allows."""


class Scorer:
    """Scores completions by a reward model; its weights are read at the first call.

    Args:
        path: the reward model's folder.
        on: what is scored; None: what it was trained on.
        dtype: it computes in.
        device: it computes on.

    Raises:
        ModelError: there is no such reward model.
    """

    def __init__(self, path: str, on: On | None, dtype: str, device: str):
        self._checkpoint, self._info = load_reward_checkpoint(path)
        self._dtype, self._device = dtype, device
        self.on: On = on or self._info.on
        self._model: RewardModel | None = None

    def __call__(self, items: Sequence[Item]) -> list[RewardOutcome]:
        """A probability for each completion; 0 for one without anything to score, as a thought that never ends.

        The conversation that the model reads is the problem's question and the response: instructions and examples of
        the recipe's prompt are not shown. What is longer than the model's context is a failure.
        """
        if self._model is None:
            self._model = build_reward_model(self._checkpoint, self._dtype, self._device)
        outcomes: list[RewardOutcome | None] = [None] * len(items)
        with torch.no_grad():
            for groups, places in self._batches(items, outcomes, self._model.context):
                scores = self._model.scores(groups).double() - self._info.offset
                for place, value in zip(places, torch.sigmoid(scores).tolist(), strict=True):
                    outcomes[place] = RewardOutcome(value)
        return [outcome if outcome is not None else RewardOutcome(0.0) for outcome in outcomes]

    def facts(self) -> dict[str, Any]:
        """What the model was trained for, and on what kind of preferences: for the run's summary."""
        info = asdict(self._info)
        return {"model": self._checkpoint.source, "on": self.on} | {
            key: info[key] for key in ("objective", "synthetic", "rules", "recipe_hash")
        }

    def _batches(
        self, items: Sequence[Item], outcomes: list[RewardOutcome | None], context: int
    ) -> Iterator[tuple[list[PackedGroup], list[int]]]:
        """Groups of one pass, and the places of their responses among the items, in order."""
        groups: list[PackedGroup] = []
        places: list[int] = []
        used = 0
        for prompt, members in self._by_question(items, outcomes, context):
            tokens = len(prompt) + sum(len(ids) for _, ids in members)
            if groups and used + tokens > TOKENS:
                yield groups, places
                groups, places, used = [], [], 0
            groups.append(PackedGroup(prompt, [ids for _, ids in members]))
            places += [place for place, _ in members]
            used += tokens
        if groups:
            yield groups, places

    def _by_question(
        self, items: Sequence[Item], outcomes: list[RewardOutcome | None], context: int
    ) -> Iterator[tuple[list[int], list[tuple[int, list[int]]]]]:
        """Each question's prompt with what is to be scored: place and ids of the response."""
        tokenizer, template = self._checkpoint.tokenizer, self._info.template
        questions: dict[str, list[int]] = {}
        for place, (problem, _, _) in enumerate(items):
            questions.setdefault(problem.question, []).append(place)
        for question, members in questions.items():
            prompt = encode_prompt(tokenizer, [{"role": "user", "content": question}], template)
            scored = []
            for place in members:
                _, asked, completion = items[place]
                text = scored_text(asked.prefill + completion.text, self.on)
                if not text:
                    continue
                ids = encode_response(tokenizer, text, template)
                length = len(prompt) + len(ids)
                if length > context:
                    said = f"{length} tokens do not fit the reward model's context of {context}"
                    outcomes[place] = failed(INVALID, said)
                else:
                    scored.append((place, ids))
            if scored:
                yield prompt, scored


def reward_model_part(context: PartContext, *, model: str, on: On | None = None) -> Any:
    """The part `reward-model`: a `Scorer`.

    Raises:
        RecipeError: the model cannot be used as a reward model.
    """
    from rethink.errors import ModelError

    try:
        return Scorer(model, on, context.dtype, context.device)
    except ModelError as error:
        raise RecipeError(f"the part `reward-model`: {error}") from error
