"""A configuration is read whole or refused with one sentence that names the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import load_config
from orchestrator.config.objectives import HiddenStatesObjective, SoftTargetsObjective
from orchestrator.errors import ConfigError

GOOD = """
corpus:
  languages: {en: en.txt, de: {train: {files: [a.txt, b.txt], where: {split: train}}}}
teachers:
  big: {model: some/model, languages: [en, de]}
student: {layers: 2, hidden_size: 8, heads: 2}
objectives:
  - {type: masked-lm}
  - {type: soft-targets, temperature: 2.0}
  - {type: hidden-states, map: {1: 3, 2: 6}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "orch.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_sections_short_forms_and_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.corpus.languages["en"].train.files == ("en.txt",)
    assert config.corpus.languages["de"].train.where == {"split": ("train",)}
    soft, hidden = config.objectives[1], config.objectives[2]
    assert isinstance(soft, SoftTargetsObjective)
    assert (soft.k, soft.tail, soft.temperature) == (64, "ghost", 2.0)
    assert isinstance(hidden, HiddenStatesObjective)
    assert hidden.map == {1: 3, 2: 6}


def test_overrides_reach_into_mappings_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    config = load_config(
        path, overrides=["training.steps=7", "objectives.1.k=5", "run.root=/tmp/x y", "student.heads=4"]
    )
    assert config.training.steps == 7
    assert config.run.root == "/tmp/x y"
    assert config.student is not None
    assert config.student.heads == 4
    soft = config.objectives[1]
    assert isinstance(soft, SoftTargetsObjective)
    assert soft.k == 5


def test_objectives_that_are_set_take_the_place_of_phases_and_the_other_way_round(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    phases = "phases=[{name: one, share: 1, objectives: [{type: masked-lm}]}]"
    assert [phase.name for phase in load_config(path, overrides=[phases]).phases] == ["one"]
    both = load_config(path, overrides=[phases, "objectives=[{type: masked-lm}]"])
    assert (len(both.objectives), both.phases) == (1, ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("layers: 2", "laysers: 2"), ["student", "unknown key 'laysers'", "did you mean 'layers'?"]),
        (("soft-targets, temperature: 2.0", "soft-target"), ["objectives.1", "did you mean 'soft-targets'?"]),
        (("type: masked-lm", "type: masked-lm, temperature: 2"), ["objectives.0", "unknown key 'temperature'"]),
        (("type: masked-lm", "weight: 1"), ["objectives.0", "needs its 'type'"]),
        (("heads: 2", "heads: 3"), ["student", "hidden_size 8 is not a multiple of heads 3"]),
        (("layers: 2", "layers: two"), ["student.layers", "found 'two'"]),
        (("model: some/model, ", ""), ["teachers.big", "give 'model'"]),
        (("{1: 3, 2: 6}", "{0: 3}"), ["counted from 1"]),
        (("{1: 3, 2: 6}", "unifrom"), ["objectives.2", "map"]),
        (("[a.txt, b.txt]", "[]"), ["corpus.languages.de", "either 'files' or 'dataset'"]),
        (("student:", "student: [1"), ["is not YAML"]),
        (("student: {", "corpus: {"), ["'corpus' is written twice", "line"]),
        (("big:", "../big:"), ["teachers", "../big"]),
    ],
)
def test_refuses_with_the_place_and_the_remedy(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD.replace(*change)))
    for part in expected:
        assert part in str(caught.value)


TABLE = "files: t.parquet"


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        (
            f"probes: {{pos: {{kind: words, {TABLE}, label: upos}}}}",
            "probes: 'pos' is of kind words; a probe reads one",
        ),
        (f"probes: {{topic: {{kind: sentence, {TABLE}}}}}", "evaluation.probes.topic.label: this key is required."),
        (f"probes: {{topic: {{kind: sentence, {TABLE}, lable: x}}}}", "unknown key 'lable': did you mean 'label'?"),
        ("probe: {}", "unknown key 'probe': did you mean 'probes'?"),
        (f"parallel: [{{name: a, {TABLE}, columns: {{}}, keys: id}}]", "unknown key 'keys': did you mean 'key'?"),
        (
            f"parallel: [{{name: a, {TABLE}, columns: {{}}}}, {{name: a, {TABLE}, columns: {{}}}}]",
            "evaluation.parallel: two sources have one name",
        ),
    ],
)
def test_refuses_an_evaluation_that_cannot_be(tmp_path: Path, evaluation: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"{GOOD}evaluation: {{{evaluation}}}\n"))
    assert expected in str(caught.value)


@pytest.mark.parametrize("override", ["training.steps", "=3", "a..b=3", "training.steps=[1", "objectives.9.k=3"])
def test_refuses_a_malformed_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, GOOD), overrides=[override])


def test_norwegian_is_a_language(tmp_path: Path) -> None:
    text = GOOD.replace("en: en.txt", "no: no.txt").replace("[en, de]", "[no, de]")
    assert "no" in load_config(write(tmp_path, text)).corpus.languages


def test_missing_file_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="orch init"):
        load_config(tmp_path / "orch.yaml")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, "run: !!python/object/apply:os.system ['true']"))


def test_a_deep_document_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, "[" * 3000))
