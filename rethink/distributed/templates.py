"""Job files for SLURM, KubeRay and SkyPilot, filled with a recipe and sizes. They are printed, for you to change.

Each starts Ray on its machines, waits until `rethink cluster plan` finds all of them, and runs `rethink train
--resume`: so a job that was ended and is submitted again continues its run.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from rethink.distributed.layout import Demand
from rethink.plan.estimate import GIB

PORT = 6379
TESTED_RAY = "2.60.0"
SPARE = 1.3
"""Times the estimate that a machine is asked for: Ray's object store holds the weights as well."""
_PLAN = "for _ in $(seq 60); do rethink cluster plan {recipe} cluster.yaml{overrides} && break; sleep 5; done"
_READY = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@dataclass(frozen=True, slots=True)
class Job:
    """What a job file is filled with."""

    name: str
    recipe: str
    """As `rethink train` takes it, by a path that every machine has."""
    workers: int
    threads: int
    """Of a worker."""
    nodes: int
    demand: Demand
    hours: int = 24
    image: str = "rethink:latest"
    """KubeRay: a container image with Rethink and Ray."""
    ray: str = TESTED_RAY
    """Its version of Ray."""
    overrides: tuple[str, ...] = ()
    """`key=value` of the recipe."""

    @property
    def said(self) -> str:
        """Recipe and overrides, as a shell takes them."""
        return shlex.join([self.recipe, *self.overrides])

    @property
    def cpus(self) -> int:
        """Processors of each machine."""
        return max(-(-self.workers // self.nodes) * self.threads, min(self.demand.driver_threads, 64))

    @property
    def memory_gib(self) -> int:
        """Memory of each machine: the driver may be on any."""
        workers = -(-self.workers // self.nodes) * (self.demand.worker_bytes or 0)
        return max(2, math.ceil(SPARE * ((self.demand.driver_bytes or 0) + workers) / GIB))

    @property
    def train(self) -> str:
        """The command that runs the recipe."""
        return f"rethink train {self.said} --cluster cluster.yaml --out {self.out} --resume --plain"

    @property
    def out(self) -> str:
        """The run's folder."""
        return shlex.quote(f"runs/{self.name}")

    def cluster(self, address: str) -> str:
        """The cluster file."""
        return f"address: {address}\nworkers: {self.workers}\nthreads: {self.threads}\n"

    @property
    def plan(self) -> str:
        """Waits for all machines."""
        overrides = "".join(f" {shlex.quote(override)}" for override in self.overrides)
        return _PLAN.format(recipe=shlex.quote(self.recipe), overrides=overrides)


def slurm(job: Job) -> str:
    """A script for `sbatch`, submitted in a folder that all machines share."""
    return f"""\
#!/bin/bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={job.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={job.cpus}
#SBATCH --mem={job.memory_gib}G
#SBATCH --time={job.hours}:00:00
#SBATCH --output={job.name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Submit it in a folder that all machines share, with Rethink's environment active. Submitted again, it resumes.
set -euo pipefail
port=$(({PORT} + SLURM_JOB_ID % 1000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="${{nodes[0]}}" hostname --ip-address | awk '{{print $1}}')

start() {{
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" python -m ray.scripts.scripts start --block \\
    --disable-usage-stats --num-cpus={job.cpus} "${{@:2}}" &
}}

start "${{nodes[0]}}" --head --node-ip-address="$head" --port="$port"
for _ in $(seq 60); do
  python -c {shlex.quote(_READY)} "$head" "$port" 2>/dev/null && break
  sleep 2
done
for node in "${{nodes[@]:1}}"; do start "$node" --address="$head:$port"; done

printf 'address: %s\\nworkers: %s\\nthreads: %s\\n' "$head:$port" {job.workers} {job.threads} >cluster.yaml
{job.plan}
{job.train}
"""


def kuberay(job: Job) -> str:
    """A RayJob (KubeRay's operator), and the cluster file as a ConfigMap; runs are kept on a volume claim."""
    resources = {"cpu": job.cpus, "memory": f"{job.memory_gib}Gi"}

    def pod(name: str) -> dict[str, Any]:
        mounts = [{"name": "runs", "mountPath": "/work/runs"}, {"name": "files", "mountPath": "/work/files"}]
        return {
            "spec": {
                "containers": [
                    {
                        "name": name,
                        "image": job.image,
                        "workingDir": "/work",
                        "resources": {"requests": resources, "limits": resources},
                        "volumeMounts": mounts,
                    }
                ],
                "volumes": [
                    {"name": "runs", "persistentVolumeClaim": {"claimName": f"{_dns(job.name)}-runs"}},
                    {"name": "files", "configMap": {"name": f"{_dns(job.name)}-files"}},
                ],
            }
        }

    started = {"num-cpus": str(job.cpus)}
    cluster = "cp files/cluster.yaml cluster.yaml"
    ray_cluster: dict[str, Any] = {
        "rayVersion": job.ray,
        "headGroupSpec": {"rayStartParams": started, "template": pod("ray-head")},
    }
    if job.nodes > 1:
        group = {"groupName": "workers", "rayStartParams": started, "template": pod("ray-worker")}
        count = job.nodes - 1
        ray_cluster["workerGroupSpecs"] = [{**group, "replicas": count, "minReplicas": count, "maxReplicas": count}]
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{_dns(job.name)}-files"},
            "data": {"cluster.yaml": job.cluster("auto")},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": _dns(job.name)},
            "spec": {
                "entrypoint": f"bash -c {shlex.quote(f'cd /work && {cluster} && {job.plan} && {job.train}')}",
                "shutdownAfterJobFinishes": True,
                "backoffLimit": 3,
                "rayClusterSpec": ray_cluster,
            },
        },
    ]
    note = (
        f"# kubectl apply -f FILE. It needs the KubeRay operator, an image with Rethink and Ray {job.ray}, and a\n"
        f"# volume claim `{_dns(job.name)}-runs` that all pods can mount (ReadWriteMany). Your own recipe goes into "
        "the image.\n"
    )
    return note + yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, width=1000)


