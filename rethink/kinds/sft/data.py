"""The data of a fine-tuning run: rows to documents, what is held out, and the order in which they come.

All of it is a function of the files, the recipe and the index of a document in the run, so that resuming needs no state
but the step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rethink.errors import TaskError
from rethink.kinds.sft.recipe import SFTEvaluation, SFTRecipe
from rethink.model.text.training_text import ConversationRenderer, Document
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.seeds import draw
from rethink.tasks.conversations import read_conversations

Notify = Callable[[int, int], None]
"""(rows rendered, rows of this file)"""
_NOTIFY_EVERY = 256


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file's documents for training."""

    path: str
    sha256: str
    rows: int
    """Rows of the file."""
    dropped: int
    """Rows left out since they are longer than allowed."""
    held_out: int
    """Rows whose prompt is held out."""
    documents: tuple[Document, ...]

    def facts(self) -> dict[str, int | str]:
        """For the summary."""
        return {
            "path": self.path,
            "rows": self.rows,
            "dropped": self.dropped,
            "held_out": self.held_out,
            "trained": len(self.documents),
        }


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that a run reads."""

    sets: tuple[DataSet, ...]
    mixture: Mixture
    held_out: tuple[Document, ...]
    """One document of each prompt that is held out."""

    def batch(self, step: int, size: int) -> list[Document]:
        """The documents of a step (0-based)."""
        places = (self.mixture.place(step * size + i) for i in range(size))
        return [self.sets[number].documents[row] for number, row in places]

    def steps(self, recipe: SFTRecipe) -> int:
        """Updates in all: as the recipe says, or the epochs rounded up to whole steps."""
        if recipe.steps is not None:
            return recipe.steps
        assert recipe.epochs is not None
        # Rounded first: 2.1 epochs of 10 documents are 21, not 21.000000000000004.
        return math.ceil(round(recipe.epochs * self.mixture.epoch, 6) / recipe.batch_sequences)


class Mixture:
    """Which row comes when.

    An epoch is as many documents as the sets that take part have rows. Each set has its share of every epoch, drawn
    from passes over its rows in an order of each pass's own, which go on from epoch to epoch: whatever its share, no
    row is seen a second time before all others of its set have been seen.

    Args:
        sizes: rows of each set.
        weights: shares; None: by size.
        seed: of the run.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int):
        self._sizes = list(sizes)
        self._seed = seed
        shares = [float(size) for size in sizes] if weights is None else list(weights)
        self.epoch = sum(size for size, share in zip(sizes, shares, strict=True) if share > 0)
        """Documents of an epoch."""
        self.counts = _largest_remainder(shares, self.epoch)
        """Documents of each set in an epoch."""
        self._labels: tuple[int, list[tuple[int, int]]] = (-1, [])
        self._passes: dict[int, tuple[int, list[int]]] = {}

    def place(self, index: int) -> tuple[int, int]:
        """(set, row) of document number `index` of the run."""
        epoch, position = divmod(index, self.epoch)
        if self._labels[0] != epoch:
            self._labels = (epoch, self._mixed(epoch))
        number, ordinal = self._labels[1][position]
        turn, place = divmod(epoch * self.counts[number] + ordinal, self._sizes[number])
        if self._passes.get(number, (-1, []))[0] != turn:
            order = list(range(self._sizes[number]))
            random.Random(draw("conversations", self._seed, "sft", "order", number, turn)).shuffle(order)
            self._passes[number] = (turn, order)
        return number, self._passes[number][1][place]

    def _mixed(self, epoch: int) -> list[tuple[int, int]]:
        """(set, how many of it came before) for each place of an epoch."""
        labels = [number for number, count in enumerate(self.counts) for _ in range(count)]
        random.Random(draw("conversations", self._seed, "sft", "mixture", epoch)).shuffle(labels)
        seen = [0] * len(self.counts)
        out = []
        for number in labels:
            out.append((number, seen[number]))
            seen[number] += 1
        return out


