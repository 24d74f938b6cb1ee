"""The report: what it says is what the run's folder holds, hostile text stays text, and unfinished runs render."""

import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from rethink.errors import StorageFailure
from rethink.observe.glossary import GLOSSARY, SECTIONS
from rethink.observe.report import before_after_table, report_data, write_report
from rethink.observe.report import charts as charts_module
from rethink.observe.report import page as page_module
from rethink.observe.report.before_after import comparison, verdict
from rethink.observe.report.charts import Chart, Line, Point, draw, number_text, ticks
from rethink.observe.report.facts import sample
from rethink.observe.report.markup import csp_hash, json_block
from rethink.observe.report.panels import panels
from rethink.store.run_folder import RunFolder
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout

PACKAGE = Path(page_module.__file__).parent
ATTACKS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--<script>",
    "]]>&lt;b&gt;&#60;i&#62;",
    "line\u2028and\u2029paragraph \u0000 \u202e ${alert(1)} `x`",
)
HOSTILE = "wait " + " ".join(ATTACKS)
BEFORE = {"accuracy": 0.19, "accuracy_ci": [0.142, 0.25], "format": 0.305, "length_mean": 41.26, "n": 200}
AFTER = {"accuracy": 0.655, "accuracy_ci": [0.586, 0.717], "format": 0.98, "length_mean": 36.74, "n": 200}
RECIPE = {
    "name": "quick",
    "description": "learns sums",
    "steps": 3,
    "model": {"path": "embedded"},
    "reward": {"parts": [{"name": "accuracy"}, {"name": "format"}]},
}


def rollout(problem: int, text: str, reward: float | None, advantage: float = 0.5, task: str = "sum") -> Rollout:
    ids = np.arange(3, dtype=np.int32)
    values = np.zeros(3, dtype=np.float32)
    outcome = RewardOutcome(reward) if reward is not None else RewardOutcome(None, f"exception: \ud800 {ATTACKS[1]}")
    return Rollout(
        problem=Problem(id=f"p/{problem}", task=task, question="1 + 1?", answer="2"),
        prompt=Prompt(text=f"User: {problem}", token_ids=(1,)),
        completion=Completion(ids, text, values, values, "stop"),
        outcomes={"accuracy": outcome},
        reward=reward,
        advantage=advantage,
    )


def metrics_row(step: int) -> dict[str, Any]:
    """A row with every metric of the glossary, each with a value of its own."""
    names = [info.name for _, _, infos in SECTIONS for info in infos]
    row: dict[str, Any] = {"step": step, "batch": step - 1}
    for index, name in enumerate(names):
        if not name.startswith(("eval/", "reward/<", "step", "batch")):
            row[name] = round(0.0123 * (index + 1) + step / 7, 6)
    return row | {"reward/accuracy": 0.25 + step / 100, "reward/format": 0.5 + step / 100}


def evaluation_row(entry: dict[str, Any]) -> dict[str, Any]:
    low, high = entry["accuracy_ci"]
    plain = {f"eval/{key}": entry[key] for key in ("accuracy", "format", "length_mean", "n")}
    return plain | {"eval/accuracy_low": low, "eval/accuracy_high": high, "time/evaluation": 1.5}


def new_folder(path: Path, recipe: dict[str, Any] | None = None, **extra: Any) -> RunFolder:
    content = {"recipe_hash": "cafe01", "environment": {"cores": 4}, "choices": {"dtype": "float32"}, **extra}
    return RunFolder.create(path, recipe_yaml=yaml.safe_dump(RECIPE if recipe is None else recipe), **content)


