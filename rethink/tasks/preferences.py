"""Preference data: pairs of responses, or responses with a label, from JSONL and Parquet files and hub data sets.

Rows of these schemas are read (docs/reward-models.md has an example of each; `SPELLINGS` has other names of the keys):

    prompt, chosen, rejected       texts, or lists of messages (`chosen` may repeat the prompt's messages)
    chosen, rejected               lists of messages with the prompt inside; or transcripts
                                   "\\n\\nHuman: … \\n\\nAssistant: …" (Anthropic's hh-rlhf)
    prompt, response, label        texts or messages; `completion` is accepted for `response`
    messages, label                the last message is the response

A text under `system` becomes the system message of a prompt that has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rethink.errors import TaskError
from rethink.store import jsonl
from rethink.store.parquet_rows import parquet_rows
from rethink.tasks.loss_flags import left_out_by, refuse_left_out_row

Rows = Literal["pairwise", "pointwise", "either"]
"""Pairs, responses with a label, or both."""
Message = dict[str, str]
SPELLINGS = {
    "prompt": ("question", "instruction", "conversations", "input"),
    "chosen": ("chosen_response", "preferred", "preferred_output", "response_j"),
    "rejected": ("rejected_response", "dispreferred", "non_preferred", "non_preferred_output", "response_k"),
}
"""Names that known data sets give to the keys of a pair; the first that a row has counts."""

EQUAL, TIE, REVERSED, PROMPTS_DIFFER, EMPTY = "equal", "tie", "reversed", "prompts-differ", "empty"
REASONS = {
    EQUAL: "chosen and rejected are the same text",
    TIE: "both responses have the same score, so neither is preferred",
    REVERSED: "the chosen response has the lower score",
    PROMPTS_DIFFER: "chosen and rejected answer different prompts",
    EMPTY: "a response has no text to score",
}
"""Why an example cannot be used."""

_ADVICE = (
    "paths are relative to the folder that the command runs in: correct data.N.path, data.N.held_out or replay.path"
)
LABELS = {"safe": 1, "unsafe": 0, "harmless": 1, "harmful": 0, "good": 1, "bad": 0}
_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Preference:
    """One example: a prompt, and one or two responses to it."""

    prompt: tuple[Message, ...]
    """Messages up to the response."""
    responses: tuple[str, ...]
    """Pairs: the chosen one, then the rejected one. Labels: the response."""
    label: int | None = None
    """Of a single response: 1 good, 0 bad."""
    rule: str | None = None
    """Name of the rule that made a synthetic pair; None: as the data have it."""
    where: str = ""
    """File and line, or data set and row, for messages."""
    unusable: str | None = None
    """One of `REASONS`, where the row itself says no preference."""

    def apart(self) -> tuple[Preference, ...]:
        """A pair as two responses with labels; else itself."""
        if self.label is not None or self.unusable is not None:
            return (self,)
        chosen, rejected = ((response,) for response in self.responses)
        return replace(self, responses=chosen, label=1), replace(self, responses=rejected, label=0)

    def row(self) -> dict[str, Any]:
        """As JSON: a row that `read_preference` reads back."""
        own: dict[str, Any] = {"prompt": list(self.prompt)}
        if self.label is None:
            own |= {"chosen": self.responses[0], "rejected": self.responses[1]}
        else:
            own |= {"response": self.responses[0], "label": self.label}
        return own | ({"synthetic": True, "rule": self.rule} if self.rule is not None else {"synthetic": False})


def read_file(path: Path, rows: Rows) -> list[Preference]:
    """The examples of a JSONL or Parquet (`.parquet`) file.

    Raises:
        TaskError: the file cannot be read, a line is not JSON, or a row is of no known schema (file and line).
    """
    found = parquet_rows(path, _ADVICE) if path.suffix == ".parquet" else jsonl_rows(path)
    return [read_preference(value, rows, where) for where, value in found]


def jsonl_rows(path: Path) -> Iterable[tuple[str, Any]]:
    """The values of a JSONL file, each with its place.

    Raises:
        TaskError: the file cannot be read or a line is not JSON.
    """
    return jsonl.read_jsonl(path, "the file", _ADVICE)


def read_hub(name: str, config: str | None, split: str, rows: Rows) -> list[Preference]:
    """The examples of a hub data set (extra `hub`).

    Raises:
        TaskError: the extra is not installed, the data set cannot be loaded, or a row is of no known schema.
    """
    from rethink.tasks.rows import load_hub

    data = load_hub(name, config, split)
    return [read_preference(value, rows, f"`{name}` ({split}), row {number}") for number, value in enumerate(data)]


def read_preference(value: object, rows: Rows, where: str) -> Preference:
    """One row.

    Args:
        rows: which kind of example is wanted.
        where: the row's place, for messages.

    Raises:
        TaskError: the row is not of the kind that is wanted, or a value is of the wrong type.
    """
    if not isinstance(value, Mapping):
        raise TaskError(f"{where} is {type(value).__name__}, not an object")
    refuse_left_out_row(value, where)
    row = _plainly_spelt(value, where)
    pair = "chosen" in row and "rejected" in row
    if rows != "pointwise" and pair:
        return _pair(row, where)
    if rows != "pairwise" and "label" in row:
        return _labelled(row, where)
    pairs = "`chosen` and `rejected` (with `prompt`, or with the prompt inside)"
    labels = "`label` with `messages`, or with `prompt` and `response`"
    wanted = {"pairwise": pairs, "pointwise": labels, "either": f"{labels}; or {pairs}"}[rows]
    have = ", ".join(map(str, list(value)[:20])) or "no keys"
    hint = ""
    if rows == "pairwise" and "label" in row:
        hint = ". Responses with a label are for objectives of labels (pointwise reward models, kto)"
    elif pair:
        hint = ". Pairs are for objectives of pairs (pairwise reward models, dpo and others)"
    raise TaskError(f"{where} has {have}, but {rows} examples need {wanted}{hint}")


def _plainly_spelt(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row with the keys of its pair as this file has them."""
    row = dict(value)
    for key, others in SPELLINGS.items():
        if row.get(key) is None and (given := next((row[other] for other in others if row.get(other)), None)):
            row[key] = given
    if row.get("prompt") is value.get("instruction") and isinstance(row.get("prompt"), str) and row.get("input"):
        row["prompt"] = f"{row['prompt']}\n{row['input']}"
    if isinstance(row.get("prompt"), Mapping):  # OpenAI's rows have more beside the messages
        row["prompt"] = row["prompt"].get("messages")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise TaskError(f"{where}: `system` must be a text, not {type(system).__name__}")
    return row


