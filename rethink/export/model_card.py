"""The card of an exported model (`README.md`): front matter for the hub, then recipe, data, results and limits.

Everything in it comes from the run's folder and from what `rethink eval` wrote; what is not known is said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rethink.eval.tables.card_section import card_section, percent
from rethink.export.exported import Origin
from rethink.recipe.kind import DEFAULT_KIND, kinds
from rethink.recipe.objective import objectives
from rethink.recipe.preference import preference_objectives
from rethink.recipe.schema import AlgorithmSection
from rethink.store.as_trained import AsTrained
from rethink.types import Prompt

SHOWN = (
    ("steps", "steps"),
    ("epochs", "epochs"),
    ("seed", "seed"),
    ("prompt template", "prompt.template"),
    ("prompts a batch", "rollout.prompts_per_batch"),
    ("group size", "rollout.group_size"),
    ("longest completion", "rollout.max_new_tokens"),
    ("temperature", "rollout.temperature"),
    ("advantage", "algorithm.advantage"),
    ("loss averaged over", "algorithm.aggregation"),
    ("clip ratio", "algorithm.clip_high"),
    ("KL coefficient", "algorithm.beta"),
    ("learning rate", "optimizer.learning_rate"),
    ("schedule", "optimizer.schedule"),
    ("sequences a batch", "batch_sequences"),
)
"""Rows of the table of the recipe: label and place."""
_HUB_DATA = re.compile(r"[\w.-]+/[\w.-]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the card says."""

    name: str
    origin: Origin
    context: int | None
    dtype: str
    parameters: int
    has_template: bool
    version: str
    """Of Rethink."""
    recipe: Mapping[str, Any] | None = None
    recipe_yaml: str = ""
    recipe_hash: str = ""
    summary: Mapping[str, Any] | None = None
    step: int | None = None
    """The step of the run that the model is from, where it is not the last."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What `rethink eval` found, by benchmark (`details.json`)."""
    trained: AsTrained | None = None
    """How the model was trained."""
    prompt: Prompt | None = None
    """What it was trained to be asked with, `{question}` standing for the question; None: its chat template alone."""


def write_card(facts: Facts) -> str:
    """The card, in Markdown."""
    parts = [
        front(facts),
        f"# {facts.name}\n",
        _introduction(facts),
        _use(facts),
        *(_training(facts) if facts.recipe is not None else ()),
        *([_held_out(facts.summary)] if facts.summary and "before" in facts.summary else ()),
        *([card_section(facts.name, facts.details)] if facts.details else ()),
        _limits(facts),
        _licence(facts.origin),
        *([_whole_recipe(facts)] if facts.recipe_yaml else ()),
    ]
    return "\n".join(parts)


# --- front matter ----------------------------------------------------------------------------------------------------


def front(facts: Facts) -> str:
    """The YAML that the hub reads, between its two lines of dashes."""
    from huggingface_hub import ModelCardData

    recipe = facts.recipe or {}
    results = list(_eval_results(facts))
    data = ModelCardData(
        base_model=facts.origin.model,
        license=facts.origin.licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["rethink", *([str(recipe.get("kind", DEFAULT_KIND)), "reasoning"] if facts.recipe is not None else [])],
        datasets=list(_hub_data(recipe)) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _eval_results(facts: Facts) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    after = (facts.summary or {}).get("after")
    if after is not None and facts.step is None:
        name = "held-out problems of " + ", ".join(_task_names(facts.recipe or {}))
        yield EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name=name,
            metric_type="accuracy",
            metric_value=round(float(after["accuracy"]), 4),
        )
    for benchmark, of in facts.details.items():
        yield EvalResult(
            task_type="text-generation",
            dataset_type=benchmark,
            dataset_name=benchmark,
            metric_type="pass@1",
            metric_value=round(float(of["pass@1"]), 4),
            metric_name=f"pass@1 ({of['metric']}, k = {of['k']})",
        )


def _hub_data(recipe: Mapping[str, Any]) -> Iterator[str]:
    for task in recipe.get("tasks") or ():
        if task.get("kind") == "hub" and _HUB_DATA.fullmatch(str(task.get("name"))):
            yield str(task["name"])


def _task_names(recipe: Mapping[str, Any]) -> list[str]:
    return [str(task.get("name", "?")) for task in recipe.get("tasks") or ()] or ["the run's data"]


# --- sections --------------------------------------------------------------------------------------------------------