def held_out_rows(text: str, accuracy: float) -> list[dict[str, Any]]:
    row = {"task": "sum", "question": "1 + 1?", "answer": "2", "prompt": "User: 1 + 1?", "text": text}
    return [{"problem_id": f"h/{i}", **row, "accuracy": accuracy, "format": None, "tokens": 3} for i in range(2)]


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    folder = new_folder(tmp_path / "finished")
    folder.append_metrics({"step": 0, **evaluation_row(BEFORE)})
    for step in (1, 2, 3):
        folder.append_metrics(metrics_row(step) | (evaluation_row(AFTER) if step == 3 else {}))
        batch = [rollout(g, f"wait {step}.{g}.{s}", s / 2) for g in range(2) for s in range(2)]
        folder.write_rollouts(step - 1, batch, {"step": step - 1}, group_size=2)
    folder.write_samples("step-000000", held_out_rows("cannot say", 0.0))
    folder.write_samples("step-000003", held_out_rows("<answer>2</answer>", 1.0))
    folder.write_summary(
        {"finished": True, "steps": 3, "wall_s": 425.0, "peak_rss_mb": 2048.0, "tokens_total": 123456,
         "before": {**BEFORE, "step": 0}, "after": {**AFTER, "step": 3}}
    )  # fmt: skip
    return folder


