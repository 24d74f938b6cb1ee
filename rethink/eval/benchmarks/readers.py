"""Rows of each data set, in the hub's schema or in that of a plain file (`question`, `answer`, extras), as problems."""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from rethink.eval.benchmark import Row, SchemaError, Values
from rethink.eval.grading.ifeval.instructions import check_instruction
from rethink.seeds import draw
from rethink.tasks.answers import read_gold

LETTERS = "ABCDEFGHIJ"
LIVECODEBENCH_WINDOW = ("2024-08-01", "2025-01-31")
"""Contest dates that the paper evaluates on (August 2024 to January 2025)."""
MAX_TESTS_BYTES = 64 << 20
"""Largest unpacked test set of one programming problem."""
_IDS = ("id", "unique_id", "question_id", "task_id", "Record ID", "key", "ID")


def read_math(row: Values) -> Row:
    """`question` or `problem`, and `answer` (a number, an expression, or a solution that ends in `####` or a box)."""
    return Row(
        question=_text(row, "question", "problem", "Problem"),
        answer=_gold(row, "answer", "Answer", "golden", "answer_number"),
        id=_id(row),
        group=_group(row, "subject", "grade", "language", "config"),
    )


def read_choice(row: Values) -> Row:
    """`question`, `choices` or `options` (or keys `A` … `D`), and `answer` as a letter or an index from 0."""
    question = _text(row, "question")
    choices = _choices(row)
    return _choice_row(row, question, choices, _letter(row, len(choices)))


def read_redux(row: Values) -> Row | None:
    """MMLU-Redux: as `read_choice`, without the rows that its reviewers found to be wrong."""
    if row.get("error_type", "ok") != "ok":
        return None
    return read_choice(row)


def read_gpqa(row: Values) -> Row:
    """GPQA's own columns, the four options in an order that the question alone decides; or as `read_choice`."""
    if "choices" in row or "options" in row:
        return read_choice(row)
    question = _text(row, "Question").strip()
    right = _text(row, "Correct Answer").strip()
    options = [right, *(_text(row, f"Incorrect Answer {i}").strip() for i in (1, 2, 3))]
    order = [0, 1, 2, 3]
    random.Random(draw("gpqa", question)).shuffle(order)
    return _choice_row(row, question, [options[i] for i in order], LETTERS[order.index(0)], "High-level domain")


def read_drop(row: Values) -> Row:
    """`passage`, `question`, and the accepted answers: `answers_spans.spans`, `answers`, or `answer`.

    An accepted answer is a text, or a list of texts that belong together. `answer` and `validated_answers` may also be
    objects as in DROP's own files (`number`, `date`, `spans`). The hub's `answers_spans` lists all spans of all
    annotators, and each counts as an answer: which of them belong together is not told there.
    """
    given = row.get("answers_spans", row.get("answers", row.get("answer")))
    if isinstance(given, Mapping) and "answers_spans" in row:
        given = given.get("spans")
    elif isinstance(given, Mapping):
        validated = row.get("validated_answers") or []
        if isinstance(validated, Mapping):  # a table: one list a key
            validated = [dict(zip(validated, one, strict=True)) for one in zip(*validated.values(), strict=True)]
        given = [spans for one in (given, *validated) if (spans := _drop_spans(one))]
    answers = [given] if isinstance(given, str) else given
    if not isinstance(answers, Sequence) or not answers or not all(map(_is_drop_answer, answers)):
        raise SchemaError(
            "`answers_spans.spans` (or `answers`) must be a list of texts, or of lists of texts that belong together, "
            f"not {given!r:.200}"
        )
    plain = [answer.strip() if isinstance(answer, str) else [span.strip() for span in answer] for answer in answers]
    unique = [answer for i, answer in enumerate(plain) if answer not in plain[:i]]
    shown = " | ".join(answer if isinstance(answer, str) else ", ".join(answer) for answer in unique)
    question = f"{_text(row, 'passage').strip()}\n{_text(row, 'question').strip()}"
    return Row(question, shown, _id(row) or _str(row.get("query_id")), {"answers": unique})


def _is_drop_answer(answer: object) -> bool:
    spans = [answer] if isinstance(answer, str) else answer
    return isinstance(spans, list) and bool(spans) and all(isinstance(span, str) and span.strip() for span in spans)