def _introduction(facts: Facts) -> str:
    base = f"[{facts.origin.model}](https://huggingface.co/{facts.origin.model})" if facts.origin.model else None
    size = f"{facts.parameters / 1e6:,.0f} million parameters, stored as {facts.dtype}"
    context = f", context of {facts.context:,} tokens" if facts.context else ""
    made = "exported with Rethink" if facts.recipe is None else "trained with Rethink"
    lines = [f"A language model {made} {facts.version}: {size}{context}."]
    lines.append(f"It began as {base}." if base else "What model it began from is not known here.")
    if facts.recipe is not None and facts.recipe.get("description"):
        lines.append(_plain(str(facts.recipe["description"])))
    return " ".join(lines) + "\n"


def _use(facts: Facts) -> str:
    if facts.trained is not None and facts.prompt is not None:
        return _use_as_trained(facts.trained, facts.prompt)
    if facts.has_template:
        how = (
            "```python\n"
            "from transformers import pipeline\n\n"
            'generate = pipeline("text-generation", model="PATH_OR_HUB_ID")\n'
            'print(generate([{"role": "user", "content": "What is 3 + 4?"}], max_new_tokens=256))\n'
            "```\n"
        )
        return f"## Use\n\nWith `transformers`:\n\n{how}\nOr talk to it: `rethink chat --model PATH_OR_HUB_ID`.\n"
    return (
        "## Use\n\nThe model has no chat template: it continues texts, with `transformers` "
        '(`pipeline("text-generation")`) or `rethink sample --raw`.\n'
    )


def _use_as_trained(trained: AsTrained, prompt: Prompt) -> str:
    limit = 256 if trained.held_out is None else trained.held_out.max_new_tokens
    rule = f" The answer is found by the rule `{_plain(trained.answer)}`." if trained.answer else ""
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'path = "PATH_OR_HUB_ID"\n'
        "tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)\n"
        f"prompt = {prompt.text!r}\n"
        'text = prompt.replace("{question}", "What is 3 + 4?")\n'
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")\n'
        f"output = model.generate(**inputs, max_new_tokens={limit}, do_sample=False)[0]\n"
        f'print({prompt.prefill!r} + tokenizer.decode(output[inputs["input_ids"].shape[1] :]))'
    )
    return (
        f"## Use\n\nThe model was trained with a prompt of its own ({_plain(trained.said())}) and expects it. "
        f"`rethink.json` holds it, and `rethink sample --model PATH_OR_HUB_ID QUESTION` uses it.{rule} With "
        f"`transformers`:\n\n{_fenced(code, 'python')}\n"
    )


def _training(facts: Facts) -> Iterator[str]:
    recipe, summary = facts.recipe or {}, facts.summary or {}
    kind = str(recipe.get("kind", DEFAULT_KIND))
    known = kinds().get(kind)
    trained = known.card if known and known.card else kind
    lines = ["## Training", "", f"By {trained.replace('{objective}', _objective(recipe))}."]
    if summary and not summary.get("finished", True):
        lines.append(f"The run was stopped after step {summary.get('steps')} and had not finished.")
    if facts.step is not None:
        lines.append(f"The weights are those after step {facts.step}, the best at a held-out evaluation.")
    lines += ["", "| | |", "| --- | --- |", *_recipe_rows(recipe), *_cost_rows(summary, facts.environment)]
    yield "\n".join(lines) + "\n"
    yield _data(recipe)


def _objective(recipe: Mapping[str, Any]) -> str:
    """The objective by its name, with paper and equation where it is known here."""
    name = str((recipe.get("algorithm") or {}).get("type", AlgorithmSection().type))
    known = objectives().get(name) or preference_objectives().get(name)
    return f"the objective `{name}`" + (f" of {known.source}," if known else "")


def _recipe_rows(recipe: Mapping[str, Any]) -> Iterator[str]:
    for label, place in SHOWN:
        value: Any = recipe
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            yield f"| {label} | {_inline(value)} |"
    parts = (recipe.get("reward") or {}).get("parts") or ()
    if parts:
        weighted = [f"{part.get('name')} × {part.get('weight', 1.0):g}" for part in parts]
        yield f"| rewards | {_plain(', '.join(weighted))} |"


