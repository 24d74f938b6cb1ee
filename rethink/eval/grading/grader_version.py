"""What a verdict depends on beside the completion: the gold answer, the grader, and the code that judges."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import rethink
from rethink.eval.benchmark import Grader
from rethink.store.environment import package_versions
from rethink.types import Problem

JUDGING_CODE = ("eval", "rewards", "tasks")
"""Packages of Rethink that judge answers: a change in any of them makes another version."""
JUDGING_PACKAGES = ("math-verify", "sympy", "reasoning_gym")


def judged_by(problem: Problem, grader: Grader) -> str:
    """A hash that changes whenever the verdict on the same completion might."""
    values = [grader.name, problem.task, problem.answer, dict(problem.metadata), _code_version()]
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@functools.cache
def _code_version() -> str:
    """Hash of all code that judges. It is computed and not a number to raise: nobody can forget it."""
    digest = hashlib.sha256()
    root = Path(rethink.__file__).parent
    for path in sorted(path for name in JUDGING_CODE for path in (root / name).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    versions = package_versions()
    digest.update(json.dumps([versions.get(name) for name in JUDGING_PACKAGES]).encode())
    return digest.hexdigest()
