"""Examples of preferences: read, checked, split by prompt, mixed with earlier ones, as token ids.

files, hub, samples ─► usable? ─► held out by prompt ─► + replay ─► ids; which examples a step has
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rethink.errors import TaskError
from rethink.kinds.reward_model.recipe import PreferenceData, PreferenceRows, ReplaySection
from rethink.kinds.reward_model.synthetic_pairs import make_pairs, read_samples, run_samples
from rethink.model.decoder.packing import PackedGroup
from rethink.seeds import Purpose, draw
from rethink.tasks.preferences import REASONS, Preference, read_file, read_hub
from rethink.tasks.split import split_key

TOO_LONG = "too-long"
_PARTS = 1_000_000
"""Resolution of the share of prompts that is held out."""
Encode = Callable[[Preference], PackedGroup | str]
"""A row in token ids; or why it cannot be used, one of `REASONS`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A preference as token ids."""

    preference: Preference
    group: PackedGroup
    """The prompt, and each response with the token that ends it."""
    key: int
    """Of the prompt's first user turn: examples with the same one are on the same side of the split."""
    replayed: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that a pass computes at most."""
        return len(self.group.prompt_ids) + sum(len(c) for c in self.group.completions)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longer response."""
        return len(self.group.prompt_ids) + max(len(c) for c in self.group.completions)


@dataclass(frozen=True, slots=True)
class Examples:
    """All examples of a run."""

    train: list[Example]
    held_out: list[Example]
    facts: dict[str, Any]
    """Counts for the summary: examples, what was left out and why, synthetic ones by rule, lengths."""

    @property
    def digest(self) -> str:
        """Hash of all ids and of the split, so that a resumed run can tell whether its data changed."""
        digest = hashlib.blake2b(digest_size=16)
        for side in (self.train, self.held_out):
            for example in side:
                ids = [list(example.group.prompt_ids), *map(list, example.group.completions)]
                digest.update(repr((ids, example.preference.label)).encode())
            digest.update(b"|")
        return digest.hexdigest()


def load_examples(recipe: PreferenceRows, encode: Encode, limit: int, replay: ReplaySection | None = None) -> Examples:
    """Read a recipe's data.

    Args:
        recipe: the run.
        encode: makes ids of a row.
        limit: most tokens of a prompt with a response.
        replay: earlier examples to mix in.

    Raises:
        TaskError: a file or data set cannot be read, a row is of no known schema, examples are unusable and the recipe
            does not drop them, or none is left to train on.
    """
    reader = _Reader(recipe, encode, limit)
    separate: list[Example] = []
    shared: list[tuple[Example, bool]] = []
    for index, data in enumerate(recipe.data):
        shared += [(example, data.held_out is not None) for example in reader.examples(data, index)]
        if data.held_out is not None:
            held = data.model_copy(update={"split" if data.hub else "path": data.held_out})
            separate += reader.examples(held, index)
    earlier = reader.usable(read_file(Path(replay.path), recipe.rows)) if replay is not None else []
    reader.refuse_unusable()
    train, held_out, overlapping = _split(shared, separate, recipe.evaluation.share)
    held_out = sorted(held_out, key=lambda example: example.key)[: recipe.evaluation.limit]
    if not train:
        left_out = f" ({sum(reader.unusable.values())} are unusable)" if reader.unusable else ""
        raise TaskError(
            f"no example is left to train on{left_out}: {len(held_out)} are held out. Give more data, or lower "
            "evaluation.share"
        )
    keys = {example.key for example in held_out}
    earlier = [replace(example, replayed=True) for example in earlier if example.key not in keys]
    replayed = _replay(replay, recipe.seed, len(train), earlier)
    facts = {
        "train": len(train) + len(replayed),
        "held_out": len(held_out),
        "replayed": len(replayed),
        "unusable": {reason: n for reason, n in reader.unusable.items() if n},
        "left_out_as_held_out_elsewhere": overlapping,
        "synthetic": dict(Counter(e.preference.rule for e in [*train, *replayed, *held_out] if e.preference.rule)),
        "samples": reader.samples,
        **_lengths([*train, *replayed], held_out),
    }
    return Examples([*train, *replayed], held_out, facts)