def _cost_rows(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[str]:
    if summary.get("tokens_total"):
        yield f"| tokens generated | {int(summary['tokens_total']):,} |"
    if summary.get("wall_s"):
        yield f"| time | {float(summary['wall_s']) / 60:.1f} min |"
    processor = environment.get("processor")
    if isinstance(processor, Mapping) and processor.get("name"):
        yield f"| processor | {_plain(str(processor['name']))}, {environment.get('cores')} cores |"


def _data(recipe: Mapping[str, Any]) -> str:
    lines = ["## Data", ""]
    for task in recipe.get("tasks") or ():
        details = f" with {_inline(task['params'])}" if task.get("params") else ""
        lines.append(f"- {_plain(str(task.get('name')))} ({task.get('kind')}){details}")
    for entry in recipe.get("data") or ():
        weight = f", weight {entry['weight']}" if isinstance(entry, Mapping) and "weight" in entry else ""
        path = entry.get("path") if isinstance(entry, Mapping) else entry
        lines.append(f"- {_plain(str(path))}{weight}")
    if len(lines) == 2:
        lines.append("The recipe names no data of its own; see the recipe below.")
    return "\n".join(lines) + "\n"


def _held_out(summary: Mapping[str, Any]) -> str:
    before, after = summary["before"], summary.get("after")
    columns = [("before", before), *([("after", after)] if after else [])]
    lines = [
        "## Results on held-out problems",
        "",
        f"{int(before['n'])} problems of the training task that were not trained on.",
        "",
        "| | " + " | ".join(name for name, _ in columns) + " |",
        "| --- |" + " --- |" * len(columns),
        "| accuracy (95 % interval) | " + " | ".join(_accuracy(of) for _, of in columns) + " |",
        "| keeps the format | " + " | ".join(_share(of.get("format")) for _, of in columns) + " |",
        "| cut off at the token limit | " + " | ".join(_share(of.get("truncated")) for _, of in columns) + " |",
        "| mean tokens | " + " | ".join(f"{of['length_mean']:.0f}" for _, of in columns) + " |",
    ]
    samples = summary.get("samples_after") or ()
    if samples:
        lines += ["", "A completion after training:", "", _fenced(_sample(samples[0]))]
    return "\n".join(lines) + "\n"


def _accuracy(of: Mapping[str, Any]) -> str:
    low, high = of["accuracy_ci"]
    return f"{percent(of['accuracy'])} % ({percent(low)} – {percent(high)})"


def _share(value: Any) -> str:
    return "–" if value is None else f"{percent(value)} %"


def _sample(sample: Mapping[str, Any]) -> str:
    return f"{sample.get('question', '')}\n\n{sample.get('completion', '')}"


def _limits(facts: Facts) -> str:
    lines = ["## Limits", ""]
    if facts.recipe is not None:
        lines.append(
            "- Training changed the model for the data above alone; what it does elsewhere was not measured unless a "
            "table here says so, and may be worse than its base."
        )
        lines.append(
            "- Where rewards were rules, they check answers and form: a right answer does not show that the thought "
            "before it is sound."
        )
    else:
        lines.append("- Nothing was trained or measured for this export; the limits are those of the model it is of.")
    if facts.context:
        lines.append(f"- Prompt and completion together take at most {facts.context:,} tokens.")
    lines.append("- It makes mistakes, invents facts, and was not tested for safety or bias. Check what it says.")
    return "\n".join(lines) + "\n"


def _licence(origin: Origin) -> str:
    if origin.licence is not None:
        return f"## Licence\n\nThe base model's: {_plain(origin.licence)}.\n"
    of = f"of {origin.model} " if origin.model else "of the base model "
    return (
        f"## Licence\n\nThe licence {of}applies to this model as well, and is not known here: look it up, and add "
        "`license:` to the head of this card, before publishing.\n"
    )


def _whole_recipe(facts: Facts) -> str:
    return (
        f"## Recipe\n\nThe resolved recipe (hash `{facts.recipe_hash[:12]}`); `rethink train` runs it again.\n\n"
        f"{_fenced(facts.recipe_yaml.rstrip(), 'yaml')}\n"
    )


# --- Markdown --------------------------------------------------------------------------------------------------------


def _fenced(text: str, language: str = "text") -> str:
    """A code block that its content cannot end."""
    clean = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", clean)), default=0))
    return f"{fence}{language}\n{clean}\n{fence}"


def _plain(text: str) -> str:
    """One line without what Markdown or HTML would take for more than text."""
    line = " ".join(_CONTROLS.sub(" ", text).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(str(key))} {_plain(str(of))}" for key, of in value.items())
    return _plain(str(value))
