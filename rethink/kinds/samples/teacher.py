"""Rewriting by a teacher: an endpoint or a local model; every rewritten answer is scored and filtered again.

DeepSeek-R1 (arXiv 2501.12948, 2.3.1) has cold-start samples of R1-Zero rewritten to be readable. A teacher may change a
result, so what it writes is checked as the original was, and dropped where it fails, as `rewrite-…`; the original stays
in the record. What it reads is hostile (a sample may address it), which the same check answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rethink.endpoint.client import EndpointClient
from rethink.endpoint.reply import NoReply
from rethink.errors import RecipeError, TaskError
from rethink.kinds.samples.asking import ask_all
from rethink.kinds.samples.drawing import score_samples
from rethink.kinds.samples.filters import REWRITTEN, UNJUDGED, first_reason
from rethink.kinds.samples.models import Models
from rethink.kinds.samples.parts import Row, in_parts
from rethink.kinds.samples.recipe import CurateRecipe, TeacherSection
from rethink.kinds.samples.records import KEPT, Sample, from_row
from rethink.model.text.prompt import PromptRenderer
from rethink.recipe.schema import PromptSection
from rethink.rewards.rubric import Rubric
from rethink.rollout.sampler import Asked, complete
from rethink.seeds import draw
from rethink.types import FinishReason, Problem

AT_ONCE = 32
"""Samples of a part."""
FAILED = f"{REWRITTEN}failed"
_PLACE = re.compile(r"\{(question|completion|gold)\}")
Rewrite = Callable[[Sequence[Sample]], list[tuple[str, FinishReason] | NoReply]]


def check_teacher(recipe: CurateRecipe, models: Models) -> None:
    """Refuse a local teacher that cannot be asked, before anything is drawn. Raises `RecipeError`, `ModelError`."""
    if recipe.teacher.model is not None and recipe.teacher.url is None:
        _local(recipe, models)


def rewrite(
    samples: Sequence[Sample],
    recipe: CurateRecipe,
    models: Models,
    rubric: Rubric,
    folder: Path,
    *,
    stop: Callable[[], bool],
    phase: Callable[[int, int], None],
) -> list[Sample]:
    """The samples as the teacher writes them, in order; those that fail their check have a reason that says so.

    Raises:
        RecipeError: the endpoint is not there, or its key.
        RunFailure: the endpoint stopped answering; go on with `--resume`.
    """
    if not samples:
        return []
    ask = _endpoint(recipe.teacher, folder) if recipe.teacher.url is not None else _local(recipe, models)
    encode = models.checkpoint(recipe.model.path).tokenizer.encode

    def work(chunk: Sequence[Sample]) -> list[Row]:
        return [sample.row() for sample in _rewritten(chunk, ask(chunk), recipe, rubric, encode)]

    ready = 0

    def done(index: int, rows: Sequence[Row], now: bool) -> None:
        nonlocal ready
        ready += len(rows)
        phase(ready, len(samples))

    def key(sample: Sample) -> str:
        return f"{sample.id}\x1f{sample.completion}"

    return [from_row(row) for row in in_parts(folder, samples, AT_ONCE, key, work, stop=stop, done=done)]


def fill(instruction: str, sample: Sample) -> str:
    """The instruction with its places filled, in one pass: what is filled in is not searched again."""
    gold = sample.gold if sample.gold is not None else "(none is known)"
    values = {"question": sample.question, "completion": sample.completion, "gold": gold}
    return _PLACE.sub(lambda place: values[place.group(1)], instruction).encode("utf-8", "replace").decode()


def _rewritten(
    samples: Sequence[Sample],
    replies: Sequence[tuple[str, FinishReason] | NoReply],
    recipe: CurateRecipe,
    rubric: Rubric,
    encode: Callable[[str], Sequence[int]],
) -> list[Sample]:
    found, answered = [], []
    for sample, reply in zip(samples, replies, strict=True):
        new = replace(sample, failures={}, source={**sample.source, "teacher": recipe.teacher.model})
        found.append(new)
        if isinstance(reply, NoReply):
            new.reason, new.failures = FAILED, {"teacher": f"{reply.cause}: {reply.detail}"}
            continue
        new.original = sample.completion
        new.completion, new.finish_reason = reply[0].strip(), reply[1]
        answered.append(new)
    score_samples(answered, rubric, encode)
    for new in answered:
        reason = first_reason(new, recipe.filters)
        if reason == UNJUDGED and new.judge is not None:
            reason = KEPT  # no rule reads its gold; a judge let the original pass
        new.reason = KEPT if reason == KEPT else REWRITTEN + reason
    return found


def _endpoint(teacher: TeacherSection, folder: Path) -> Rewrite:
    client = EndpointClient(teacher, "teacher", cache=folder / "replies")
    options = {"temperature": teacher.temperature, "max_tokens": teacher.max_tokens}
    system = [{"role": "system", "content": teacher.system}] if teacher.system else []

    def ask(sample: Sample) -> tuple[str, FinishReason]:
        asked = {"role": "user", "content": fill(teacher.instruction, sample)}
        return client.ask([*system, asked], options), "stop"  # a reply that was cut is a failure of the client's

    return lambda samples: ask_all(ask, samples, teacher.concurrency, "teacher")


def _local(recipe: CurateRecipe, models: Models) -> Rewrite:
    teacher, path = recipe.teacher, str(recipe.teacher.model)
    tokenizer = models.checkpoint(path).tokenizer
    if tokenizer.chat_template is None:
        raise RecipeError(
            f"`teacher.model` {path} has no chat template (it is probably a base model), so it cannot be asked to "
            "rewrite. Name an instruction-tuned model, or an endpoint with `teacher.url`."
        )
    room = models.context(path) - teacher.max_tokens + 1
    if room < 2:
        raise RecipeError(
            f"`teacher.max_tokens` is {teacher.max_tokens}, and the context of {path}, "
            f"{room + teacher.max_tokens - 1} tokens, must hold the question and the sample too. Lower it, or choose a "
            "teacher with a longer context."
        )
    renderer = PromptRenderer(tokenizer, PromptSection(system=teacher.system), room)

    def asked(sample: Sample) -> Asked | NoReply:
        problem = Problem(sample.id, sample.task, fill(teacher.instruction, sample), None)
        try:
            return Asked(problem, renderer.render(problem), (draw("teacher", recipe.seed, sample.id),))
        except TaskError as error:
            return NoReply("invalid", str(error))

    def ask(samples: Sequence[Sample]) -> list[tuple[str, FinishReason] | NoReply]:
        params = models.params(path, temperature=teacher.temperature, max_new_tokens=teacher.max_tokens)
        wanted = [asked(sample) for sample in samples]
        written = iter(complete(models.engine(path), [one for one in wanted if isinstance(one, Asked)], params))

        def rewritten(one: Asked) -> tuple[str, FinishReason]:
            (completion,) = next(written)
            return one.prompt.prefill + completion.text, completion.finish_reason

        return [rewritten(one) if isinstance(one, Asked) else one for one in wanted]

    return ask
