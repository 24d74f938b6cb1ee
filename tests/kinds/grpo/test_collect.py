"""A batch is planned from its index alone, sampled once, and read back as it was."""

from __future__ import annotations

from pathlib import Path

from rethink.kinds.grpo.collect import Sources, collect, plan
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.kinds.grpo.positions import Positions
from rethink.model.text.prompt import PromptRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.rubric import closing
from rethink.rollout.engines.scripted import ScriptedEngine
from rethink.seeds import draw
from rethink.store.run_folder import RunFolder

TEXT = """
name: t
steps: 8
seed: 3
tasks: [{kind: reasoning-gym, name: chain_sum}]
prompt: {template: raw}
reward: {parts: [{name: format}]}
rollout: {prompts_per_batch: 2, group_size: 3, max_new_tokens: {0: 40, 4: 60}}
algorithm: {mini_batches: 2}
"""


def test_a_batch_is_a_function_of_its_index(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    recipe = parse_recipe(TEXT, "test")

    def sources(*lines: str) -> Sources:
        mix = task_mix(recipe)
        engine = ScriptedEngine(lines, small_tokenizer.encode)
        engine.publish(None, 4)
        return Sources(mix, PromptRenderer(small_tokenizer, recipe.prompt, 200), engine, rubric_of(recipe, mix), ())

    one, other = sources("<think>a</think><answer>1</answer>", "no", "no"), sources("other")
    folder = RunFolder.create(tmp_path / "run", recipe_yaml="", recipe_hash="h", environment={}, choices={})
    with closing(one.rubric), closing(other.rubric):
        positions = [Positions(recipe, made.mix, folder) for made in (one, other)]
        planned = plan(recipe, one, positions[0].before(2), range(2))
        plan(recipe, other, positions[1].before(0), range(2))
        assert plan(recipe, other, positions[1].before(2), range(2)) == planned
        assert (planned.step, planned.params.max_new_tokens) == (4, 60)
        assert {one.version for one in planned.asked} == {4}
        assert planned.asked[1].seeds == tuple(draw("rollout", 3, 2, 1, sample) for sample in range(3))
        made, read = (
            collect(recipe, *both, 2) for both in ((one, folder, positions[0]), (other, folder, positions[1]))
        )
    assert [r.reward for r in made.rollouts] == [1.0, 0.0, 0.0] * 2
    assert made.rollouts[0].advantage == max(r.advantage for r in made.rollouts) > 0
    for one_rollout, other_rollout in zip(made.rollouts, read.rollouts, strict=True):
        assert one_rollout.problem == other_rollout.problem
        assert one_rollout.advantage == other_rollout.advantage
        assert one_rollout.completion.text == other_rollout.completion.text
    assert (made.no_signal, read.no_signal) == ((False, False),) * 2
    assert {row["step"] for row in folder.rollout_rows(2)} == {5}
