"""Curated samples as a recipe, `kind: samples`: cold-start data and rejection sampling (arXiv 2501.12948, 2.3).

A *problem* is one question of the tasks; `sampling.per_problem` samples are drawn for each. A *part* is the unit that
is sampled and written at once: `sampling.prompts_per_batch` problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from rethink.recipe.base import AskingRecipe
from rethink.recipe.schema import Counts, EndpointSection, PromptSection, RewardPart, RewardSection, Section

REWRITE = """\
Rewrite the solution below so that a person reads it with ease: whole sentences, short paragraphs, one language, nothing
said twice, no code. Keep its steps and its result. Write the reasoning between <think> and </think>, then the result
alone between <answer> and </answer>, and nothing else.

Question:
{question}

Solution:
{completion}"""


class SamplingSection(Section):
    """How samples are drawn."""

    per_problem: int = Field(default=4, gt=0)
    """Samples per problem."""
    prompts_per_batch: int = Field(default=16, gt=0)
    """Problems that are sampled and written at once: Ctrl-C waits for them, and a kill loses at most this many."""
    max_new_tokens: int = Field(default=512, gt=0)
    """Token limit of a sample."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy and allowed only with one sample per problem."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass."""
    top_k: int = Field(default=0, ge=0)
    """Number of most likely tokens kept; 0 keeps all."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end a sample, in addition to the model's end-of-turn tokens."""
    max_concurrent: int | None = Field(default=None, gt=0)
    """Sequences decoded at once; None: what the KV budget allows."""
    kv_budget_gb: float | None = Field(default=None, gt=0)
    """Memory for keys and values (GiB); None: a share of the free memory at start."""


class FilterSection(Section):
    """Filters; each dropped sample is stored with its reason. `docs/curation.md` defines the measures."""

    correct: str | None = "accuracy"
    """Reward function whose score must be 1; None: answers are not checked."""
    format: str | None = "format"
    """Reward function whose score must be 1; None: any format."""
    language: float | None = Field(default=0.9, ge=0, le=1)
    """Lowest score of the reward function `language` (a thought without words passes); None: any."""
    truncated: bool = True
    """Drop samples cut at the token limit."""
    tags: bool = True
    """Drop samples with stray tags: any beyond one thought and one answer, and tokens of chat templates."""
    code: bool = True
    """Drop samples with code blocks. False for tasks whose answer is code."""
    repetition: float | None = Field(default=0.2, ge=0, le=1)
    """Largest share of repeated 8-grams; None: any."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest sample; None: any length."""
    paragraph_words: int | None = Field(default=300, gt=0)
    """Longest paragraph; None: any length."""
    duplicate: float | None = Field(default=0.95, gt=0, le=1)
    """Samples of one problem with at least this similarity (shared 3-grams of words) count as one; 1: only equal ones;
    None: all are kept."""


class ChoiceSection(Section):
    """Selection among the good samples of a problem."""

    rule: Literal["all", "first", "shortest", "diverse", "judged"] = "all"
    """`all`; `first` by index; `shortest` in tokens; `diverse`: least similar, starting with the shortest; `judged`: by
    the score of `judge`."""
    keep: int = Field(default=1, gt=0)
    """Samples kept per problem by every rule except `all`."""


class JudgeSection(Section):
    """A model behind an endpoint that scores answers that rules cannot check."""

    params: dict[str, Any] = Field(default_factory=dict)
    """Options of the reward function `judge` (`url`, `model`, …); empty: no judge."""
    least: float = Field(default=0.8, ge=0, le=1)
    """Lowest accepted score for an answer whose gold answer the rules cannot read."""


class TeacherSection(EndpointSection):
    """The model that rewrites the kept samples. A rewritten answer is checked again, and the original is kept too."""

    model: str | None = None
    """Name of the model at the endpoint, or, without `url`, `embedded`, a hub id, a folder or a GGUF file; None:
    nothing is rewritten."""
    url: Annotated[str | None, Counts.NEVER] = None
    """Base URL of an OpenAI-compatible endpoint, such as `http://127.0.0.1:8000/v1`; None: a local model."""
    seconds: Annotated[float, Counts.NEVER] = Field(default=120.0, gt=0)
    """Time limit of a request to the endpoint."""
    instruction: str = REWRITE
    """The request; `{question}`, `{completion}` and `{gold}` are replaced."""
    system: str | None = None
    """System message."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy."""
    max_tokens: int = Field(default=1024, gt=0)
    """Token limit of a rewritten sample."""


class GeneralSection(Section):
    """Data without reasoning that is mixed in, so that the model keeps its general abilities."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the mix (a quarter in the paper); 0: none."""
    path: str | None = None
    """A JSONL file of conversations (as `kind: sft` reads them); None: a model answers `prompts`."""
    prompts: str | None = None
    """A JSONL file with a `prompt` per row; None: the shipped list of general prompts."""
    model: str | None = None
    """The model that answers, as a rule the base model, so that its own style is kept; None: `model.path`."""
    prompt: PromptSection = PromptSection()
    """How a prompt is rendered for that model."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token limit of an answer."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature."""


