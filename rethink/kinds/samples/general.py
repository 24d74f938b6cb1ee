"""Data without reasoning, mixed in so that fine-tuning does not take the model's general skills away.

DeepSeek-R1 (arXiv 2501.12948, 2.3.3) adds about 200k samples without reasoning to 600k with it. Here they are the
user's conversations, or the base model's own answers to general prompts: what is trained on then changes nothing in how
the model talks about everyday things.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from rethink.analysis.readability import repetition_share, stray_tags
from rethink.errors import TaskError
from rethink.kinds.samples.models import Models
from rethink.kinds.samples.parts import Row, in_parts
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.records import GENERAL, KEPT, Sample, from_row, new_sample, sample_id
from rethink.model.text.prompt import PromptRenderer
from rethink.rollout.sampler import Asked, complete
from rethink.seeds import draw
from rethink.tasks.conversations import ConversationFile
from rethink.types import UNTRAINED, Problem

SHIPPED = "general_prompts.jsonl"
MOST_EACH = 8
"""Answers to one prompt at most."""
MOST_REPEATED = 0.3
"""Share of an answer's 8-grams that may repeat; verses repeat more than reasoning."""


def wanted_general(kept: int, share: float) -> int:
    """How many samples make `share` of the mix, beside `kept` others."""
    return round(share / (1.0 - share) * kept)


def general_prompts(path: str | None) -> list[str]:
    """The prompts of a JSONL file, or of the list that ships.

    Raises:
        TaskError: a line without a `prompt` (file and line), or none at all.
    """
    if path is None:
        content = files("rethink.kinds.samples").joinpath(SHIPPED).read_text(encoding="utf-8")
    else:
        content = Path(path).read_bytes().decode("utf-8", "replace")
    prompts = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"`{path}`, line {number}, is not JSON ({error}); mend or remove it") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise TaskError(f'`{path}`, line {number}, has no text under `prompt`; a row is {{"prompt": "…"}}')
        prompts.append(row["prompt"])
    if not prompts:
        raise TaskError(f"`{path}` holds no prompts; give one a line, or leave `general.prompts` out")
    return list(dict.fromkeys(prompts))


def general_samples(
    wanted: int,
    recipe: CurateRecipe,
    models: Models,
    folder: Path,
    *,
    given: ConversationFile | None,
    stop: Callable[[], bool],
    phase: Callable[[int, int], None],
) -> list[Sample]:
    """Up to `wanted` kept samples, and what was dropped on the way; fewer where there are no more.

    `given` is what was read of `general.path`; None: the model answers general prompts.

    Raises:
        TaskError: a conversation of the user's has a turn that is not to be trained on.
        ModelError: the model has no chat template and `general.prompt.template` is `chat`.
    """
    if wanted < 1:
        return []
    if given is not None:
        return _from_file(wanted, given, recipe, models)
    return _answered(wanted, recipe, models, folder, stop, phase)


def check_general(recipe: CurateRecipe, models: Models) -> None:
    """Refuse prompts that cannot be put to the model, before anything is drawn.

    Raises:
        TaskError: one leaves no room for an answer.
        ModelError: the model has no chat template and `general.prompt.template` is `chat`.
    """
    if recipe.general.share == 0 or recipe.general.path is not None:
        return
    renderer = _renderer(recipe, models)
    for prompt in general_prompts(recipe.general.prompts):
        if renderer.surely_fits(prompt):
            continue
        try:
            renderer.render(Problem(sample_id(GENERAL, prompt, 0), GENERAL, prompt, None))
        except TaskError:
            path, limit = recipe.general.model or recipe.model.path, recipe.general.max_new_tokens
            raise TaskError(
                f"the general prompt {prompt[:60]!r} and `general.max_new_tokens={limit}` do not fit "
                f" the context of {path}, {models.context(path)} tokens. Lower the limit, or leave the prompt out."
            ) from None


