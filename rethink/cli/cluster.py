"""`rethink cluster`: what a run needs of a cluster, Ray on a list of hosts, and job files for schedulers."""

from __future__ import annotations

import argparse
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, print_json, verb, whole
from rethink.errors import UsageError
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rethink.distributed.launch import Hosts
    from rethink.distributed.layout import Layout

EXAMPLES = """\
  rethink cluster plan quickstart local:2            who runs where, and what is missing; nothing is started
  rethink cluster plan my.yaml cluster.yaml --json
  rethink cluster up hosts.yaml                      start Ray on a list of hosts, over ssh
  rethink cluster up hosts.yaml --print              only show the commands
  rethink cluster status hosts.yaml                  show the machines that are there
  rethink cluster down hosts.yaml                    end that Ray
  rethink cluster template slurm my.yaml --workers 8 --threads 16 >job.sh
"""
TEMPLATE_NAMES = ("slurm", "kuberay", "skypilot")


def add_parser(verbs: Verbs) -> None:
    """Add the verb `cluster` with its own verbs."""
    parser = verb(verbs, "cluster", "plan, start and describe the cluster of `--cluster`", EXAMPLES, plan)
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    planned = verb(inner, "plan", "who runs where, and what is missing", "  rethink cluster plan my.yaml local:2", plan)
    planned.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    planned.add_argument("cluster", metavar="FILE|local:N", help="a cluster file, or N workers on this machine")
    planned.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="override values of the recipe")
    planned.add_argument("--json", action="store_true", help="one JSON object")
    for name, summary, run in (
        ("up", "start Ray on a list of hosts", up),
        ("status", "show the machines of a cluster", status),
        ("down", "end the Ray of a list of hosts", down),
    ):
        started = verb(inner, name, summary, f"  rethink cluster {name} hosts.yaml", run)
        started.add_argument("hosts", type=Path, metavar="HOSTS_FILE", help="a YAML file with the hosts")
        if name == "status":
            started.add_argument("--json", action="store_true", help="one JSON object")
        else:
            started.add_argument("--print", dest="show", action="store_true", help="show the commands, run nothing")
    filled = verb(inner, "template", "print a job file for a scheduler", EXAMPLES.splitlines()[-1], template)
    filled.add_argument("scheduler", choices=TEMPLATE_NAMES, help="for which scheduler")
    filled.add_argument("recipe", metavar="RECIPE", help="by a path that every machine has, or a shipped recipe")
    filled.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="override values of the recipe")
    filled.add_argument("--workers", type=whole(1), required=True, metavar="N", help="rollout workers")
    filled.add_argument("--threads", type=whole(1), default=1, metavar="N", help="of each worker (default: 1)")
    filled.add_argument("--nodes", type=whole(1), metavar="N", help="machines (default: one for each worker)")
    filled.add_argument("--hours", type=whole(1), default=24, metavar="N", help="most time of the job (default: 24)")
    filled.add_argument("--image", default="rethink:latest", metavar="NAME", help="container image (kuberay)")


def plan(args: argparse.Namespace) -> int:
    """Print the layout.

    Raises:
        UsageError: something is missing.
    """
    from rethink.distributed.cluster import read_cluster
    from rethink.distributed.demand import demand_of
    from rethink.distributed.layout import lay_out
    from rethink.distributed.nodes import Question, ask_nodes, check_answers, this_machine
    from rethink.recipe.recipe_files import load_recipe

    cluster = read_cluster(args.cluster)
    check_answers(cluster.address)
    demand = demand_of(load_recipe(args.recipe, args.overrides), cluster)
    local = cluster.address == "local"
    asked = Question(demand.paths, cluster.python, demand.engines)
    nodes = [this_machine(asked)] if local else ask_nodes(cluster.address, asked)
    host = socket.gethostname()
    here = next((node.name for node in nodes if node.facts.get("host") == host), host)
    layout = lay_out(cluster, nodes, demand, here)
    if args.json:
        print_json(layout.to_dict())
        return UsageError.exit_code if layout.missing else 0
    _show(layout)
    if layout.missing:
        raise UsageError(f"the run cannot be placed so. {'. '.join(layout.missing)}.")
    return 0


