"""Reading recipes: YAML, overrides, errors that name the fix, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.recipe_files import find_recipe, load_recipe, parse_recipe, recipe_to_yaml, shipped_recipes

MINIMAL = """\
name: small
steps: 4
tasks:
  - {kind: reasoning-gym, name: chain_sum, params: {max_terms: 2}}
"""


def load(*overrides: str, text: str = MINIMAL) -> Recipe:
    return parse_recipe(text, "The recipe `small`", overrides)


def refused(*overrides: str, text: str = MINIMAL) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*overrides, text=text)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads_and_survives_yaml(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(recipe_to_yaml(recipe), name) == recipe
    assert recipe.name == Path(name).name
    assert recipe.description


def test_what_ships() -> None:
    assert set(shipped_recipes()) >= {
        "quickstart",
        "zero-gsm8k",
        "zero-countdown",
        "paper/r1-zero",
        "paper/r1-zero-qwen-32b",
    }


def test_published_values_of_r1_zero() -> None:
    """DESIGN's table of the paper."""
    recipe = load_recipe("paper/r1-zero")
    assert (recipe.optimizer.learning_rate, recipe.algorithm.beta, recipe.rollout.temperature) == (3e-6, 0.001, 1.0)
    assert recipe.rollout.prompts_per_batch * recipe.rollout.group_size == 8192
    assert (recipe.rollout.group_size, recipe.steps_per_batch, recipe.steps) == (16, 16, 10400)
    assert recipe.rollout.prompts_per_batch // recipe.algorithm.mini_batches == 32
    assert [recipe.rollout.max_new_tokens_at(step) for step in (0, 8199, 8200)] == [32768, 32768, 65536]
    assert recipe.algorithm.reference_every == 400
    assert {part.name: part.weight for part in recipe.reward.parts} == {"accuracy": 1.0, "format": 1.0}
    qwen = load_recipe("paper/r1-zero-qwen-32b")
    assert (qwen.optimizer.learning_rate, qwen.rollout.max_new_tokens) == (2e-6, 32768)
    kept = {"optimizer", "rollout", "name", "description", "model"}
    assert qwen.model_dump(exclude=kept) == recipe.model_dump(exclude=kept)


def test_a_file_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").name == "small"
    assert load_recipe(tmp_path / "quickstart", ["seed=3"]).seed == 3
    assert find_recipe("quickstart.yaml") == shipped_recipes()["quickstart"]


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean `quickstart`\?.*zero-gsm8k"):
        load_recipe("quikstart")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("tasks.0.params.max_terms=3", "tasks.0.params.max_terms", 3),
        ("tasks.0.params.new=[1, a]", "tasks.0.params.new", [1, "a"]),
        ("optimizer.learning_rate=2e-5", "optimizer.learning_rate", 2e-5),
        ("optimizer.learning_rate=2.5E-5", "optimizer.learning_rate", 2.5e-5),
        ("optimizer.max_grad_norm=null", "optimizer.max_grad_norm", None),
        ("optimizer.max_grad_norm=2", "optimizer.max_grad_norm", 2.0),
        ("rollout.max_new_tokens={0: 8, 2: 16}", "rollout.max_new_tokens", {0: 8, 2: 16}),
        ("reward.parts.1.weight=0.5", "reward.parts.1.weight", 0.5),
        ("trackers=[tensorboard]", "trackers", ("tensorboard",)),
        ("prompt.instruction=Solve: {question}", "prompt.instruction", "Solve: {question}"),
        ("prompt.instruction={question}: now", "prompt.instruction", "{question}: now"),
        ("prompt.instruction={question}", "prompt.instruction", "{question}"),
        ("prompt.prefill='<think> '", "prompt.prefill", "<think> "),
        ("model.revision=123", "model.revision", "123"),
        ("model.revision=null", "model.revision", None),
        ("description=a=b", "description", "a=b"),
    ],
)
def test_overrides(override: str, path: str, value: object) -> None:
    node: object = load(override)
    for segment in path.split("."):
        if isinstance(node, dict):
            node = node[segment]
        elif isinstance(node, tuple):
            node = node[int(segment)]
        else:
            node = getattr(node, segment)
    assert node == value
    assert type(node) is type(value)


def test_overriding_an_entry_of_a_default_list_keeps_the_others() -> None:
    parts = load("reward.parts.1.weight=0.5").reward.parts
    assert [(part.name, part.weight) for part in parts] == [("accuracy", 1.0), ("format", 0.5)]


