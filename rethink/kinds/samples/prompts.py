"""General prompts as a source of problems (`kind: python`): the list that ships, for RL that rules cannot judge."""

from __future__ import annotations

from rethink.kinds.samples.general import general_prompts


def problems(path: str | None = None) -> list[dict[str, str]]:
    """Rows with a `question` and no answer: give the source reward parts that need none.

    Args:
        path: a JSONL file with a `prompt` a row; None: the list that ships.

    Raises:
        TaskError: the file cannot be read.
    """
    return [{"question": prompt} for prompt in general_prompts(path)]