def _with_system(prompt: tuple[Message, ...], row: Mapping[str, Any]) -> tuple[Message, ...]:
    system = row.get("system")
    if not system or not system.strip() or prompt[0]["role"] == "system":
        return prompt
    return ({"role": "system", "content": system}, *prompt)


def _pair(value: Mapping[str, Any], where: str) -> Preference:
    prompt = _messages(value["prompt"], f"{where}: `prompt`") if value.get("prompt") is not None else None
    chosen, rejected = (_response(value[key], prompt, f"{where}: `{key}`") for key in ("chosen", "rejected"))
    unusable = None
    if chosen[0] != rejected[0]:
        unusable = PROMPTS_DIFFER
    elif chosen[1] == rejected[1]:
        unusable = EQUAL
    else:
        unusable = _by_scores(value, where)
    rule = value.get("rule") if value.get("synthetic") else None
    prompt = _with_system(chosen[0], value)
    return Preference(prompt, (chosen[1], rejected[1]), None, _rule(rule, value), where, unusable)


def _rule(rule: object, value: Mapping[str, Any]) -> str | None:
    if not value.get("synthetic"):
        return None
    return rule if isinstance(rule, str) and rule else "not named"


def _by_scores(value: Mapping[str, Any], where: str) -> str | None:
    """What the scores of both responses say, where a row has them (`score_chosen`, `score_rejected`)."""
    scores = [value.get(key) for key in ("score_chosen", "score_rejected")]
    if any(score is None for score in scores):
        return None
    if any(isinstance(score, bool) or not isinstance(score, int | float) for score in scores):
        raise TaskError(f"{where}: `score_chosen` and `score_rejected` must be numbers, not {scores}")
    better, worse = scores
    return TIE if better == worse else REVERSED if better < worse else None  # type: ignore[operator]