def test_later_overrides_win_and_a_step_of_a_limit_can_be_set() -> None:
    recipe = load("rollout.max_new_tokens={0: 8, 2: 16}", "rollout.max_new_tokens.2=32", "seed=1", "seed=2")
    assert (recipe.rollout.max_new_tokens, recipe.seed) == ({0: 8, 2: 32}, 2)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.grup_size=4", ["`rollout.grup_size` is not a key", "`rollout.group_size`", "prompts_per_batch"]),
        ("learning_rate=1e-5", ["Did you mean `optimizer.learning_rate`?"]),
        ("optimizer.beta=0.1", ["Did you mean `algorithm.beta`?"]),
        ("tasks.0.wieght=1", ["`tasks.0.wieght`", "`tasks.0.weight`"]),
        ("rollout.group_size=eight", ['"eight"', "a whole number above 0", "`rollout.group_size=8`"]),
        ("rollout.group_size=8.5", ["8.5", "a whole number above 0"]),
        ("rollout.group_size=true", ["is true", "a whole number above 0"]),
        ("rollout.group_size='8'", ['"8"', "a whole number"]),
        ("rollout.top_p=1.5", ["1.5", "above 0 and at most 1"]),
        ("optimizer.learning_rate=.inf", ["Infinity", "a number above 0"]),
        ("optimizer.learning_rate=.nan", ["NaN", "a number above 0"]),
        ("model.dtype=bf16", ["`auto`, `bfloat16` or `float32`", "`model.dtype=bfloat16`"]),
        ("tasks.0.kind=reasoning_gym", ["`tasks.0.kind=reasoning-gym`"]),
        ("rollout.max_new_tokens=many", ["a mapping {step: a whole number}"]),
        ("rollout.max_new_tokens={0: many}", ["`rollout.max_new_tokens.0`", '"many"']),
        ("rollout.max_new_tokens={first: 3}", ["`rollout.max_new_tokens` is", "a mapping {step: a whole number}"]),
        ("prompt.prefill=null", ["is null", 'Write ""']),
        ("rollout.stop_strings=[1]", ["`rollout.stop_strings.0` is 1", "in quotes"]),
        ("trackers=[wandbb]", ["`trackers.0`", "`wandb`"]),
        ("tasks=[]", ["at least 1"]),
        ("evaluation=null", ["`evaluation` is null", "a section"]),
        ("name=a/b", ["`name`", "letters, digits"]),
        ("steps=null", ["`steps` is null", "a whole number"]),
        ("tasks.0.curriculum=[{params: {a: 1}}]", ["`tasks.0.curriculum.0.step` is missing", "First step"]),
        ("steps", ["`steps` is not an override", "key=value"]),
        ("=3", ["is not an override"]),
        ("tasks..name=x", ["is not an override"]),
        ("tasks.1.name=x", ["`tasks` is a list", "0 to 0", "tasks=["]),
        ("tasks.first.name=x", ["`first` is not one"]),
        ("seed.x=1", ["`seed` is a single value"]),
        ("tasks.0.params=[1", ["the value is not YAML"]),
    ],
)
def test_what_is_wrong_says_what_was_given_and_what_is_allowed(override: str, says: list[str]) -> None:
    message = refused(override, text=MINIMAL + "seed: 0\n")
    for words in says:
        assert words in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_several_mistakes_are_all_named_once() -> None:
    message = refused("seed=-1", "rollout.top_k=-2", "tasks.0.kind=x")
    assert [message.count(key) for key in ("`seed` is", "`rollout.top_k` is", "`tasks.0.kind` is", "`tasks` is")] == [
        1,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 3\nseed: 1\nsteps: 4\n", ["`steps` is given twice", "lines 1 and 3"]),
        ("tasks:\n  - {kind: jsonl, name: a, name: b}\n", ["`name` is given twice", "lines 2 and 2"]),
        ("name: [a\nsteps: 3\n", ["is not YAML in line", "indentation"]),
        ("prompt:\n  instruction: Solve: {question}\n", ["is not YAML in line 2"]),
        ("", ["holds no recipe"]),
        ("- a\n", ["holds no recipe"]),
        ("name: a\n? [1, 2]\n: b\n", ["is not YAML", "unhashable"]),
        ("name: a\nsteps: 2\nx: &x [*x]\ntasks: *x\n", ["cyclic"]),
        ("a: !!python/object/apply:os.getcwd []\n", ["is not YAML"]),
        (MINIMAL + "prompt:\n  instruction: {question}\n", ["`prompt.instruction`", "in quotes"]),
    ],
)
def test_text_that_is_no_recipe(text: str, says: list[str]) -> None:
    message = refused(text=text)
    for words in says:
        assert words in message


def test_missing_keys_say_what_they_mean() -> None:
    message = refused(text="name: a\n")
    assert "`steps` is missing (Number of optimizer updates" in message
    assert "`tasks` is missing" in message


