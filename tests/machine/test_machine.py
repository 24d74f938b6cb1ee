"""What the machine is said to have, on made-up /proc and /sys trees, and the defaults that follow."""

import os
from pathlib import Path

import pytest

from rethink.machine import allocator, limits, speed


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def siblings(root: Path, cpu: int, text: str) -> None:
    put(root, {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text + "\n"})


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


@pytest.mark.usefixtures("four_cpus")
class TestThreads:
    def test_without_topology_every_cpu_is_a_core(self, tmp_path: Path) -> None:
        assert limits.usable_threads(tmp_path) == 4

    def test_hardware_threads_of_a_core_count_once(self, tmp_path: Path) -> None:
        for cpu in range(4):
            siblings(tmp_path, cpu, "0,2" if cpu in (0, 2) else "1,3")
        assert limits.usable_threads(tmp_path) == 2

    @pytest.mark.parametrize(("quota", "threads"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1)])
    def test_quota_of_version_2(self, tmp_path: Path, quota: str, threads: int) -> None:
        put(tmp_path, {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": quota + "\n"})
        assert limits.usable_threads(tmp_path) == threads

    def test_quota_of_a_parent_group_counts(self, tmp_path: Path) -> None:
        put(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000"})
        put(tmp_path, {"sys/fs/cgroup/a/b/cpu.max": "max 100000"})
        assert limits.usable_threads(tmp_path) == 2

    @pytest.mark.parametrize(("inner", "outer"), [("100000", "300000"), ("300000", "100000")])
    def test_the_smallest_quota_of_nested_groups_counts(self, tmp_path: Path, inner: str, outer: str) -> None:
        put(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": f"{outer} 100000"})
        put(tmp_path, {"sys/fs/cgroup/a/b/cpu.max": f"{inner} 100000"})
        assert limits.usable_threads(tmp_path) == 1

    @pytest.mark.parametrize(("quota", "threads"), [("-1", 4), ("300000", 3)])
    def test_quota_of_version_1(self, tmp_path: Path, quota: str, threads: int) -> None:
        folder = "sys/fs/cgroup/cpu"
        put(tmp_path, {"proc/self/cgroup": "3:cpu:/\n", f"{folder}/cpu.cfs_quota_us": quota + "\n"})
        put(tmp_path, {f"{folder}/cpu.cfs_period_us": "100000\n"})
        assert limits.usable_threads(tmp_path) == threads


class TestMemory:
    def test_without_groups_it_is_the_machine(self, tmp_path: Path) -> None:
        found = limits.memory(tmp_path)
        assert not found.limited
        assert 0 < found.available <= found.total

    def test_limit_of_version_2_less_what_is_used_but_not_cache(self, tmp_path: Path) -> None:
        group = "sys/fs/cgroup/box"
        files = {"memory.max": "1048576", "memory.current": "600000", "memory.stat": "anon 1\ninactive_file 100000\n"}
        put(tmp_path, {"proc/self/cgroup": "0::/box\n", **{f"{group}/{k}": v for k, v in files.items()}})
        assert limits.memory(tmp_path) == limits.Memory(1048576, 1048576 - 500000, limited=True)

    def test_limit_of_version_1(self, tmp_path: Path) -> None:
        group = "sys/fs/cgroup/memory/box"
        files = {"memory.limit_in_bytes": "2000000", "memory.usage_in_bytes": "500000"}
        put(tmp_path, {"proc/self/cgroup": "4:memory:/box\n", **{f"{group}/{k}": v for k, v in files.items()}})
        assert limits.memory(tmp_path) == limits.Memory(2000000, 1500000, limited=True)

    def test_tightest_group_wins(self, tmp_path: Path) -> None:
        put(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1000000"})
        put(tmp_path, {"sys/fs/cgroup/a/b/memory.max": "max"})
        assert limits.memory(tmp_path).total == 1000000

    @pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
    def test_no_limit_is_written_in_two_ways(self, tmp_path: Path, limit: str) -> None:
        name = "memory.max" if limit == "max" else "memory.limit_in_bytes"
        put(tmp_path, {"proc/self/cgroup": "0::/\n", f"sys/fs/cgroup/{name}": limit})
        assert not limits.memory(tmp_path).limited

    def test_group_path_of_the_host_falls_back_to_the_mount(self, tmp_path: Path) -> None:
        put(tmp_path, {"proc/self/cgroup": "0::/host/only\n", "sys/fs/cgroup/memory.max": "1000000"})
        assert limits.memory(tmp_path).total == 1000000

    def test_peak_is_at_least_what_is_resident_now(self) -> None:
        import psutil

        assert limits.peak_rss_mb() >= 0.9 * psutil.Process().memory_info().rss / 2**20


class TestSpeed:
    def test_rates_are_positive_and_finite(self) -> None:
        rates = speed.measure_gemm(rows=128, width=128, seconds=0.01)
        assert set(rates) == {"float32", "bfloat16"}
        assert all(0 < rate < 1e7 for rate in rates.values())

    def test_slow_type_is_judged_by_the_small_product(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []

        def crawl(left: object, right: object, device: str) -> float:
            sizes.append(left.shape[0])  # type: ignore[attr-defined]
            return 1.0

        monkeypatch.setattr(speed, "_time_product", crawl)
        rates = speed.measure_gemm(("bfloat16",), rows=1024, width=1024)
        assert sizes == [256, 256]
        assert rates["bfloat16"] == pytest.approx(2 * 256**3 / 1e9)

    @pytest.mark.parametrize(
        ("fp32", "bf16", "chosen"),
        [(180.0, 830.0, "bfloat16"), (180.0, 200.0, "float32"), (180.0, 20.0, "float32"), (100.0, 125.0, "bfloat16")],
    )
    def test_bf16_must_be_clearly_faster(self, fp32: float, bf16: float, chosen: str) -> None:
        assert speed.choose_dtype({"float32": fp32, "bfloat16": bf16}) == chosen

    def test_nothing_measured_means_fp32(self) -> None:
        assert speed.choose_dtype({}) == "float32"


class TestAllocator:
    def test_elsewhere_than_glibc_nothing_is_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
        monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("touched the C library"))
        assert allocator.tune_allocator() is False

    def test_a_library_without_mallopt_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
        monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
        assert allocator.tune_allocator() is False

    def test_both_settings_are_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[int, int]] = []

        class Library:
            @staticmethod
            def mallopt(parameter: int, value: int) -> int:
                calls.append((parameter, value))
                return 1

        monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
        monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library)
        assert allocator.tune_allocator() is True
        assert calls == [(-3, 32 << 20), (-1, 2**31 - 1)]


def test_kills_for_memory_are_counted_where_the_system_says(tmp_path: Path) -> None:
    assert limits.oom_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "vmstat").write_text("pgfault 7\noom_kill 3\noom_kill_extra x\n")
    assert limits.oom_kills(tmp_path) == 3