class Seen(HTMLParser):
    """What a browser's parser would make of the page: elements, attributes, visible text, scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: str | None = None
        self.feed(page)
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.charts = {
            str(a["aria-label"]).removesuffix(" over steps"): json.loads(str(a["data-chart"]))
            for _, a in self.tags
            if "data-chart" in a
        }
        self.data = next((json.loads(body) for a, body in self.scripts if a.get("id") == "samples-data"), None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.words.append(data)

    def ids(self) -> set[str | None]:
        return {a["id"] for _, a in self.tags if "id" in a}


def page_of(folder: RunFolder) -> Seen:
    path = write_report(folder)
    assert path == folder.report_path
    return Seen(path.read_text(encoding="utf-8"))


# --- the numbers -------------------------------------------------------------------------------------------------


def test_charts_hold_the_metrics_of_every_step(finished: RunFolder) -> None:
    seen = page_of(finished)
    rows = report_data(finished)["metrics"]
    drawn = panels(report_data(finished))
    checked = 0
    for panel in drawn:
        entries = {
            step: {label: value for label, value, _ in rows} for _, step, rows in seen.charts[panel.chart.title]["at"]
        }
        for line, name in zip(panel.chart.lines, panel.metrics, strict=False):
            for row in rows:
                if name in row:
                    assert entries[str(row["step"])][line.label] == number_text(row[name], panel.chart.kind), name
                    checked += 1
    assert checked > 3 * 20  # every metric of the glossary but those that no chart is for
    charted = {name for panel in drawn for name in panel.metrics}
    left_out = {"step", "batch", "tokens/trained", "tokens/total", "rollout/tokens", "rollout/reflection",
                "rollout/reexamining", "rollout/corrected", "time/step", "time/exchange", "time/sync",  # parts
                "policy/ratio_mean", "policy/ratio_max", "eval/accuracy_low", "eval/accuracy_high", "eval/truncated",
                "eval/n", "eval/judged", "reward/<part>", "failure/<cause>", "time/wait",
                *(f"policy/{name}" for name in ("correction", "correction_cut", "lag", "beta", "masked", "chosen")),
                *(name for name in GLOSSARY if name.startswith(("cluster/", "preference/"))),
                # Other kinds have charts of their own, in their own reports.
                "train/loss", "train/entropy", "train/tokens", "train/input_tokens", "train/epoch", "eval/loss",
                "eval/tokens", "reward_model/loss", "reward_model/accuracy", "reward_model/margin", "eval/ece",
                "eval/reward_model_loss", "eval/margin", "eval/margin_median", "eval/preference_loss"}  # fmt: skip
    assert {info.name for _, _, infos in SECTIONS for info in infos} - charted == left_out


def test_held_out_points_carry_their_intervals(finished: RunFolder) -> None:
    at = {step: rows for _, step, rows in page_of(finished).charts["Accuracy"]["at"]}
    assert at["0"] == [["held-out problems (95 % interval)", "19 % (14.2 % to 25 %)", 2]]
    assert at["3"][1][1] == "65.5 % (58.6 % to 71.7 %)"


def test_the_table_of_all_metrics_is_the_file(finished: RunFolder) -> None:
    text = page_of(finished).text
    rows = finished.metrics()
    for name in rows[-1]:
        values = [row[name] for row in rows if name in row]
        if name in ("step", "batch"):
            continue
        unit = {info.name: info.unit for _, _, infos in SECTIONS for info in infos}.get(name)
        shown = [values[0], values[-1], min(values), max(values)]
        assert " ".join([name, *(number_text(v, "share" if unit == "share" else "number") for v in shown)]) in text


def test_results_and_facts(finished: RunFolder) -> None:
    text = page_of(finished).text
    for words in (
        "before (step 0) after (step 3) change accuracy 19.0 % 65.5 % +46.5 points",
        "95 % interval 14.2 to 25.0 % 58.6 to 71.7 %", "format 30.5 % 98.0 % +67.5 points",
        "mean length 41.3 tokens 36.7 tokens -4.5", "problems 200 200", "rose by more than chance",
        "finished: 3 of 3 steps", "recipe hash cafe01", "wall time 7 min 05 s", "tokens generated 123,456",
        "peak memory 2.0 GiB", "12 of the run's 12 rollouts, from 3 of its 3 batches", "learns sums",
        "dtype float32", "cores 4",
    ):  # fmt: skip
        assert words in text, words


def test_the_samples_are_the_rollouts(finished: RunFolder) -> None:
    seen = page_of(finished)
    assert seen.data is not None
    shown = [
        (r["batch"], r["group"], r["sample"], r["text"], r["reward"], r["advantage"], r["finish"])
        for r in seen.data["rollouts"]
    ]
    wanted = [
        (b, g, s, f"wait {b + 1}.{g}.{s}", s / 2, 0.5, "stop") for b in range(3) for g in range(2) for s in range(2)
    ]
    assert shown == wanted
    assert {seen.data["prompts"][r["prompt"]] for r in seen.data["rollouts"]} == {"User: 0", "User: 1"}
    assert {r["step"] for r in seen.data["rollouts"]} == {1, 2, 3}, "the steps of the metrics, by batch"
    assert seen.data["rollouts"][1]["parts"] == {"accuracy": {"score": 0.5, "failure": None}}
    assert [(r["evaluation"], r["text"]) for r in seen.data["held_out"]] == [
        *[("step-000000", "cannot say")] * 2,
        *[("step-000003", "<answer>2</answer>")] * 2,
    ]


def test_words_of_reflection_are_counted(finished: RunFolder) -> None:
    seen = page_of(finished)
    assert [rows for _, _, rows in seen.charts["Which words"]["at"]] == [[["“wait”", "500", 1]]] * 3
    assert "“wait” 4 4 12 completions 4 4 12" in seen.text


def test_reexaminations_are_shown_with_passages_or_the_lack_of_them(tmp_path: Path, finished: RunFolder) -> None:
    seen = page_of(finished).text
    assert "all 3 batches shown 12 12 0 0 0 0 0" in seen
    assert "There are markers, but no statement is repeated after one" in seen
    folder = new_folder(tmp_path / "aha", {"name": "aha", "steps": 1})
    folder.append_metrics({"step": 1, "batch": 1, "reward/mean": 0.1, "rollout/reexamining": 0.5})
    mended, hostile = "1 + 1 = 3. Wait, 1 + 1 = 2.", f"2 + 1 = 4. Wait {ATTACKS[0]} 2 + 1 = 3."
    partial = "Step 1: 3 + 4 = 7. Wait, step 2: 1 + 1 = 2"
    texts = [mended, hostile, partial, "2"]
    folder.write_rollouts(1, [rollout(1, said, 1.0) for said in texts], {"step": 1})
    seen = page_of(folder).text
    assert "step 1 4 3 2 2 0 0 0" in seen, "completions, with a marker, checked, corrected, and the rest"
    assert mended in seen
    assert ATTACKS[0] in seen, "as text"


# --- hostile text ------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path) -> RunFolder:
    folder = new_folder(
        tmp_path / "run",
        {"name": HOSTILE, "description": HOSTILE, "steps": 2, "model": {"path": HOSTILE}},
        recipe_hash=HOSTILE,
        environment={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
        choices={HOSTILE: [{HOSTILE: HOSTILE}]},
    )
    folder.append_metrics({"step": 1, "batch": 1, f"reward/{HOSTILE}": 0.5, f"{HOSTILE}": 1.0, "reward/mean": 0.1})
    folder.write_rollouts(1, [rollout(1, HOSTILE, 1.0, task=HOSTILE), rollout(1, HOSTILE, None)], {"step": 0})
    rows = [{**row, "problem_id": HOSTILE, "prompt": HOSTILE, "answer": HOSTILE} for row in held_out_rows(HOSTILE, 1.0)]
    folder.write_samples("step-000000", rows)
    return folder


def test_hostile_text_is_inert(hostile: RunFolder, finished: RunFolder) -> None:
    seen, harmless = page_of(hostile), page_of(finished)
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in harmless.tags} | {"p"}
    assert not {"img", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in seen.tags}
    handlers = [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    assert len(seen.scripts) == 2, "the data and the page's own script"
    source = hostile.report_path.read_text(encoding="utf-8")
    for attack in ATTACKS[:4]:
        assert attack not in source
    assert "\x00" not in source
    assert "<script" not in source.split('id="samples-data">')[1].split("</script>")[0]


def test_hostile_text_is_still_shown_as_it_was_written(hostile: RunFolder) -> None:
    seen = page_of(hostile)
    assert seen.data is not None
    assert seen.data["rollouts"][0]["text"] == HOSTILE
    assert seen.data["held_out"][0]["problem"] == HOSTILE
    assert ATTACKS[1] in seen.data["rollouts"][1]["parts"]["accuracy"]["failure"]
    assert ATTACKS[0] in seen.text


def test_json_cannot_leave_its_element() -> None:
    block = json_block("x", [*ATTACKS, {"</script>": "&<>\u2028\u2029"}])
    body = block.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert not set("<>&\u2028\u2029\u0000") & set(body)
    assert json.loads(body) == [*ATTACKS, {"</script>": "&<>\u2028\u2029"}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block("x", math.nan)


def test_the_policy_allows_the_page_its_own_script_and_style_alone(hostile: RunFolder) -> None:
    seen = page_of(hostile)
    policy = next(str(a["content"]) for _, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    script = next(body for attributes, body in seen.scripts if not attributes)
    style = re.search(r"<style>(.*?)</style>", hostile.report_path.read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src {csp_hash(script)}", f"style-src {csp_hash(style[1])}", "base-uri 'none'",
        "form-action 'none'",
    ]  # fmt: skip
    assert not [a for _, a in seen.tags if "style" in a], "the policy blocks style attributes"


def test_nothing_is_loaded(finished: RunFolder) -> None:
    seen = page_of(finished)
    loads = [(tag, name) for tag, attributes in seen.tags for name in attributes if name in ("src", "srcset", "data")]
    assert loads == []
    assert all(str(a["href"]).startswith("#") for _, a in seen.tags if "href" in a)
    source = finished.report_path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", source)


def test_the_script_makes_text_and_nothing_else() -> None:
    script = (PACKAGE / "page.js").read_text(encoding="utf-8")
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser",
                 "createContextualFragment", "srcdoc", "fetch(", "XMLHttpRequest", "import("):  # fmt: skip
        assert name not in script, name


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_parses() -> None:
    subprocess.run(["node", "--check", str(PACKAGE / "page.js")], check=True, capture_output=True, timeout=60)


# --- unfinished and odd runs -------------------------------------------------------------------------------------


def test_a_fine_tuning_run_speaks_of_losses_alone(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "sft", {"name": "tuned", "kind": "sft", "epochs": 1})
    folder.append_metrics({"step": 0, "eval/loss": 2.5, "eval/n": 4})
    for step in (1, 2):
        row = {"step": step, "train/loss": 2.0 / step, "train/entropy": 1.0, "train/tokens": 40, "time/train": 1.0}
        folder.append_metrics(row | ({"eval/loss": 1.25, "eval/n": 4} if step == 2 else {}))
    folder.write_summary({"finished": True, "steps": 2, "wall_s": 3.0, "peak_rss_mb": 100.0})
    seen, page = page_of(folder), page_module.render(folder)
    assert {"Fine-tuning loss", "Entropy at the trained tokens"} <= set(seen.charts)
    assert "Accuracy" not in seen.charts
    assert "Not measured in this run" not in page
    for words in ("Rollouts", "No completions", "KL"):
        assert words not in page
    assert "after step 2" in page
    assert "1.25" in page


def test_an_empty_run_renders(tmp_path: Path) -> None:
    seen = page_of(new_folder(tmp_path / "run", {}, environment={}, choices={}))
    for words in (
        "run 0 steps done", "No held-out evaluation yet.", "No metrics yet.", "No rollouts yet.",
        "No held-out completions yet.", "No completions to count words in yet.", "No choices were recorded.",
        "the run has not finished a step",
    ):  # fmt: skip
        assert words in seen.text, words
    assert seen.charts == {}


def test_a_run_that_was_stopped_renders(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    folder.append_metrics({"step": 0, **evaluation_row(BEFORE)})
    folder.append_metrics(
        {"step": 1, "batch": 1, "reward/mean": math.nan, "policy/loss": math.inf, "rollout/format": 0.5}
    )
    folder.write_rollouts(7, [rollout(1, "", None, math.nan)], {})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')  # as a kill leaves it
    seen = page_of(folder)
    assert "1 of 3 steps done" in seen.text
    assert "There is no evaluation after training yet." in seen.text
    assert "accuracy 19.0 % –" in seen.text
    assert "KL from the reference" in seen.text.split("Not measured in this run:")[1]
    assert "algorithm.beta" in seen.text
    assert set(seen.charts) == {"Accuracy", "Format", "Completion length", "Time per phase"}
    assert seen.data is not None
    assert seen.data["rollouts"][0] | {"prompt": 0} == seen.data["rollouts"][0]
    assert seen.data["rollouts"][0]["advantage"] is None


def test_an_extended_run_does_not_show_its_earlier_end(finished: RunFolder) -> None:
    assert "finished" in page_of(finished).text
    finished.extend(yaml.safe_dump({**RECIPE, "steps": 9}), "cafe02")
    finished.append_metrics(metrics_row(4) | evaluation_row({**AFTER, "accuracy": 0.777}))
    text = page_of(finished).text
    assert "4 of 9 steps done" in text
    assert "before (step 0) latest (step 4) change accuracy 19.0 % 77.7 %" in text


def test_the_report_is_replaced_whole(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.report_path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rethink.store.atomic.write_all", full)
        with pytest.raises(StorageFailure):
            write_report(finished)
    assert finished.report_path.read_text() == "old"
    assert [name.name for name in finished.path.iterdir() if ".tmp-" in name.name] == []
    assert write_report(finished).read_text().startswith("<!DOCTYPE html>")


def test_a_large_run_makes_a_bounded_page_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.observe.report.facts.MAX_SAMPLE_BYTES", 60_000)
    folder = new_folder(tmp_path / "run")
    (folder.path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "batch": step, "reward/mean": step / 900}) + "\n" for step in range(1, 901))
    )
    for batch in range(30):
        folder.write_rollouts(batch, [rollout(g, "x" * 5000, 1.0) for g in range(20)], {}, group_size=1)
    seen = page_of(folder)
    packed = sample(folder)
    assert len(json.dumps(seen.data)) < 400_000
    assert f"{packed['shown']} of the run's 600 rollouts, from 25 of its 30 batches" in seen.text
    assert "Texts are cut to 500 characters" in seen.text.replace(f"{packed['text_limit']:,}", "500")
    assert len(seen.charts["Reward"]["at"]) == 300
    assert "Each point is the mean of 3 steps." in seen.text
    assert folder.report_path.stat().st_size < 600_000


# --- parts -------------------------------------------------------------------------------------------------------


def test_the_terminal_table_shows_the_numbers() -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(before_after_table({"before": BEFORE, "after": AFTER}))
    text = " ".join(captured.get().replace("│", " ").replace("┃", " ").split())
    for words in (
        "before after change", "accuracy 19.0 % 65.5 % +46.5 points", "95 % interval 14.2 to 25.0 % 58.6 to 71.7 %",
        "format 30.5 % 98.0 % +67.5 points", "mean length 41.3 tokens 36.7 tokens -4.5", "problems 200 200",
        "The intervals do not overlap",
    ):  # fmt: skip
        assert words in text, text


@pytest.mark.parametrize("summary", [{}, {"before": BEFORE}, {"before": None, "after": {"accuracy": math.nan}}])
def test_the_terminal_table_of_an_unfinished_run(summary: dict[str, Any]) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(before_after_table(summary))
    assert "–" in captured.get()
    assert "nan" not in captured.get()


def test_the_verdict_follows_the_intervals() -> None:
    assert "rose" in verdict(BEFORE, AFTER)
    assert "fell" in verdict(AFTER, BEFORE)
    assert "may be chance" in verdict(BEFORE, BEFORE)
    assert verdict(BEFORE, None) == verdict(None, None) == verdict({"accuracy_ci": [None, 1]}, AFTER) == ""
    assert [row.label for row in comparison({"truncated": 0.5}, None)][-2] == "truncated"


@pytest.mark.parametrize("scale", [1e-300, 1e-15, 1e-13, 1e-6, 1.0, 1e9, 1e300])
def test_charts_of_any_size(scale: float) -> None:
    values: list[float | None] = [0.0, None, 0.3 * scale, scale, -scale]
    svg = draw(Chart("x", [1.0, 2.0, 3.0, 4.0, 5.0], [Line("y", values)]))
    assert "nan" not in svg
    path = re.search(r'<path class="line"[^>]* d="([^"]+)"', svg)
    assert path is not None
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
    middle, top, bottom = heights[0], heights[2], heights[3]
    assert top < heights[1] < middle < bottom
    assert middle - top == pytest.approx(bottom - middle, abs=0.2)


def test_ticks_are_round_and_cover_the_values() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0.0, 9e-14)[-1] >= 9e-14
    assert ticks(-3.0, 117.0) == [-50.0, 0.0, 50.0, 100.0, 150.0]


def test_a_value_between_gaps_is_a_dot() -> None:
    svg = draw(Chart("x", [1.0, 2.0, 3.0, 4.0], [Line("y", [1.0, None, 2.0, 3.0])]))
    assert re.search(r'd="M[\d.]+ [\d.]+h0M[\d.]+ [\d.]+L', svg)


def test_chart_text_is_escaped() -> None:
    evil = "</svg><script>"
    chart = Chart(evil, [1.0, 2.0], [Line(evil, [1.0, 2.0])], unit=evil, points=[Point(1, 1)], points_label=evil)
    svg = draw(chart)
    assert evil not in svg
    assert evil in html.unescape(svg)
    assert charts_module.legend(chart)[0] == ("line", evil, 1)