def _largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of the shares that add up to the total."""
    exact = [share * total / sum(shares) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def load_data(
    recipe: SFTRecipe, tokenizer: Tokenizer, context: int | None, notify: Notify = lambda done, of: None
) -> TrainingData:
    """Read, render and split all data sets of a recipe.

    Args:
        recipe: the run.
        tokenizer: of the model.
        context: longest sequence that the model takes; None: not known, so only `max_tokens` counts.
        notify: told how far the rendering of a file is.

    Raises:
        TaskError: a file or a row cannot be used (the message names the line), nothing is left to train on, or a set
            that has a weight is empty.
        ModelError: the tokenizer has no chat template, or none that can be used.
    """
    renderer = ConversationRenderer(tokenizer, recipe.prompt.template, system=recipe.prompt.system, turns=recipe.turns)
    limit = (
        min(size for size in (recipe.max_tokens, context) if size is not None) if recipe.max_tokens or context else None
    )
    read = []
    for entry in recipe.data:
        file = read_conversations(entry.path, entry.format)
        rendered: list[tuple[int, Document]] = []
        for number, row in enumerate(file.rows):
            if number % _NOTIFY_EVERY == 0:
                notify(number, len(file.rows))
            document = renderer.render(row.messages, f"`{entry.path}`, line {row.line}")
            if limit is not None and len(document.token_ids) > limit:
                if recipe.overlong == "error":
                    raise TaskError(_too_long(entry.path, row.line, len(document.token_ids), limit, recipe.max_tokens))
                continue
            rendered.append((row.prompt_key, document))
        if not rendered:
            raise TaskError(
                f"all {len(file.rows)} rows of `{entry.path}` are longer than {limit} tokens, so overlong=drop leaves "
                "nothing; raise max_tokens where the model has the context for it, or give shorter rows"
            )
        read.append((file, rendered))
    held = _held_out_keys((key for _, rendered in read for key, _ in rendered), recipe.evaluation)
    sets = tuple(
        DataSet(
            path=file.path,
            sha256=file.sha256,
            rows=len(file.rows),
            dropped=len(file.rows) - len(rendered),
            held_out=sum(key in held for key, _ in rendered),
            documents=tuple(document for key, document in rendered if key not in held),
        )
        for file, rendered in read
    )
    evaluated: dict[int, Document] = {}
    for _, rendered in read:
        for key, document in rendered:
            if key in held:
                evaluated.setdefault(key, document)
    return TrainingData(sets, _mixture(recipe, sets), tuple(evaluated[key] for key in sorted(evaluated)))


def _mixture(recipe: SFTRecipe, sets: Sequence[DataSet]) -> Mixture:
    given = [entry.weight for entry in recipe.data]
    weights = [weight for weight in given if weight is not None]
    for entry, weight in zip(sets, given, strict=True):
        if not entry.documents and (weight is None or weight > 0):
            raise TaskError(
                f"`{entry.path}` has no row left to train on: of {entry.rows}, {entry.dropped} are too long and "
                f"{entry.held_out} have a prompt that is held out. Give more rows, or set evaluation.share=0"
            )
    return Mixture([len(entry.documents) for entry in sets], weights or None, recipe.seed)


def _held_out_keys(keys: Iterable[int], section: SFTEvaluation) -> frozenset[int]:
    """The prompts that are held out: those with the lowest hashes, so that seed and order have no say.

    Raises:
        TaskError: there is only one prompt.
    """
    if section.share == 0:
        return frozenset()
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise TaskError(
            "all rows have the same prompt, so none can be held out without taking all; set evaluation.share=0 to "
            "train without a held-out loss"
        )
    wanted = min(max(1, round(section.share * len(distinct))), section.limit, len(distinct) - 1)
    return frozenset(distinct[:wanted])


def _too_long(path: str, line: int, size: int, limit: int, max_tokens: int | None) -> str:
    allowed = f"max_tokens allows {limit}" if limit == max_tokens else f"the model's context is {limit}"
    return (
        f"`{path}`, line {line}, has {size} tokens, and {allowed}. Set overlong=drop to leave such rows out (they are "
        "counted), shorten them, or raise max_tokens where the model has the context for it"
    )
