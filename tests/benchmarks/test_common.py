"""What the benchmarks share: order of runs, medians, which way is better, and the closing line."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import common


def test_runs_alternate() -> None:
    order: list[str] = []

    def side(name: str) -> common.Measurement:
        order.append(name)
        return {"s": len(order)}

    series = common.alternate(2, lambda: side("ours"), lambda: side("peer"))
    assert order == ["ours", "peer", "ours", "peer"]
    assert (series.ours, series.peer) == ([{"s": 1}, {"s": 3}], [{"s": 2}, {"s": 4}])


def test_median_takes_every_entry_of_a_list() -> None:
    assert common.median([{"s": [1, 9]}, {"s": 2}, {"other": 5}], "s") == 2
    assert common.median([], "s") is None


@pytest.mark.parametrize(("higher", "times"), [(True, 0.5), (False, 2.0)])
def test_ratio_is_how_many_times_as_good(higher: bool, times: float) -> None:
    assert common.ratio(2.0, 4.0, higher_is_better=higher) == times
    assert common.ratio(2.0, None, higher_is_better=higher) is None


def test_last_line_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    code = "print('noise'); print('{\"s\": 3}')"
    assert common.run_json([sys.executable, "-c", code]) == {"s": 3}
    assert capsys.readouterr() == ("", "noise\n")


@pytest.mark.parametrize("code", ["print('{\"s\": 3}'); raise SystemExit(1)", "print('[1]')", "print('words')", ""])
def test_a_run_without_a_result_is_an_error(code: str) -> None:
    with pytest.raises(RuntimeError, match="-c"):
        common.run_json([sys.executable, "-c", code])


def test_finish_ends_with_one_json_line_and_records_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "RECORD", tmp_path / "measurements.jsonl")
    monkeypatch.setattr(sys, "argv", ["/somewhere/bench.py", "--peer-python", "/elsewhere/bin/python"])
    series = common.Series(ours=[{"s": 2.0}], peer=[{"s": 8.0}])
    options = common.parser("").parse_args(["--json", "--record"])
    common.finish("step", series, "s", options, unit="s", higher_is_better=False)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["name"], last["ours"], last["peer"], last["ratio"]) == ("step", 2.0, 8.0, 4.0)
    assert set(last) == {"name", "ours", "peer", "ratio", "runs", "machine"}
    kept = json.loads((tmp_path / "measurements.jsonl").read_text())
    assert kept["command"] == "bench.py --peer-python python"
    assert {key: kept[key] for key in last} == last
    assert set(kept) == {*last, "date", "commit", "command"}


def test_a_share_is_of_the_peak_that_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    options = common.parser("")
    common.peak_option(options)
    series = common.Series(ours=[{"gflops": [100.0, 300.0, 200.0], "gemm_gflops": [900.0]}])
    common.show_peak(series, options.parse_args([]))
    assert capsys.readouterr().out == ""
    common.show_peak(series, options.parse_args(["--peak-gflops", "800"]))
    assert "0.250 of the stated peak of 800 GFLOP/s" in capsys.readouterr().out