def _show(layout: Layout) -> None:
    from rich.table import Table

    from rethink.plan.estimate_text import size_text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("process", "machine", "threads", "memory"):
        table.add_column(name, justify="right" if name == "threads" else "left")
    for seat in layout.seats:
        bound = "at least" if seat.who == "driver" else "up to"
        memory = "not known" if seat.memory_bytes is None else f"{bound} {size_text(seat.memory_bytes)}"
        table.add_row(seat.who, seat.node, str(seat.threads), memory)
    make_console().print(table)
    for caution in layout.cautions:
        say(f"\nNote: {caution}.")


def up(args: argparse.Namespace) -> int:
    """Start Ray on the hosts, or print how."""
    from rethink.distributed.launch import facts_command, start_command
    from rethink.distributed.launch import up as start

    hosts = _hosts(args.hosts)
    if args.show:
        every = range(len(hosts.hosts))
        for command in (*(facts_command(hosts, i) for i in every), *(start_command(hosts, i) for i in every)):
            say(shlex.join(command))
        return 0
    start(hosts, say)
    say(f"\nIn the cluster file write `address: {hosts.address}`. To end it: rethink cluster down {args.hosts}")
    return 0


def down(args: argparse.Namespace) -> int:
    """End Ray on the hosts, or print how."""
    from rethink.distributed.launch import down as end
    from rethink.distributed.launch import stop_command

    hosts = _hosts(args.hosts)
    if args.show:
        for index in reversed(range(len(hosts.hosts))):
            say(shlex.join(stop_command(hosts, index)))
        return 0
    end(hosts, say)
    return 0


def status(args: argparse.Namespace) -> int:
    """Show the nodes that Ray reports."""
    from rich.table import Table

    from rethink.distributed.nodes import ask_nodes
    from rethink.plan.estimate_text import size_text

    hosts = _hosts(args.hosts)
    nodes = ask_nodes(hosts.address)
    if args.json:
        print_json(
            {
                "address": hosts.address,
                "hosts": len(hosts.hosts),
                "nodes": [
                    {"name": n.name, "cpus": n.cpus, "memory_bytes": n.memory_bytes, **dict(n.facts)} for n in nodes
                ],
            }
        )
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("machine", "processors", "memory", "rethink", "ray", "processor"):
        table.add_column(name, justify="right" if name == "processors" else "left")
    for node in nodes:
        memory = "" if node.memory_bytes is None else size_text(node.memory_bytes)
        told = [node.facts.get(fact, node.facts.get("error", "")) for fact in ("rethink", "ray", "processor")]
        table.add_row(node.name, f"{node.cpus:.0f}", memory, *told)
    make_console().print(table)
    say(f"\n{len(nodes)} of {len(hosts.hosts)} machines are there ({hosts.address})")
    return 0


def template(args: argparse.Namespace) -> int:
    """Print a job file."""
    from importlib import metadata

    from rethink.distributed.cluster import Cluster
    from rethink.distributed.demand import demand_of
    from rethink.distributed.templates import TEMPLATES, TESTED_RAY, Job
    from rethink.recipe.recipe_files import load_recipe

    nodes = args.nodes or args.workers
    if nodes > args.workers:
        raise UsageError(f"--nodes {nodes} is more than --workers {args.workers}: a machine would have no worker")
    recipe = load_recipe(args.recipe, args.overrides)
    demand = demand_of(recipe, Cluster(workers=args.workers, threads=args.threads))
    try:
        ray = metadata.version("ray")
    except metadata.PackageNotFoundError:
        ray = TESTED_RAY
    options = {"hours": args.hours, "image": args.image, "ray": ray, "overrides": tuple(args.overrides)}
    job = Job(recipe.name, args.recipe, args.workers, args.threads, nodes, demand, **options)
    say(TEMPLATES[args.scheduler](job), end="")
    return 0


def _hosts(path: Path) -> Hosts:
    from rethink.distributed.launch import Hosts
    from rethink.recipe.recipe_files import load_section

    if not path.is_file():
        raise UsageError(
            f"there is no hosts file `{path}`. Write one: `hosts: [{{host: 10.0.0.1}}, {{host: 10.0.0.2}}]` "
            "(docs/cluster.md)"
        )
    return load_section(path, Hosts)
