"""Models from the Hugging Face hub, through `huggingface_hub` alone."""

from __future__ import annotations

import re
from pathlib import Path

from rethink.errors import ModelError, how_to_install

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "README.md",
)
WORKS_OFFLINE = "without the hub these work: `embedded`, a local Hugging Face folder, or a GGUF file"


def is_hub_id(path: str) -> bool:
    """Whether `path` is spelled like a hub id, `organisation/name`."""
    return HUB_ID.fullmatch(path) is not None and ".." not in path


def download(hub_id: str, revision: str | None, trust_remote_code: bool, hint: str = "") -> Path:
    """Folder of the model's files in the hub's own cache, downloaded where they are not there yet.

    Args:
        hub_id: `organisation/name`.
        revision: branch, tag or commit.
        trust_remote_code: also fetch the Python files of the repository.
        hint: appended to messages, e.g. local paths with a similar name.

    Raises:
        ModelError: the package is missing, the id or revision is unknown, access is refused, or no connection.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ModelError(
            f"{hub_id!r} looks like a hub id, which needs the package huggingface_hub: "
            f"{how_to_install('hub')}; {WORKS_OFFLINE}{hint}"
        ) from error
    patterns = [*_PATTERNS, "*.py"] if trust_remote_code else list(_PATTERNS)
    named = hub_id if revision is None else f"{hub_id} at revision {revision}"
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"the hub wants you to accept the terms of {named} first: open https://huggingface.co/{hub_id}, accept "
            f"them, then `hf auth login`; {WORKS_OFFLINE}{hint}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {hub_id!r}, or it is private and you are not logged in (`hf auth login`); check "
            f"the spelling; {WORKS_OFFLINE}{hint}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"the hub has {hub_id}, but no revision {revision!r}; set model.revision to a branch, tag or commit that "
            "its page lists, or leave it out"
        ) from error
    except Exception as error:  # connection errors come from several libraries
        raise ModelError(
            f"{named} could not be downloaded from the hub ({type(error).__name__}: {_first_line(error)}); "
            f"{WORKS_OFFLINE}{hint}"
        ) from error
    _check_contents(folder, named)
    return folder


def _check_contents(folder: Path, named: str) -> None:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"the hub's {named} has no config.json with safetensors weights beside it; repositories that hold only "
            "GGUF files or pickles are not read. Give one with safetensors, or download the GGUF file and give its path"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no details"