class _Reader:
    """Reads sources and counts what cannot be used."""

    def __init__(self, recipe: PreferenceRows, encode: Encode, limit: int):
        self._recipe, self._encode, self._limit = recipe, encode, limit
        self.unusable: Counter[str] = Counter()
        self.samples: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def examples(self, data: PreferenceData, index: int) -> list[Example]:
        """The usable examples of a source."""
        if data.format != "preferences":
            samples = run_samples(Path(data.path)) if data.format == "run" else read_samples(Path(data.path))
            rows, counts = make_pairs(samples, on=self._recipe.scored_on, most=data.pairs_per_question)
            self.samples = dict(Counter(self.samples) + Counter(counts))
            if not rows:
                raise TaskError(
                    f"no pair could be made of the {counts['samples']} samples of {counts['questions']} questions in "
                    f"`{data.path}` ({counts['unjudged']} samples without a verdict, {counts['unscorable']} without a "
                    f"{self._recipe.scored_on}): a question needs a right and a wrong answer. Sample more for each "
                    "question, or take easier or harder questions"
                )
        elif data.hub:
            rows = read_hub(data.path, data.config, data.split, self._recipe.rows)
        else:
            rows = read_file(Path(data.path), self._recipe.rows)
        if not rows:
            raise TaskError(f"`{data.path}` (data.{index}) holds no examples; give a file with at least one")
        return self.usable(rows)

    def usable(self, rows: Sequence[Preference]) -> list[Example]:
        """The examples that can be used; the others are counted."""
        if self._recipe.rows == "either":
            rows = [single for row in rows for single in row.apart()]
        found = []
        for row in rows:
            example = self._example(row)
            if isinstance(example, Example):
                found.append(example)
            else:
                self.unusable[example] += 1
                self._first.setdefault(example, row.where)
        return found

    def _example(self, row: Preference) -> Example | str:
        if row.unusable is not None:
            return row.unusable
        group = self._encode(row)
        if isinstance(group, str):
            return group
        first = next((m["content"] for m in row.prompt if m["role"] == "user"), row.prompt[0]["content"])
        example = Example(row, group, split_key(first))
        return example if example.longest <= self._limit else TOO_LONG

    def refuse_unusable(self) -> None:
        """Raise TaskError where there are unusable examples that the recipe does not drop."""
        if not self.unusable or self._recipe.unusable == "drop":
            return
        meanings = REASONS | {TOO_LONG: f"prompt and response are longer than {self._limit} tokens"}
        listed = "; ".join(
            f"{n} × {reason} ({meanings[reason]}; the first: {self._first[reason]})"
            for reason, n in self.unusable.items()
        )
        raise TaskError(
            f"{sum(self.unusable.values())} examples cannot be used: {listed}. Mend the data, or leave such examples "
            "out with unusable=drop: the summary counts them"
        )


def _split(
    shared: Sequence[tuple[Example, bool]], separate: list[Example], share: float
) -> tuple[list[Example], list[Example], int]:
    """(train, held out, examples that fit neither): no prompt is on both sides.

    Args:
        shared: examples to train on, each with whether its source has held-out examples of its own; of the other
            sources, a share of the prompts is held out by the hash of the prompt.
        separate: the held-out examples of those that have.
    """
    reserved = {example.key for example in separate}
    bound = share * _PARTS
    keys = {example.key for example, own in shared if not own and example.key not in reserved}
    held = {key for key in keys if key % _PARTS < bound}
    if share > 0 and not held and not separate and len(keys) > 1:
        held = {min(keys)}  # few prompts: one at least
    train, held_out, overlapping = [], list(separate), 0
    for example, own in shared:
        if example.key in reserved or (own and example.key in held):
            overlapping += 1
        elif example.key in held:
            held_out.append(example)
        else:
            train.append(example)
    return train, held_out, overlapping


def _replay(replay: ReplaySection | None, seed: int, new: int, earlier: list[Example]) -> list[Example]:
    """Earlier examples, drawn by the seed, so that they are `share` of all (fewer where there are no more)."""
    if replay is None:
        return []
    number = min(round(new * replay.share / (1 - replay.share)), len(earlier))
    chosen = sorted(random.Random(draw("replay", seed)).sample(range(len(earlier)), number))
    return [earlier[i] for i in chosen]


def _lengths(train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """Mean lengths of the responses, and how far "the longer one is better" would go on the held-out pairs."""
    if train[0].preference.label is not None:
        good, bad = ([len(e.group.completions[0]) for e in train if e.preference.label == label] for label in (1, 0))
        return {"tokens_good": _mean(good), "tokens_bad": _mean(bad), "share_good": len(good) / len(train)}
    sides = list(zip(*[[len(c) for c in e.group.completions] for e in train], strict=True))
    longer = [_sign(len(e.group.completions[0]) - len(e.group.completions[1])) for e in held_out]
    return {
        "tokens_chosen": _mean(sides[0]),
        "tokens_rejected": _mean(sides[1]),
        "longer_is_better": _mean(longer) if longer else None,
    }


def _sign(difference: int) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def step_places(recipe: PreferenceRows, number: int, step: int, purpose: Purpose) -> list[int]:
    """Which of so many examples a step (0-based) has: each epoch visits every example once, in an order drawn for the
    purpose from seed and epoch.
    """
    first = step * recipe.batch_size
    last = min(first + recipe.batch_size, recipe.visits(number))
    places = (divmod(position, number) for position in range(first, last))
    return [_order(purpose, recipe.seed, epoch, number)[place] for epoch, place in places]


@functools.lru_cache(maxsize=2)
def _order(purpose: Purpose, seed: int, epoch: int, number: int) -> tuple[int, ...]:
    order = list(range(number))
    random.Random(draw(purpose, seed, epoch)).shuffle(order)
    return tuple(order)