def test_merge_keys_still_work() -> None:
    text = MINIMAL + "rollout: &r {top_k: 0, group_size: 4}\nevaluation:\n  problems: 3\n"
    assert load(text=text).rollout.group_size == 4
    merged = "a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n"
    assert "`a` is not a key" in refused(text=merged)


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from("\n:#{}'\""), max_size=30
)


@given(
    description=TEXTS,
    prefill=TEXTS,
    rate=st.floats(1e-12, 1.0),
    limits=st.dictionaries(st.integers(1, 10**6), st.integers(1, 10**6), max_size=3),
    revision=st.none() | st.sampled_from(["null", "1e5", "on", "2024-01-01", "0x1"]),
)
def test_yaml_gives_back_what_was_written(
    description: str, prefill: str, rate: float, limits: dict[int, int], revision: str | None
) -> None:
    data = {
        "name": "small",
        "steps": 4,
        "description": description,
        "tasks": [{"kind": "reasoning-gym", "name": "chain_sum", "params": {"text": description, "n": [1, 2.5, None]}}],
        "prompt": {"prefill": prefill},
        "model": {"revision": revision},
        "optimizer": {"learning_rate": rate},
        "rollout": {"max_new_tokens": {0: 5} | limits},
    }
    recipe = Recipe.model_validate(data)
    assert parse_recipe(recipe_to_yaml(recipe), "x") == recipe


# --- recipes from strangers ------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 60))
HOSTILE = {
    "deep lists": "a: " + "[" * 100_000,
    "deep mappings": "a: " + "{a: " * 5000 + "1" + "}" * 5000,
    "rather deep": "a: " + "[" * 150 + "]" * 150,
    "deep by indentation": "".join(" " * i + "a:\n" for i in range(900)),
    "aliases": BOMB,
    "merges": MERGES,
    "a long text often": "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 10_000 + "]",
    "itself": "a: &a [*a]",
    "itself merged": "a: &a {<<: *a}",
    "digits": "steps: " + "9" * 100_000,
    "sexagesimal": "steps: 1" + ":10" * 200_000,
    "no number": "steps: !!int ''",
    "no number either": "steps: !!float ''",
    "no date": "steps: 2001-99-99",
    "no date at all": "steps: !!timestamp x",
    "half a surrogate pair": 'name: "\\ud800"',
    "an object": "name: !!python/object/apply:os.system [id]",
    "much": "a: " + "x" * (1 << 21),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    said = refused(text=MINIMAL + HOSTILE[name])
    assert said.startswith("The recipe `small`")
    assert len(said) < 1500
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL + HOSTILE[name])
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_aliases_and_merges_of_a_sane_size_are_read() -> None:
    text = "common: &common {max_terms: 2}\n"
    with pytest.raises(RecipeError, match="common"):  # read, and then refused as a key that is not known
        load(text=text + MINIMAL)
    recipe = load(text=MINIMAL.replace("params: {max_terms: 2}", "params: &p {<<: {max_terms: 2}, min_terms: 2}"))
    assert recipe.tasks[0].params == {"max_terms": 2, "min_terms": 2}


def test_a_recipe_in_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="neither a file"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "step", ["'${vars.v%d}${vars.v%d}'", "['${vars.v%d}', '${vars.v%d}']", "{a: '${vars.v%d}', b: '${vars.v%d}'}"]
)
def test_variables_that_grow_without_measure_are_refused(step: str) -> None:
    values = "vars:\n  v0: xxxxxxxxxx\n" + "".join(f"  v{i}: {step % (i - 1, i - 1)}\n" for i in range(1, 80))
    text = f"name: p\nkind: pipeline\n{values}stages:\n  a: {{kind: samples, recipe: {{problems: '${{vars.v79}}'}}}}\n"
    said = refused(text=text)
    assert "A text has more than" in said or ("vars.v" in said and ("letters" in said or "levels" in said))


def test_a_variable_used_too_often_is_refused() -> None:
    text = "name: p\nkind: pipeline\nvars: {v: " + "x" * 100_000 + "}\nstages:\n  a: {kind: samples, recipe: {a: "
    for use in ("'" + "${vars.v}" * 2000 + "'", "[" + "'${vars.v}', " * 2000 + "]"):
        assert "4,194,304" in refused(text=text + use + "}}\n")


def test_a_field_of_the_only_entry_is_spelled_out() -> None:
    with pytest.raises(RecipeError, match=r"For the first write `tasks\.0\.question_key=q`"):
        load_recipe("quickstart", ["tasks.question_key=q"])


def test_data_given_as_a_recipe_is_called_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1?", "answer": "1"}\n')
    with pytest.raises(RecipeError, match=r"rows\.jsonl` is data, not a recipe"):
        load_recipe(path)