def _drop_spans(answer: object) -> str | list[str] | None:
    """What an annotator's answer in DROP's own form says; None where it is empty."""
    if not isinstance(answer, Mapping):
        raise SchemaError(f"an answer must be an object with `number`, `date` and `spans`, not {answer!r:.80}")
    if number := str(answer.get("number") or "").strip():
        return number
    spans = answer.get("spans")
    if isinstance(spans, list) and spans:
        return spans[0] if len(spans) == 1 else spans
    date = answer.get("date")
    parts = (
        [str(date.get(part) or "").strip() for part in ("day", "month", "year")] if isinstance(date, Mapping) else []
    )
    return " ".join(part for part in parts if part) or None


def read_ifeval(row: Values) -> Row:
    """`prompt` (or `question`), `instruction_id_list` and `kwargs`, one mapping an instruction."""
    kinds, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(kinds, list) or not isinstance(given, list) or len(kinds) != len(given) or not kinds:
        raise SchemaError("`instruction_id_list` and `kwargs` must be lists of the same length, not empty")
    for kind, arguments in zip(kinds, given, strict=True):
        wrong = check_instruction(kind, arguments)
        if wrong:
            raise SchemaError(wrong)
    arguments_only = [{k: v for k, v in arguments.items() if v is not None} for arguments in given]
    metadata = {"instructions": kinds, "arguments": arguments_only}
    return Row(_text(row, "prompt", "question"), None, _id(row), metadata)


def read_wsc(row: Values) -> Row:
    """CLUEWSC 2020: `text`, `target` with the two spans, `label` (0 or `true`: the pronoun means the noun)."""
    target = row.get("target")
    if not isinstance(target, Mapping):
        raise SchemaError(f"`target` must be an object with span1_text and span2_text, not {target!r}")
    noun, pronoun = _text(target, "span1_text"), _text(target, "span2_text")
    label = row.get("label")
    # The hub's class label is 0 for `true`; the original files spell it out.
    truth = {"0": True, "1": False, "true": True, "false": False}.get(str(label).lower())
    if truth is None or isinstance(label, bool):
        raise SchemaError(f"`label` must be 0 or 1, `true` or `false` as a text, not {label!r:.80}")
    question = f"{_text(row, 'text').strip()}\n上面这段话里，代词“{pronoun}”指的是“{noun}”吗？"
    return Row(question, "是" if truth else "否", _id(row) or _str(row.get("idx")))


def read_short(row: Values) -> Row:
    """`problem` or `question`, and `answer`, a short text."""
    return Row(_text(row, "problem", "question"), _text(row, "answer").strip(), _id(row))


def read_humaneval(row: Values) -> Row:
    """`prompt`, `test`, `entry_point`."""
    metadata = {key: _text(row, key) for key in ("prompt", "test", "entry_point")}
    return Row(metadata["prompt"], None, _id(row), metadata)


def read_mbpp(row: Values) -> Row:
    """`prompt` (or `text`, `question`), `test_list`, `test_imports`, `test_setup_code`. The question has the tests."""
    tests, imports = _texts(row, "test_list"), _texts(row, "test_imports", optional=True)
    before = row.get("test_setup_code") or ""
    if not isinstance(before, str):
        raise SchemaError(f"`test_setup_code` must be a text, not {before!r:.80}")
    if not tests:
        raise SchemaError("`test_list` is empty")
    question = f"{_text(row, 'prompt', 'text', 'question')}\nYour code should pass these tests:\n\n" + "\n".join(tests)
    metadata = {"test_list": tests, "test_imports": imports} | ({"test_setup_code": before} if before else {})
    return Row(question, None, _id(row), metadata)