def _labelled(value: Mapping[str, Any], where: str) -> Preference:
    label = _label(value["label"], where)
    if "messages" in value:
        messages = _messages(value["messages"], f"{where}: `messages`")
        if messages[-1]["role"] != "assistant":
            raise TaskError(f"{where}: the last of `messages` must be the assistant's response")
        _refuse_left_out(value["messages"], f"{where}: `messages`")
        prompt, response = messages[:-1], messages[-1]["content"]
    else:
        key = next((key for key in ("response", "completion") if key in value), None)
        if key is None or value.get("prompt") is None:
            have = ", ".join(map(str, list(value)[:20]))
            raise TaskError(f"{where} has {have}; a labelled row needs `messages`, or `prompt` and `response`")
        prompt, response = _response(value[key], _messages(value["prompt"], f"{where}: `prompt`"), f"{where}: `{key}`")
    rule = _rule(value.get("rule"), value)
    return Preference(_with_system(prompt, value), (response,), label, rule, where, None)


def _label(given: object, where: str) -> int:
    if isinstance(given, str) and given.strip().lower() in LABELS:
        return LABELS[given.strip().lower()]
    if isinstance(given, bool | int | float) and given in (0, 1):
        return int(given)
    words = ", ".join(f"`{word}`" for word in LABELS)
    raise TaskError(f"{where}: `label` is {given!r}; allowed are true, false, 1, 0, {words}")


def _response(value: object, prompt: tuple[Message, ...] | None, where: str) -> tuple[tuple[Message, ...], str]:
    """(prompt, response) from a response that may hold the prompt too."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and prompt is not None:
        return prompt, value
    messages = _transcript(value, where) if isinstance(value, str) else _messages(value, where)
    if messages[-1]["role"] != "assistant":
        raise TaskError(f"{where} must end with a turn of the assistant, not of `{messages[-1]['role']}`")
    _refuse_left_out(value, where)
    before, response = messages[:-1], messages[-1]["content"]
    if prompt is not None:
        # Some sets repeat the prompt's messages before the response, others give the response alone.
        if before and before != prompt[-len(before) :]:
            return before, response  # shows as another prompt than the other response's, unless both say so
        return prompt, response
    if not before:
        raise TaskError(f"{where} holds a response and no prompt; give the prompt as `prompt`, or inside")
    return before, response


def _refuse_left_out(messages: object, where: str) -> None:
    """Raise TaskError where the last message, the response, says of itself that it is not to be trained on."""
    last = messages[-1] if isinstance(messages, Sequence) else None
    if isinstance(last, Mapping) and (key := left_out_by(last, where)):
        raise TaskError(f"{where}: the response is not to be trained on, by its `{key}`: remove the row")


def _messages(value: object, where: str) -> tuple[Message, ...]:
    """Messages of a list, or one user's turn (or a transcript) of a text."""
    if isinstance(value, str):
        if _TURN.match(value):
            turns = _transcript(value, where)
            # A prompt may end with "Assistant:", which the response is to follow.
            return turns if len(turns) == 1 or turns[-1]["content"] else turns[:-1]
        if not value.strip():
            raise TaskError(f"{where} is empty")
        return ({"role": "user", "content": value},)
    if not isinstance(value, Sequence) or not value:
        raise TaskError(f"{where} must be a text or a list of messages, not {type(value).__name__}")
    messages = []
    for message in value:
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        content = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise TaskError(f'{where}: a message is {{"role": text, "content": text}}, not {str(message)[:100]}')
        role = {"human": "user", "gpt": "assistant"}.get(role, role)
        messages.append({"role": role, "content": content})
    return tuple(messages)


def _transcript(text: str, where: str) -> tuple[Message, ...]:
    r"""The turns of "\n\nHuman: … \n\nAssistant: …"."""
    found = list(_TURN.finditer(text))
    if not found or text[: found[0].start()].strip():
        raise TaskError(
            f"{where} is a text without a `prompt` beside it and no transcript that begins with `Human:`; give the "
            "prompt as `prompt`, messages, or a transcript"
        )
    ends = [match.start() for match in found[1:]] + [len(text)]
    return tuple(
        {"role": _ROLES[match[1]], "content": text[match.end() : end].strip()}
        for match, end in zip(found, ends, strict=True)
    )
