"""Prompts are what the recipe says, to the character; completions are parsed the same whatever they hold."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import ModelError, RecipeError, TaskError
from rethink.model.notes import note_once
from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.r1_template import R1_ZERO_TEMPLATE, render_r1_zero
from rethink.model.text.thoughts import END_ANSWER, END_THINK, ParsedCompletion, parse_completion
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.schema import Example, PromptSection
from rethink.types import Problem
from tests.conftest import CHATML

Fields = Callable[[str, str], dict[str, Any]]
PROBLEM = Problem("sum/train/3", "sum", "What is 2 + 3?", "5")

# text, prefill, thought, answer, well formed
PARSED: list[tuple[str, str, str | None, str | None, bool]] = [
    ("<think> a </think> <answer> 5 </answer>", "", "a", "5", True),
    ("<think>a</think><answer>5</answer>", "", "a", "5", True),
    (" \n<think>a\nb</think>\n\n<answer>5</answer>\n ", "", "a\nb", "5", True),
    ("<think></think><answer></answer>", "", "", "", True),
    # the prompt began the turn
    ("a</think><answer>5</answer>", "<think>", "a", "5", True),
    (" a </think>\n<answer>5</answer>", "\n<think>\n", "a", "5", True),
    ("<think>a</think><answer>5</answer>", "<think>", "<think>a", "5", False),
    ("a</think><answer>5</answer>", "Let me see. <think>", "a", "5", False),
    # nothing, or parts
    ("", "", None, None, False),
    ("", "<think>", None, None, False),
    ("5", "", None, None, False),
    ("<answer>5</answer>", "", None, "5", False),
    ("<think>a</think>", "", "a", None, False),
    ("<think>a</think> 5", "", "a", None, False),
    ("a</think><answer>5</answer>", "", None, "5", False),
    ("<think>a<answer>5</answer>", "", None, None, False),  # never stopped thinking
    ("<think>a <answer>4</answer></think>", "", "a <answer>4</answer>", None, False),
    ("<think>a</think><answer>5", "", "a", None, False),
    ("<think>a</think>5</answer>", "", "a", None, False),
    ("<think>a</think></answer>5<answer>", "", "a", None, False),
    ("<answer>5</answer><think>a</think>", "", "a", None, False),  # an answer before its thought does not count
    # more than one
    ("<think>a</think><answer>4</answer><answer>5</answer>", "", "a", "5", False),
    ("<think>a</think><answer>4<answer>5</answer>", "", "a", "5", False),
    ("<think>a</think><answer>5</answer><answer>", "", "a", "5", False),
    ("<think>a</think><think>b</think><answer>5</answer>", "", "a", "5", False),
    ("<think>a<think>b</think><answer>5</answer>", "", "a<think>b", "5", False),
    ("<think>a</think></think><answer>5</answer>", "", "a", "5", False),
    ("<think>a <answer>4</answer></think><answer>5</answer>", "", "a <answer>4</answer>", "5", False),
    # text around
    ("So: <think>a</think><answer>5</answer>", "", "a", "5", False),
    ("<think>a</think> therefore <answer>5</answer>", "", "a", "5", False),
    ("<think>a</think><answer>5</answer> done", "", "a", "5", False),
    # spellings that are no tags
    ("<THINK>a</THINK><ANSWER>5</ANSWER>", "", None, None, False),
    ("< think>a</ think><answer >5</answer >", "", None, None, False),
    ("<think>a</think><answer>5</answer", "", "a", None, False),
    ("<think>a</think><answer>x < 5 > y & {z}</answer>", "", "a", "x < 5 > y & {z}", True),
    ("<think>\x00\ud7ff\ufffd</think><answer>٥\u202e</answer>", "", "\x00\ud7ff\ufffd", "٥\u202e", True),
]


@pytest.mark.parametrize(("text", "prefill", "thought", "answer", "well_formed"), PARSED)
def test_completion_is_parsed(
    text: str, prefill: str, thought: str | None, answer: str | None, well_formed: bool
) -> None:
    assert parse_completion(text, prefill) == ParsedCompletion(thought, answer, well_formed)


TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


@given(
    parts=st.lists(st.sampled_from([*TAGS, "a", " ", "\n", "<", ">", "</", "5"]), max_size=14),
    cut=st.integers(0, 14),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_arrangement_of_tags(parts: list[str], cut: int) -> None:
    whole = "".join(parts)
    parsed = parse_completion("".join(parts[cut:]), "".join(parts[:cut]))
    assert parsed == parse_completion(whole)  # where the prompt ends makes no difference
    order = [part for part in parts if part in TAGS]
    if parsed.well_formed:
        assert order == TAGS
        assert parsed.thought is not None
        assert parsed.answer is not None
    if parsed.thought is not None:
        assert parsed.thought in whole
        assert END_THINK not in parsed.thought
    if parsed.answer is not None:
        assert parsed.answer in whole
        assert "<answer>" not in parsed.answer


@pytest.mark.parametrize(
    "text",
    [
        *(tag * 200_000 for tag in TAGS),
        "<think><answer>" * 100_000,
        "<answer>" * 100_000 + "</answer>" * 100_000,
        "<think>" + "</answer><answer>" * 100_000,
        "<think></think>" + "<" * 2_000_000,
        " " * 2_000_000 + "<think>",
    ],
    ids=lambda text: f"{text[:16]}…{text[-9:]}",
)
def test_time_is_linear_in_the_length(text: str) -> None:
    started = time.perf_counter()
    parse_completion(text)
    assert time.perf_counter() - started < 2  # a quadratic search takes minutes


# --- rendering ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer_with(vocabulary_fields: Fields) -> Callable[[str | None], Tokenizer]:
    """The small tokenizer with another chat template."""

    def make(template: str | None) -> Tokenizer:
        fields = vocabulary_fields("gpt2", "qwen2")
        fields.pop("tokenizer.chat_template")
        return Tokenizer.from_gguf_fields(fields | ({} if template is None else {"tokenizer.chat_template": template}))

    return make


def section(**values: Any) -> PromptSection:
    return PromptSection(**values)


EXAMPLES = (Example(question="1 + 1?", completion="<think>easy</think> <answer>2</answer>"),)


def test_chat_prompt_is_the_template_then_the_prefill(small_tokenizer: Tokenizer) -> None:
    values = section(system="Be brief.", instruction="Q: {question} A:", examples=EXAMPLES, prefill="<think>")
    prompt = PromptRenderer(small_tokenizer, values, 512).render(PROBLEM)
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nQ: 1 + 1? A:<|im_end|>\n"
        "<|im_start|>assistant\n<think>easy</think> <answer>2</answer><|im_end|>\n"
        "<|im_start|>user\nQ: What is 2 + 3? A:<|im_end|>\n"
        "<|im_start|>assistant\n<think>"
    )
    assert prompt.prefill == "<think>"
    assert list(prompt.token_ids) == small_tokenizer.encode(prompt.text)


def test_r1_zero_prompt_is_the_papers_template(small_tokenizer: Tokenizer) -> None:
    prompt = PromptRenderer(small_tokenizer, section(template="r1-zero"), 512).render(PROBLEM)
    assert prompt.text == R1_ZERO_TEMPLATE.replace("User: prompt", "User: What is 2 + 3?")
    prefilled = PromptRenderer(small_tokenizer, section(template="r1-zero", prefill="<think>"), 512).render(PROBLEM)
    assert prefilled.text == prompt.text + " <think>"
    assert prefilled.prefill == "<think>"


def test_r1_zero_examples_are_earlier_turns() -> None:
    text = render_r1_zero("b?", [("a?", "1"), ("{question}", " 2")], "\n")
    turns = text[text.index("User: a") :]
    assert turns == "User: a?. Assistant: 1\nUser: {question}. Assistant: 2\nUser: b?. Assistant:\n"


def test_raw_prompt_is_the_instruction_alone(small_tokenizer: Tokenizer) -> None:
    values = section(template="raw", instruction="Q: {question}\nA:", examples=EXAMPLES, prefill=" <think>")
    prompt = PromptRenderer(small_tokenizer, values, 512).render(PROBLEM)
    asked = "Q: 1 + 1?\nA:<think>easy</think> <answer>2</answer>\n\nQ: What is 2 + 3?\nA: <think>"
    assert prompt.text == asked


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("template", ["raw", "r1-zero", "chat"])
def test_texts_begin_with_the_token_that_the_model_expects(
    vocabulary_fields: Fields, template: Any, adds: bool
) -> None:
    fields = vocabulary_fields("gpt2", "qwen2") | {"tokenizer.ggml.add_bos_token": adds}
    tokenizer = Tokenizer.from_gguf_fields(fields)
    assert tokenizer.adds_bos is adds
    prompt = PromptRenderer(tokenizer, section(template=template), 512).render(PROBLEM)
    if template == "chat":  # it writes its own: here, the same token before each turn
        assert prompt.text.startswith("<|im_start|>user")
        return
    assert prompt.text.startswith("<|im_start|>") is adds
    assert [place for place, token in enumerate(prompt.token_ids) if token == tokenizer.bos_id] == [0] * adds


@pytest.mark.parametrize("question", ["{question}", "{0} {x!r} %s", "{{ 7 * 7 }}{% raw %}", "\\boxed{1} $&", ""])
@pytest.mark.parametrize("template", ["chat", "r1-zero", "raw"])
def test_questions_are_never_formatted(small_tokenizer: Tokenizer, template: Any, question: str) -> None:
    values = section(template=template, instruction="<<{question}>>")
    prompt = PromptRenderer(small_tokenizer, values, 512).render(Problem("x", "x", question, None))
    assert f"<<{question}>>" in prompt.text


def test_question_stands_wherever_its_place_is_written(small_tokenizer: Tokenizer) -> None:
    values = section(template="raw", instruction="{question}|{question}")
    assert PromptRenderer(small_tokenizer, values, 512).render(PROBLEM).text.count(PROBLEM.question) == 2


def test_think_that_the_template_opens_belongs_to_the_assistants_turn(
    tokenizer_with: Callable[[str], Tokenizer],
) -> None:
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.content }}|{% endfor %}{{ '<think>\n' }}")
    prompt = PromptRenderer(tokenizer, section(prefill="Well,"), 512).render(PROBLEM)
    assert prompt.text == "What is 2 + 3?|<think>\nWell,"
    assert prompt.prefill == "<think>\nWell,"
    assert parse_completion(" a</think><answer>5</answer>", prompt.prefill).well_formed
    with pytest.raises(ModelError, match="already begins the assistant's turn with <think>"):
        PromptRenderer(tokenizer, section(prefill=" <think>"), 512)


@pytest.mark.parametrize("closed", ["<think>\n\n</think>\n\n", "<think></think>", "<think>\nNone.\n</think>\n"])
def test_a_thought_that_the_template_closes_is_not_opened_again(
    tokenizer_with: Callable[[str], Tokenizer], capsys: pytest.CaptureFixture[str], closed: str
) -> None:
    tokenizer = tokenizer_with(CHATML.replace("assistant\n{% endif %}", f"assistant\n{closed}{{% endif %}}"))
    for prefill in ("<think>", "\n<think>\n", "Let me see. <think>"):
        with pytest.raises(ModelError, match=r"the GGUF file has already closed the thought .*prompt\.prefill"):
            PromptRenderer(tokenizer, section(prefill=prefill), 512)
    for _ in range(2):
        prompt = PromptRenderer(tokenizer, section(), 512).render(PROBLEM)
        assert prompt.text.count("<think>") == 1
    assert capsys.readouterr().err.count("behind a closed thought") <= 1
    # a question about tags is no such thing
    asked = Problem("p", "t", "What is <think>x</think>", "5")
    plain = PromptRenderer(tokenizer_with(CHATML), section(prefill="<think>"), 512).render(asked)
    assert plain.prefill == "<think>"


def test_a_template_without_a_generation_prompt_is_named_once(
    tokenizer_with: Callable[[str], Tokenizer], capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    without = CHATML.partition("{% if add_generation_prompt %}")[0]
    inline = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
    inline += "</s>{% endif %}{% endfor %}"
    for template in (CHATML, inline, CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")):
        PromptRenderer(tokenizer_with(template), section(), 512)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        PromptRenderer(tokenizer_with(without), section(), 512)
    said = capsys.readouterr().err
    assert said.count("the chat template of the GGUF file has no generation prompt") == 1
    assert "'<|im_start|>assistant'" in said


def test_template_that_cuts_thoughts_out_still_shows_the_example(tokenizer_with: Callable[[str], Tokenizer]) -> None:
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.content.split('</think>')[-1] }}|{% endfor %}")
    prompt = PromptRenderer(tokenizer, section(examples=EXAMPLES), 512).render(PROBLEM)
    assert prompt.text == f"1 + 1?|{EXAMPLES[0].completion}|What is 2 + 3?|"


@pytest.mark.parametrize(
    "template",
    ["{{ messages[-1].content }}", "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"],
    ids=["drops", "repeats"],
)
def test_template_that_loses_examples_is_refused_at_once(
    tokenizer_with: Callable[[str], Tokenizer], template: str
) -> None:
    with pytest.raises(ModelError, match=r"drops or repeats .*r1-zero or raw"):
        PromptRenderer(tokenizer_with(template), section(examples=EXAMPLES), 512)


def test_model_without_a_template_is_refused_for_chat_alone(
    tokenizer_with: Callable[[str | None], Tokenizer],
) -> None:
    tokenizer = tokenizer_with(None)
    with pytest.raises(ModelError, match=r"no chat template .*r1-zero"):
        PromptRenderer(tokenizer, section(), 512)
    assert PromptRenderer(tokenizer, section(template="raw"), 512).render(PROBLEM).text.endswith(PROBLEM.question)


def test_template_that_refuses_the_system_message_is_refused_at_once(
    tokenizer_with: Callable[[str], Tokenizer],
) -> None:
    tokenizer = tokenizer_with(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}"
    )
    assert PromptRenderer(tokenizer, section(), 512).render(PROBLEM).text == PROBLEM.question
    with pytest.raises(ModelError, match="no system"):
        PromptRenderer(tokenizer, section(system="x"), 512)


def test_instruction_without_a_place_for_the_question_is_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(RecipeError, match=r"does not hold `\{question\}`"):
        PromptRenderer(small_tokenizer, section(instruction="Solve it."), 512)


@pytest.mark.parametrize("template", ["r1-zero", "raw"])
def test_system_message_without_a_chat_template_is_refused(small_tokenizer: Tokenizer, template: Any) -> None:
    with pytest.raises(RecipeError, match="no place in the template"):
        PromptRenderer(small_tokenizer, section(template=template, system=""), 512)


def test_limits_on_the_prompts_length(small_tokenizer: Tokenizer) -> None:
    size = len(small_tokenizer.encode(PROBLEM.question)) + int(small_tokenizer.adds_bos)
    render = lambda context, **values: PromptRenderer(  # noqa: E731
        small_tokenizer, section(template="raw", **values), context
    ).render(PROBLEM)
    assert len(render(512, max_tokens=size).token_ids) == size
    assert len(render(size + 1).token_ids) == size  # room for one token
    with pytest.raises(TaskError, match=rf"'sum/train/3' has {size} tokens where prompt.max_tokens allows {size - 1}"):
        render(512, max_tokens=size - 1)
    with pytest.raises(TaskError, match=rf"the context of {size} tokens leaves at most {size - 1}"):
        render(size)
    with pytest.raises(TaskError, match=rf"the context of {size} tokens leaves at most {size - 1}"):
        render(size, max_tokens=100)


def test_end_tags_are_those_of_the_template() -> None:
    assert f"<think> reasoning process here {END_THINK}" in R1_ZERO_TEMPLATE
    assert f"<answer> answer here {END_ANSWER}" in R1_ZERO_TEMPLATE