def read_livecodebench(row: Values) -> Row | None:
    """`question_content`, `starter_code`, `public_test_cases`, `private_test_cases`; contests of the paper's window."""
    date = str(row.get("contest_date", ""))[:10]
    if date and not LIVECODEBENCH_WINDOW[0] <= date <= LIVECODEBENCH_WINDOW[1]:
        return None
    tests = _json_tests(_text(row, "public_test_cases"), "public_test_cases")
    if row.get("private_test_cases"):
        tests += _private_tests(_text(row, "private_test_cases"))
    starter = row.get("starter_code") or ""
    function = None
    if starter:
        function = json.loads(row.get("metadata") or "{}").get("func_name")
    asked = _text(row, "question_content", "question")
    if starter:
        how = f"Use this starter code and write the solution to it:\n```python\n{starter}\n```"
    else:
        how = "Read the inputs from standard input and write the answer to standard output."
    metadata = {"tests": tests, "func_name": function, "starter_code": starter}
    return Row(f"{asked}\n\n{how}", None, _id(row), metadata, str(row.get("difficulty", "")))


# --- parts ---------------------------------------------------------------------------------------------------------


def _text(row: Values, *keys: str) -> str:
    """The first of the keys that the row has; a text that is not empty."""
    for key in keys:
        if key in row:
            value = row[key]
            if not isinstance(value, str) or not value.strip():
                raise SchemaError(f"`{key}` must be a text that is not empty, not {value!r:.80}")
            return value
    have = ", ".join(map(str, list(row)[:20])) or "no keys"
    raise SchemaError(f"no key `{'` or `'.join(keys)}` (it has {have})")


def _texts(row: Values, key: str, *, optional: bool = False) -> list[str]:
    value = row.get(key, [] if optional else None)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SchemaError(f"`{key}` must be a list of texts, not {value!r:.80}")
    return value


def _gold(row: Values, *keys: str) -> str | None:
    """A gold that cannot be read is None: then the grader abstains. A missing key is an error."""
    for key in keys:
        if key in row:
            return read_gold(row[key], "auto")
    have = ", ".join(map(str, list(row)[:20])) or "no keys"
    raise SchemaError(f"no key `{keys[0]}` (it has {have})")


def _id(row: Values) -> str | None:
    return next((_str(row[key]) for key in _IDS if row.get(key) is not None), None)


def _str(value: object) -> str | None:
    return None if value is None else str(value)


def _group(row: Values, *keys: str) -> str:
    return next((str(row[key]) for key in keys if row.get(key) is not None), "")


def _choices(row: Values) -> list[str]:
    choices = row.get("choices", row.get("options"))
    if choices is None and "A" in row:
        choices = [row[letter] for letter in LETTERS if row.get(letter) is not None]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise SchemaError(f"`choices` (or `options`) must be a list of 2 to {len(LETTERS)} texts, not {choices!r:.80}")
    return [str(choice).strip() for choice in choices]


def _letter(row: Values, number: int) -> str:
    value = row.get("answer", row.get("answer_index"))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < number:
        return LETTERS[value]
    text = str(value).strip().upper()
    if len(text) == 1 and text in LETTERS[:number]:
        return text
    raise SchemaError(f"`answer` must be a letter up to {LETTERS[number - 1]} or an index from 0, not {value!r:.80}")


def _choice_row(row: Values, question: str, choices: Sequence[str], letter: str, group: str = "subject") -> Row:
    options = "\n".join(f"{LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
    where = _group(row, group, "subject", "category", "config")
    return Row(f"{question.strip()}\n\n{options}", letter, _id(row), {"choices": list(choices)}, where)


def _json_tests(text: str, key: str) -> list[dict[str, Any]]:
    try:
        tests = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"`{key}` is not JSON ({error})") from error
    if not isinstance(tests, list) or not all(isinstance(t, Mapping) and {"input", "output"} <= set(t) for t in tests):
        raise SchemaError(f"`{key}` must be a list of objects with input and output")
    return [{k: str(t.get(k, "stdin")) for k in ("input", "output", "testtype")} for t in tests]


def _private_tests(text: str) -> list[dict[str, Any]]:
    """LiveCodeBench packs them as base64, zlib and a pickle of one text; the pickle is read, never executed."""
    if text.lstrip().startswith("["):
        return _json_tests(text, "private_test_cases")
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=False), MAX_TESTS_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {MAX_TESTS_BYTES >> 20} MiB")
        strings = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    except (binascii.Error, zlib.error, ValueError) as error:
        raise SchemaError(f"`private_test_cases` cannot be unpacked ({error})") from error
    if len(strings) != 1:
        raise SchemaError(f"`private_test_cases` must hold one text, not {len(strings)}")
    return _json_tests(strings[0], "private_test_cases")
