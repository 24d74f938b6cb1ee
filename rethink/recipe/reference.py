"""The field reference in docs/recipe.md, written from the schema: `python -m rethink.recipe.reference docs/recipe.md`.

Without a path it is printed. A test holds the committed file to the schema.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rethink.recipe.explain import show
from rethink.recipe.fields import default_of, describe, is_list, section_of
from rethink.recipe.kind import DEFAULT_KIND, kinds

INTRODUCTION = """\
# Recipe reference

<!-- Written by `python -m rethink.recipe.reference docs/recipe.md` from rethink/recipe/schema.py, base.py and
the `recipe.py` of each kind: change them. -->

A recipe is a YAML file that says what a run is. `rethink train RECIPE.yaml` runs it, and `rethink train RECIPE.yaml
--dry-run` prints it with every default written out and an estimate of its cost. A recipe that ships goes by its name:
`rethink train quickstart`.

Any key can be set on the command line as `dotted.key=value`; an entry of a list goes by its index, and a value is YAML:

```
rethink train quickstart optimizer.learning_rate=1e-5 tasks.0.params.max_terms=2
rethink train quickstart 'rollout.max_new_tokens={0: 96, 20: 128}' 'trackers=[tensorboard]'
```

Where a meaning says None, write `null`. Unknown keys, keys given twice, values of another type and values that
contradict each other are refused before anything slow starts, with what to write instead.

## How a run is counted

- A *rollout batch* is `rollout.prompts_per_batch` × `rollout.group_size` completions, sampled by one policy.
- It is cut at group boundaries into `algorithm.mini_batches` and passed over `algorithm.epochs` times. Each mini-batch
  is one optimizer update, and a *step* is one optimizer update: `mini_batches` × `epochs` steps share a rollout batch.
- `steps`, every `…_steps`, every `every` and the keys of `rollout.max_new_tokens` count steps. A limit holds for the
  rollouts that are sampled from its step on.
- `steps` need not be a multiple of the steps that share a batch: of the last batch only the first part is then trained
  on.

## What may change on resume

These may differ when a run is resumed or extended; all else is the run's identity, and its hash:
"""


KINDS_INTRODUCTION = """
# Other kinds of recipe

`kind` says what a recipe runs; without it, a recipe is of the kind `grpo`, described above. Sections that another kind
shares with it are not repeated.
"""


def reference() -> str:
    """The whole page, Markdown."""
    first = kinds()[DEFAULT_KIND].model
    parts = [INTRODUCTION, ", ".join(f"`{path}`" for path in first.FREE), ".\n"]
    for path, model in _sections(first, ""):
        parts += _table(f"`{path}`" if path else "Top level", model)
    parts.append(KINDS_INTRODUCTION)
    described: set[type[BaseModel]] = {model for _, model in _sections(first, "")}
    for kind in kinds().values():
        recipe = kind.model
        for path, model in _sections(recipe, ""):
            if model not in described:
                described.add(model)
                parts += _table(f"`kind: {kind.name}`" + (f", `{path}`" if path else ""), model)
                if not path:
                    parts.append(f"\nMay change on resume: {', '.join(f'`{free}`' for free in recipe.FREE)}.\n")
    return "".join(parts)


def _table(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {title}\n\n{_first_paragraph(model)}\n\n"
    yield "| key | allowed | default | meaning |\n|---|---|---|---|\n"
    yield from (_row(name, info) for name, info in model.model_fields.items())


def main(arguments: list[str]) -> None:
    """Write the page to the given path, or print it."""
    if arguments:
        Path(arguments[0]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section with its path, parents first."""
    yield path, model
    for name, info in model.model_fields.items():
        nested = section_of(info.annotation)
        if nested is not None:
            index = ".N" if is_list(info.annotation) else ""
            yield from _sections(nested, f"{path}.{name}{index}" if path else f"{name}{index}")


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _row(name: str, info: FieldInfo) -> str:
    meaning = " ".join((info.description or "").split())
    cells = (f"`{name}`", describe(info), _default(info), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    section = section_of(info.annotation)
    default = default_of(info)
    if section is not None and isinstance(default, dict):
        return "its defaults"
    if section is not None and default:
        return "; ".join(f"`{entry.get('name', entry)}`" for entry in default)
    return f"`{show(default)}`"


if __name__ == "__main__":
    main(sys.argv[1:])
