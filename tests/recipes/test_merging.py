"""`recipe: NAME`: what a user wrote stands above the recipe, and the command line above both."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.loading import load_config
from orchestrator.config.objectives import HiddenStatesObjective
from orchestrator.config.recipes import merged, read_recipe
from orchestrator.config.run import RunConfig
from orchestrator.config.setups import expand
from orchestrator.config.writing import as_yaml
from orchestrator.errors import ConfigError

BASE = """
corpus: {languages: {en: en.txt, de: de.txt}}
teachers: {big: {model: some/model, languages: [en, de]}}
student: {layers: 2, hidden_size: 8, heads: 2}
"""


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    path = folder / "orch.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides=overrides)


def types(config: RunConfig) -> list[str]:
    return [o.type for o in (*config.objectives, *(o for phase in config.phases for o in phase.objectives))]


def test_a_recipe_gives_what_the_file_leaves_open(tmp_path: Path) -> None:
    config = load(tmp_path, "recipe: pkd\n" + BASE)
    assert types(config) == ["masked-lm", "soft-targets", "hidden-states"]
    assert config.student is not None
    assert config.student.initialisation.map == "bottom"
    assert config.student.layers == 2


def test_the_file_is_stronger_key_by_key(tmp_path: Path) -> None:
    text = "recipe: pkd\n" + BASE.replace("heads: 2}", "heads: 2, initialisation: {layers: random}}")
    config = load(tmp_path, text)
    assert config.student is not None
    assert (config.student.initialisation.layers, config.student.initialisation.map) == ("random", "bottom")


@pytest.mark.parametrize("recipe", ["pkd", "tinybert"])
@pytest.mark.parametrize(
    "own",
    [
        "objectives: [{type: masked-lm}]",
        "phases: [{name: only, share: 1.0, objectives: [{type: masked-lm}]}]",
    ],
)
def test_objectives_and_phases_of_the_file_replace_those_of_the_recipe(tmp_path: Path, recipe: str, own: str) -> None:
    assert types(load(tmp_path, f"recipe: {recipe}\n{BASE}{own}\n")) == ["masked-lm"]


def test_the_command_line_changes_a_recipe(tmp_path: Path) -> None:
    config = load(tmp_path, BASE, "objectives.2.weight=7", "recipe=pkd", "training.steps=9")
    hidden = config.objectives[2]
    assert isinstance(hidden, HiddenStatesObjective)
    assert (hidden.weight, hidden.normalise, config.training.steps) == (7.0, "l2", 9)
    assert types(load(tmp_path, BASE, "recipe=tinybert", "objectives=[{type: masked-lm}]")) == ["masked-lm"]


def test_a_recipe_of_the_command_line_replaces_the_objectives_of_the_file(tmp_path: Path) -> None:
    text = f"recipe: pkd\n{BASE}objectives: [{{type: masked-lm}}]\n"
    assert types(load(tmp_path, text, "recipe=hard-labels")) == ["hard-labels"]
    assert types(load(tmp_path, text, "recipe=null")) == ["masked-lm"]


def test_a_recipe_of_ones_own_is_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    head = "# Me (2026): Mine.\n#\n# Does it. And more.\n"
    mine.write_text(f"{head}\ntraining: {{freeze: [embedding]}}\nobjectives: [{{type: masked-lm}}]\n")
    config = load(tmp_path, f"recipe: {mine}\n{BASE}")
    assert config.training.freeze == ("embedding",)
    recipe = read_recipe(str(mine))
    assert (recipe.name, recipe.cited, recipe.summary, recipe.signals) == ("mine", "Me 2026", "Does it", ())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recipe: tinybart", "There is no recipe 'tinybart': did you mean 'tinybert'?"),
        ("recipe: xyzzy", "There is no recipe 'xyzzy': known here: distilbert,"),
        ("recipe: [pkd]", "recipe: the name of a recipe, or a path to one, was expected, found ['pkd']."),
        ("recipe: none.yaml", "The recipe none.yaml cannot be read: there is no such file."),
        ("recpie: pkd", "unknown key 'recpie': did you mean 'recipe'?"),
        ("training: {recipe: pkd}\nrecipe: pkd", "with recipe pkd is not a valid configuration"),
    ],
)
def test_refuses_in_one_sentence(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{line}\n{BASE}")
    assert expected in str(caught.value)


def test_a_recipe_cannot_name_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: pkd\n")
    with pytest.raises(ConfigError, match="cannot name another one"):
        load(tmp_path, f"recipe: {path}\n{BASE}")


TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=4)


@given(tree=SECTIONS, recipe=SECTIONS)
def test_merging_keeps_all_that_a_user_wrote_and_is_settled_after_once(
    tree: dict[str, object], recipe: dict[str, object]
) -> None:
    joined = merged(tree, recipe)
    assert merged(tree, {}) == tree
    assert merged({}, recipe) == recipe
    assert merged(tree, joined) == joined
    assert_within(tree, joined)


def assert_within(part: object, whole: object) -> None:
    if isinstance(part, dict) and isinstance(whole, dict):
        for key, value in part.items():
            assert_within(value, whole[key])
    else:
        assert part == whole


@pytest.mark.parametrize("defaults", [False, True])
@pytest.mark.parametrize("recipe", ["fitnets", "pkd", "sid", "minilm", "multilingual-sentence", "monoshot", "hinton"])
def test_what_is_written_out_is_read_back(tmp_path: Path, recipe: str, defaults: bool) -> None:
    config = load(
        tmp_path, f"recipe: {recipe}\n{BASE}", "objectives.0.weight=2" if recipe == "hinton" else "run.seed=3"
    )
    run = expand(config)
    text = as_yaml(run, defaults=defaults)
    again = load(tmp_path, text)
    assert again.model_dump(exclude={"run"}) == config.model_dump(exclude={"run"})
    assert again.run.setup == run.setup
    assert ("checkpoint_seconds" in text) == defaults