def skypilot(job: Job) -> str:
    """A task for `sky launch`; the working folder is sent along."""
    ray = f"python -m ray.scripts.scripts start --disable-usage-stats --num-cpus={job.cpus}"
    run = f"""\
source .venv/bin/activate
head=$(echo "$SKYPILOT_NODE_IPS" | head -n1)
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  until python -c {shlex.quote(_READY)} "$head" {PORT} 2>/dev/null; do sleep 2; done
  exec {ray} --block --address="$head:{PORT}"
fi
{ray} --head --node-ip-address="$head" --port={PORT}
printf 'address: %s\\nworkers: %s\\nthreads: %s\\n' "$head:{PORT}" {job.workers} {job.threads} >cluster.yaml
{job.plan}
{job.train}
"""
    task = {
        "name": _dns(job.name),
        "num_nodes": job.nodes,
        "resources": {"cpus": f"{job.cpus}+", "memory": f"{job.memory_gib}+"},
        "workdir": ".",
        "setup": "python3 -m venv .venv\n.venv/bin/pip install -e '.[ray]'\n",
        "run": run,
    }
    note = "# sky launch FILE. Mount a bucket at `runs` (`file_mounts`) to keep the run when the machines go.\n"
    return note + yaml.dump(task, Dumper=_Blocks, sort_keys=False, width=1000)


TEMPLATES: dict[str, Callable[[Job], str]] = {"slurm": slurm, "kuberay": kuberay, "skypilot": skypilot}


class _Blocks(yaml.SafeDumper):
    """Text of several lines as a block, and no references."""

    def ignore_aliases(self, data: Any) -> bool:
        """See `yaml.SafeDumper`."""
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _block)


def _dns(name: str) -> str:
    """A name as Kubernetes and clouds take it."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:50] or "rethink"
