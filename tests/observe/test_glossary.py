"""The glossary covers what a run logs, says something about each, and its page is current."""

from pathlib import Path

import pytest

from rethink.observe import glossary

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

LOGGED = tuple(
    """
step batch reward/mean reward/std reward/failed reward/abstained rollout/accuracy rollout/format rollout/length_mean
rollout/length_max rollout/truncated rollout/no_signal rollout/reflection rollout/reexamining rollout/corrected
rollout/tokens rollout/tokens_per_s
rollout/repeated policy/loss policy/kl policy/entropy policy/clip_low policy/clip_high policy/ratio_mean
policy/ratio_max policy/mismatch policy/mismatch_max optimizer/learning_rate optimizer/grad_norm tokens/trained
tokens/total time/rollout time/reward time/train time/optimizer time/evaluation time/checkpoint time/step
memory/peak_rss_mb eval/accuracy eval/accuracy_low eval/accuracy_high eval/format eval/length_mean eval/truncated eval/n
eval/judged
train/loss train/entropy train/tokens train/input_tokens train/epoch eval/loss eval/tokens
reward_model/loss reward_model/accuracy reward_model/margin eval/reward_model_loss eval/margin eval/margin_median
eval/ece
""".split()
)


@pytest.mark.parametrize("name", LOGGED)
def test_every_logged_metric_is_described(name: str) -> None:
    info = glossary.describe(name)
    assert info.name == name
    assert all((info.meaning, info.healthy, info.unhealthy_action, info.source))


def test_no_name_is_there_twice() -> None:
    names = [info.name for _, _, infos in glossary.SECTIONS for info in infos]
    assert len(names) == len(set(names))
    assert set(names) - {"reward/<part>", "failure/<cause>"} == set(LOGGED)


def test_reward_parts_and_unknown_names() -> None:
    assert glossary.describe("reward/accuracy").unit == "score"
    assert glossary.describe("reward/accuracy").name == "reward/accuracy"
    assert glossary.describe("failure/timeout").unit == "outcomes"
    for name in ("reward/", "failure/", "policy/nonsense", ""):
        with pytest.raises(KeyError):
            glossary.describe(name)


def test_the_page_is_current() -> None:
    assert DOCS.read_text() == glossary.markdown() + "\n", "run: python -m rethink.observe.glossary > docs/metrics.md"


def test_the_page_is_a_table_of_six_columns() -> None:
    rows = [line for line in glossary.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {7}
