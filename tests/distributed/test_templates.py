"""Job files are read by parsers of their own kind."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rethink.cli import main
from rethink.distributed.cluster import Cluster
from rethink.distributed.layout import Demand
from rethink.distributed.templates import GIB, TEMPLATES, Job
from rethink.recipe.recipe_files import load_section

JOB = Job("my.run", "/shared/my recipe.yaml", 6, 4, 3, Demand(4, 8 * GIB, 2 * GIB), hours=12, image="me/rethink:1")
SBATCH = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "output", "open-mode", "requeue"}
"""Options of sbatch(1) that the script may use."""
TRAIN = ["rethink", "train", "/shared/my recipe.yaml", "--cluster", "cluster.yaml", "--out", "runs/my.run"]


def parsed_by_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def trains(script: str) -> bool:
    return any(shlex.split(line)[: len(TRAIN)] == TRAIN for line in script.splitlines() if "rethink train" in line)


def test_slurm() -> None:
    script = TEMPLATES["slurm"](JOB)
    parsed_by_bash(script)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script, re.M))
    assert script.count("#SBATCH") == len(options)
    assert set(options) == SBATCH
    assert [options[key] for key in ("nodes", "cpus-per-task", "mem", "time")] == ["3", "8", "16G", "12:00:00"]
    assert trains(script)


def test_skypilot() -> None:
    task = yaml.safe_load(TEMPLATES["skypilot"](JOB))
    assert set(task) == {"name", "num_nodes", "resources", "workdir", "setup", "run"}
    assert task["num_nodes"] == 3
    assert task["resources"] == {"cpus": "8+", "memory": "16+"}
    parsed_by_bash(task["setup"])
    parsed_by_bash(task["run"])
    assert trains(task["run"])


def container(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = group["template"]["spec"]["containers"]
    named = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in found["volumeMounts"]} == named
    assert isinstance(group["rayStartParams"], dict)
    assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    return dict(found)


def test_kuberay(tmp_path: Path) -> None:
    files, job = yaml.safe_load_all(TEMPLATES["kuberay"](JOB))
    assert (files["apiVersion"], files["kind"]) == ("v1", "ConfigMap")
    path = tmp_path / "cluster.yaml"
    path.write_text(files["data"]["cluster.yaml"])
    assert load_section(path, Cluster) == Cluster(address="auto", workers=6, threads=4)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    shell = shlex.split(spec["entrypoint"])
    assert shell[:2] == ["bash", "-c"]
    parsed_by_bash(shell[2])
    assert trains(shell[2].replace(" && ", "\n"))
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    for one in (cluster["headGroupSpec"], group):
        found = container(one)
        assert found["image"] == "me/rethink:1"
        assert found["resources"]["limits"] == {"cpu": 8, "memory": "16Gi"}
    assert (
        "workerGroupSpecs"
        not in yaml.safe_load(TEMPLATES["kuberay"](Job("a", "b", 2, 1, 1, Demand(1, None, None))).split("---\n")[1])[
            "spec"
        ]["rayClusterSpec"]
    )


def test_the_command(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cluster", "template", "slurm", str(recipe_file), "--workers", "2"]
    assert main.main(words) == 0
    assert "#SBATCH --nodes=2\n" in capsys.readouterr().out
    assert main.main([*words, "--nodes", "3"]) == 2
    assert "would have no worker" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["slurm", "skypilot"])
def test_overrides_reach_plan_and_training(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    override = "prompt.instruction={question} it's"
    assert main.main(["cluster", "template", name, "quickstart", override, "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    script = yaml.safe_load(printed)["run"] if name == "skypilot" else printed
    parsed_by_bash(script)
    (training,) = [shlex.split(line) for line in script.splitlines() if line.startswith("rethink train")]
    assert training[:4] == ["rethink", "train", "quickstart", override]
    (planning,) = [shlex.split(line) for line in script.splitlines() if "rethink cluster plan" in line]
    assert override in planning


def test_an_override_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cluster", "template", "slurm", "quickstart", "stpes=1", "--workers", "2"]) == 2
    assert "stpes" in capsys.readouterr().err