class CurateRecipe(AskingRecipe):
    """Fine-tuning data: samples of a model (or a file), filtered, selected, balanced, rewritten and mixed."""

    kind: Literal["samples"] = "samples"
    """Kind of run."""
    problems: int = Field(default=1000, gt=0)
    """Number of distinct problems; fewer if the tasks have fewer."""
    endpoint: EndpointSection = EndpointSection()
    """A model behind an endpoint that is sampled instead."""
    source: str | None = None
    """A JSONL file of samples instead of a model: rows of `samples.jsonl`, conversations, or `question` (or `prompt`),
    `completion` and `gold`."""
    sampling: SamplingSection = SamplingSection()
    """How samples are drawn."""
    reward: RewardSection = RewardSection(
        parts=(RewardPart(name="accuracy"), RewardPart(name="format"), RewardPart(name="language"))
    )
    """Rewards of the samples; `filters` refer to them by name."""
    filters: FilterSection = FilterSection()
    """Filters of the samples."""
    choose: ChoiceSection = ChoiceSection()
    """Selection among the good samples of a problem."""
    judge: JudgeSection = JudgeSection()
    """A judge for answers that rules cannot check, and for the rule `judged`."""
    balance: float | None = Field(default=None, gt=0, le=1)
    """Largest share of one task among the kept samples; None: no limit."""
    teacher: TeacherSection = TeacherSection()
    """The model that rewrites the kept samples."""
    general: GeneralSection = GeneralSection()
    """Data without reasoning that is mixed in."""
    least: int = Field(default=1, ge=0)
    """Fewest kept samples of the tasks; with fewer the run fails and names the filter that dropped most."""

    @property
    def samples_here(self) -> bool:
        """Whether a local model is sampled, instead of an endpoint or a file."""
        return self.source is None and self.endpoint.model is None

    def token_limits(self) -> dict[str, int]:
        """The token limit of a sample, by its key; none where no model here is asked."""
        return {"sampling.max_new_tokens": self.sampling.max_new_tokens} if self.samples_here else {}

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from super().contradictions()
        yield from _problems(self)


def _problems(recipe: CurateRecipe) -> Iterator[str]:
    if not recipe.tasks and recipe.source is None:
        yield (
            "There are neither `tasks` nor a `source`, so there would be no samples. Give tasks that a model solves, "
            "or `source: samples.jsonl`."
        )
    if any(task.curriculum for task in recipe.tasks):
        yield "`tasks.N.curriculum` changes problems by step, and curation has no steps. Remove it; set `params`."
    sampling = recipe.sampling
    if sampling.temperature == 0 and sampling.per_problem > 1 and recipe.source is None:
        yield (
            f"`sampling.temperature` 0 would draw the same sample {sampling.per_problem} times. Use a temperature, "
            "such as the paper's 1, or `sampling.per_problem=1`."
        )
    if "" in sampling.stop_strings:
        yield "`sampling.stop_strings` holds an empty string, which would end every sample at once. Remove it."
    yield from _endpoint(recipe)
    yield from _filters(recipe)
    if recipe.choose.rule == "judged" and not recipe.judge.params:
        yield "`choose.rule` is `judged`, but there is no `judge`. Give `judge.params` a `url` and a `model`."
    if recipe.balance is not None and recipe.tasks and recipe.source is None:
        number = len(recipe.tasks)
        if recipe.balance * number < 1 - 1e-9:
            yield (
                f"`balance` {recipe.balance:g} cannot hold for {number} tasks: one of them has at least "
                f"{1 / number:.3g} of the samples. Use at least that; {1 / number:.3g} makes all equal."
            )
    teacher = recipe.teacher
    if teacher.model is None and teacher.url is not None:
        yield "`teacher.url` is given without `teacher.model`. Name the model that the endpoint serves."
    if "{completion}" not in teacher.instruction:
        yield "`teacher.instruction` has no `{completion}`, so the teacher would not see what it rewrites. Add it."
    general = recipe.general
    if general.share == 0 and (general.path or general.prompts or general.model):
        yield "`general` names data or a model, but its `share` is 0. Set `general.share=0.25`, or remove the rest."
    if general.path is not None and (general.prompts is not None or general.model is not None):
        yield "`general.path` is a file of conversations, so no model answers. Remove `general.prompts` and `.model`."


def _endpoint(recipe: CurateRecipe) -> Iterator[str]:
    endpoint, prompt, sampling = recipe.endpoint, recipe.prompt, recipe.sampling
    if (endpoint.model is None) != (endpoint.url is None):
        missing, say = ("url", "where it answers") if endpoint.url is None else ("model", "which model it serves")
        yield f"`endpoint` has no `{missing}`. Give `endpoint.{missing}`: {say}."
    if endpoint.model is None:
        return
    if recipe.source is not None:
        yield "`source` is a file of samples, so the `endpoint` would never be asked. Remove one of them."
    if prompt.template != "chat" or prompt.prefill:
        yield (
            "An `endpoint` is asked in chats, with its own template, and begins its turn itself. Write "
            '`prompt.template=chat` and `prompt.prefill=""`.'
        )
    if sampling.top_k or sampling.stop_strings:
        yield (
            "`sampling.top_k` is not part of the protocol of endpoints, and they leave `sampling.stop_strings` out of "
            "their replies. Remove both, or sample a model here."
        )


def _filters(recipe: CurateRecipe) -> Iterator[str]:
    names = [part.name for part in recipe.reward.parts]
    filters = recipe.filters
    wanted = {"correct": filters.correct, "format": filters.format}
    wanted |= {"language": "language"} if filters.language is not None else {}
    for key, part in wanted.items():
        if part is not None and part not in names:
            have = ", ".join(f"`{name}`" for name in names) or "none"
            yield (
                f"`filters.{key}` looks at the reward part `{part}`, which `reward.parts` does not have (it has "
                f"{have}). Add `{{name: {part}}}` to the parts, or write `filters.{key}=null`."
            )