def _renderer(recipe: CurateRecipe, models: Models) -> PromptRenderer:
    general = recipe.general
    path = general.model or recipe.model.path
    room = models.context(path) - general.max_new_tokens + 1
    return PromptRenderer(models.checkpoint(path).tokenizer, general.prompt, room)


def _from_file(wanted: int, given: ConversationFile, recipe: CurateRecipe, models: Models) -> list[Sample]:
    path = str(recipe.general.path)
    encode = models.checkpoint(recipe.model.path).tokenizer.encode
    rows = list(given.rows)
    rows.sort(key=lambda row: draw("general", recipe.seed, row.line))
    found = []
    for row in rows[:wanted]:
        if any(UNTRAINED in message for message in row.messages):
            raise TaskError(
                f"`{path}`, line {row.line}, has an assistant turn that is not to be trained on, which samples cannot "
                "say: leave the row out of general.path"
            )
        before, answer = [dict(m) for m in row.messages[:-1]], row.messages[-1]["content"]
        question = next((m["content"] for m in before if m["role"] == "user"), before[0]["content"])
        found.append(
            Sample(
                id=sample_id(GENERAL, question, row.line),
                task=GENERAL,
                question=question,
                gold=None,
                messages=before,
                completion=answer,
                tokens=len(encode(answer)),
                finish_reason="stop",
                source={"file": path, "stage": recipe.name, "index": row.line},
            )
        )
    return found


def _answered(
    wanted: int,
    recipe: CurateRecipe,
    models: Models,
    folder: Path,
    stop: Callable[[], bool],
    phase: Callable[[int, int], None],
) -> list[Sample]:
    general, size = recipe.general, recipe.sampling.prompts_per_batch
    path = general.model or recipe.model.path
    prompts = general_prompts(general.prompts)
    prompts.sort(key=lambda prompt: draw("general", recipe.seed, prompt))
    rounds = MOST_EACH if general.temperature > 0 else 1
    items = [(prompt, index) for index in range(rounds) for prompt in prompts]
    renderer = _renderer(recipe, models)

    def work(chunk: Sequence[tuple[str, int]]) -> list[Row]:
        params = models.params(path, temperature=general.temperature, max_new_tokens=general.max_new_tokens)
        problems = [Problem(sample_id(GENERAL, prompt, index), GENERAL, prompt, None) for prompt, index in chunk]
        seeds = [draw("general", recipe.seed, prompt, index) for prompt, index in chunk]
        asked = [Asked(p, renderer.render(p), (seed,)) for p, seed in zip(problems, seeds, strict=True)]
        rows = []
        answers = complete(models.engine(path), asked, params)
        for (_, index), one, (completion,) in zip(chunk, asked, answers, strict=True):
            sample = new_sample(recipe, general.prompt, one.problem, index, path, one.seeds[0])
            sample.completion = (one.prompt.prefill + completion.text).strip()
            sample.tokens, sample.finish_reason = len(completion.token_ids), completion.finish_reason
            sample.reason = _reason(sample)
            rows.append(sample.row())
        return rows

    asked = 0
    samples: list[Sample] = []

    def done(index: int, rows: Sequence[Row], now: bool) -> None:
        phase(min((index + 1) * size, asked), asked)

    while asked < len(items) and (missing := wanted - sum(sample.kept for sample in samples)) > 0:
        asked = min(len(items), asked + math.ceil(missing / size) * size)  # whole parts, so that they stay the same
        rows = in_parts(folder, items[:asked], size, lambda it: f"{it[0]}\x1f{it[1]}", work, stop=stop, done=done)
        samples = [from_row(row) for row in rows]
    kept = [sample for sample in samples if sample.kept]
    for sample in kept[wanted:]:
        sample.reason = "not-chosen"
    return samples


def _reason(sample: Sample) -> str:
    if sample.finish_reason == "length":
        return "truncated"
    if not sample.completion:
        return "empty"
    if stray_tags(sample.completion):
        return "stray-tags"
    return "repetition" if repetition_share(sample.completion) > MOST_REPEATED else KEPT
