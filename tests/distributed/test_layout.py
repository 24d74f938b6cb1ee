"""Who runs where and what is missing, from what nodes would say: no second machine is needed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.distributed.cluster import Cluster
from rethink.distributed.demand import demand_of
from rethink.distributed.host import digest, facts
from rethink.distributed.joining import start_or_join
from rethink.distributed.layout import Demand, Node, lay_out
from rethink.distributed.nodes import Question, ask_nodes, check_answers, check_shared
from rethink.distributed.opening import on_cluster
from rethink.distributed.watch import Onlooker
from rethink.errors import UsageError
from rethink.recipe.recipe_files import load_recipe
from rethink.rollout.engines import Engine, open_engine, spread_over
from tests.kinds.pipeline.real_stages import write_recipe

GIB = 2**30
SAME = {"rethink": "1", "ray": "2.60.0", "torch": "2.13.0", "python": "3.11", "instructions": "avx2"}
NEEDS = Demand(driver_threads=2, driver_bytes=3 * GIB, worker_bytes=GIB)


def nodes(*cpus: float, memory: int = 64 * GIB, **other: str) -> list[Node]:
    """Nodes a, b, …; the last has other facts too."""
    made = [Node("abcdef"[i], n, memory, SAME) for i, n in enumerate(cpus)]
    return [*made[:-1], Node(made[-1].name, made[-1].cpus, memory, SAME | other)]


def shared(**values: Any) -> Cluster:
    return Cluster(address="a:6379", **values)


def test_workers_are_seated_in_turn_where_there_is_room() -> None:
    found = lay_out(shared(workers=4, threads=4), nodes(4, 16, 8), NEEDS, here="b")
    assert not found.missing
    assert not found.cautions
    assert [(seat.who, seat.node, seat.threads) for seat in found.seats] == [
        ("driver", "b", 2), ("worker-0", "a", 4), ("worker-1", "b", 4), ("worker-2", "c", 4), ("worker-3", "b", 4),
    ]  # fmt: skip


def test_ranks_are_beside_the_driver_here_and_on_nodes_elsewhere() -> None:
    found = lay_out(Cluster(workers=1, ranks=3), nodes(4), NEEDS, here="a")
    assert [(seat.who, seat.node) for seat in found.seats] == [
        (w, "a") for w in ("driver", "rank-1", "rank-2", "worker-0")
    ]
    found = lay_out(shared(workers=1, ranks=3), nodes(2, 3, 1), NEEDS, here="c")
    assert [(seat.who, seat.node, seat.threads) for seat in found.seats] == [
        ("driver", "c", 2), ("rank-1", "a", 2), ("rank-2", "b", 2), ("worker-0", "c", 1),
    ]  # fmt: skip
    (said,) = lay_out(shared(workers=1, ranks=4), nodes(2, 3, 1), NEEDS, here="c").missing
    assert said.startswith("1 of the 3 trainer ranks beside the driver find no room: each takes 2 processor(s) of one")
    assert "Lower `ranks` or `rank_threads`" in said


def test_what_has_no_room_is_said_though_processors_would_do_together() -> None:
    """Three nodes of six have 18 processors, and still only three workers of four find room."""
    (said,) = lay_out(shared(workers=4, threads=4), nodes(6, 6, 6), NEEDS, here="a").missing
    assert said.startswith("1 of the 4 workers find no room: each takes 4 processor(s) of one node, and a has 6, b")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (nodes(8, 8, ray="2.9"), "ray differs: 2.60.0 on a; 2.9 on b. Install the same version everywhere"),
        (nodes(8, 8, python="3.12"), "python differs"),
        (nodes(8, 8, error="ModuleNotFoundError: rethink"), "b cannot be asked: ModuleNotFoundError: rethink"),
        (nodes(8, 8, memory=2 * GIB), "a has 2.1 GB of memory for driver, worker-0, which together may take 4.3 GB"),
        (nodes(8, 8, **{"path /m": "missing"}), "`/m` is not there on b: every worker loads the model by this path"),
    ],
)
def test_what_is_missing_is_said(there: list[Node], words: str) -> None:
    (said,) = lay_out(shared(workers=2), there, NEEDS, here="a").missing
    assert words in said


def test_a_folder_that_is_not_shared_is_named() -> None:
    there = [Node(name, 8, None, {"path /m": name}) for name in "ab"]
    (said,) = lay_out(shared(workers=2), there, NEEDS, here="a").missing
    assert said.startswith("`/m` is not the same on a, b: it is not shared")


def test_other_processors_are_a_caution_that_says_what_they_cost() -> None:
    there = nodes(8, 8, instructions="avx2 avx512f")
    for bits, cost in (("same", "refused as they join"), ("any", "cannot be repeated to the bit")):
        found = lay_out(shared(workers=2, bits=bits), there, NEEDS, here="a")
        assert not found.missing
        (said,) = found.cautions
        assert "avx2 on a; avx2 avx512f on b" in said
        assert cost in said


def test_clocks_that_are_apart_are_a_caution() -> None:
    there = [Node(name, 8, None, {"clock": clock}) for name, clock in (("a", "1000"), ("b", "1050"), ("c", "1300"))]
    assert not lay_out(shared(workers=2), there[:2], NEEDS, here="a").cautions
    (said,) = lay_out(shared(workers=2), there, NEEDS, here="a").cautions
    assert said.startswith("the clock of c is 300 s ahead of that of a: nothing of the run depends on clocks")
    assert abs(int(facts()["clock"]) - time.time()) < 60


def test_more_workers_than_processors_here_are_a_caution() -> None:
    found = lay_out(Cluster(workers=3, threads=2), nodes(4), NEEDS, here="a")
    assert (len(found.seats), found.missing) == (4, ())
    assert "want 6 processors, and this machine has 4" in found.cautions[0]


def test_a_digest_tells_folders_apart(tmp_path: Path) -> None:
    def folder(name: str, text: str) -> Path:
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "file").write_text(text)
        return tmp_path / name

    one, same, other = folder("one", "1"), folder("same", "1"), folder("other", "2")
    assert digest(one) == digest(same) != digest(other)
    assert digest(tmp_path / "none") == "missing"
    assert facts([str(one)])[f"path {one}"] == digest(one)


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:0", "host:99999", ":6379"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        check_answers(address)


def test_an_address_that_does_not_answer_is_said_before_anything_else() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        with pytest.raises(UsageError, match=r"nothing answers at .*rethink cluster up"):
            ask_nodes(address)
        pytest.importorskip("ray")
        with pytest.raises(UsageError, match="nothing answers"), on_cluster(Cluster(address=address), Onlooker(print)):
            raise AssertionError("it was entered")


def test_a_pipeline_whose_folder_is_not_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    asked: list[str] = []

    def ask(_: str, question: Question) -> list[Node]:
        paths = question.paths
        asked.extend(paths)
        assert Path(paths[0]).exists()
        return [Node("a", 1, None, facts(paths)), Node("b", 1, None, {f"path {paths[0]}": "missing"})]

    monkeypatch.setattr("rethink.distributed.nodes.ask_nodes", ask)
    with pytest.raises(UsageError, match=rf"`{tmp_path}` is not shared: b does not see"):
        check_shared("a:6379", tmp_path / "runs" / "r1")
    assert not Path(asked[0]).exists()
    recipe, cluster = write_recipe(tmp_path, tiny_folder("llama")), tmp_path / "cluster.yaml"
    cluster.write_text("address: a:6379\n")
    assert main.main(["train", str(recipe), "--out", str(tmp_path / "out"), "--cluster", str(cluster)]) == 2
    assert not (tmp_path / "out").exists()


def test_a_ray_of_another_version_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        @staticmethod
        def init(**_: Any) -> None:
            raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    monkeypatch.setattr("rethink.distributed.joining.ray_module", Other)
    with pytest.raises(UsageError, match=r"of other versions \(Version mismatch.*Ray: 2.9.0\). Install the same"):
        start_or_join("a:6379", 1)


def test_an_engine_with_a_copy_of_the_weights_is_opened_by_workers_alone(tiny_folder: Callable[..., Path]) -> None:
    from rethink.rollout import engines

    def never(*_: Any) -> Any:
        raise AssertionError("it was opened")

    alone, given = Engine(name="alone", open=never, build=None, check=never), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.engines(), "alone", alone)
        with spread_over(lambda spreading: given.append(spreading), lambda engine: None):  # type: ignore[func-returns-value, arg-type, return-value]
            open_engine(str(tiny_folder("llama")), engine="alone")
    (spreading,) = given
    assert spreading.opened.name == "alone"
    assert spreading.opened.engine.model is spreading.opened.model


def test_the_plan_of_a_recipe(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = recipe_file.parent / "llama"
    demand = demand_of(load_recipe(recipe_file), Cluster(workers=2, kv_budget_gb=1.0))
    assert demand.driver_threads == 1
    assert demand.paths == (str(model),)
    assert demand.worker_bytes is not None
    assert GIB < demand.worker_bytes < 1.01 * GIB
    assert main.main(["cluster", "plan", str(recipe_file), "local:2"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:4]] == ["process", "driver", "worker-0", "worker-1"]
    assert main.main(["cluster", "plan", "sft", "local:2"]) == 2
    assert "samples nothing" in capsys.readouterr().err
