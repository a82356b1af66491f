"""Phases written out: steps without gaps, progress from layer to layer, what is frozen, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.loading import parse_config
from orchestrator.config.phases import (
    PhaseSpec,
    distinct_objectives,
    make_phases,
    objective_keys,
    phase_at,
    whole_training,
)
from orchestrator.config.reading import Tree
from orchestrator.config.run import PhaseSection, RunConfig, Setup, TrainingSection
from orchestrator.config.setups import ExpandedRun, expand
from orchestrator.errors import ConfigError

HIDDEN: Tree = {"type": "hidden-states"}
MASKED: Tree = {"type": "masked-lm"}


def phases_of(*sections: Tree, steps: int = 100, depth: int = 3, freeze: tuple[str, ...] = ()) -> tuple[PhaseSpec, ...]:
    training = TrainingSection(steps=steps, freeze=freeze)
    read = [PhaseSection.model_validate({"objectives": [HIDDEN]} | section) for section in sections]
    return make_phases(read, training, objectives=(), student_layers=depth)


def config(**changes: object) -> RunConfig:
    tree: Tree = {
        "corpus": {"languages": {"en": "en.txt", "de": "de.txt"}},
        "teachers": {"big": {"model": "m", "languages": ["en", "de"]}},
        "student": {"layers": 2, "hidden_size": 8, "heads": 2},
        "training": {"baseline": False},
    }
    return parse_config(tree | changes, where="test")


def expanded(setup: Setup = "one-to-one", **changes: object) -> ExpandedRun:
    return expand(config(**changes), setup=setup)


def test_without_phases_training_is_one() -> None:
    (student,) = expanded(objectives=[HIDDEN, MASKED], training={"baseline": False, "steps": 7}).students
    (phase,) = student.phases
    assert (phase.name, phase.first_step, phase.last_step, phase.freeze) == ("all", 1, 7, ())
    assert [objective.type for objective in student.objectives] == ["hidden-states", "masked-lm"]


def test_shares_become_steps() -> None:
    first, second, third = phases_of(
        {"name": "a", "share": 0.5, "freeze": ["layers"], "learning_rate": 0.1},
        {"name": "b", "share": 0.125},
        {"name": "c", "share": 0.375},
    )
    assert [(p.first_step, p.last_step) for p in (first, second, third)] == [(1, 50), (51, 62), (63, 100)]
    assert first.freeze == ("layer-1", "layer-2", "layer-3")
    assert (first.learning_rate, second.learning_rate) == (0.1, None)
    assert (second.step_within(51), second.step_within(62), second.num_steps) == (1, 12, 12)


@given(
    shares=st.lists(st.integers(4, 8), min_size=1, max_size=5),
    steps=st.integers(60, 500),
    depth=st.integers(1, 4),
    progress=st.sampled_from(["none", "bottom-up", "layer-by-layer", "unfreeze-down"]),
)
def test_every_step_is_in_one_phase(shares: list[int], steps: int, depth: int, progress: str) -> None:
    total = sum(shares)
    sections: list[Tree] = [
        {"name": f"p{number}", "share": share / total, "progress": progress} for number, share in enumerate(shares)
    ]
    phases = phases_of(*sections, steps=steps, depth=depth)
    assert phases[0].first_step == 1
    assert phases[-1].last_step == steps
    assert all(one.last_step + 1 == two.first_step for one, two in pairwise(phases))
    assert all(phase.num_steps >= 1 for phase in phases)
    for step in (1, steps // 2, steps):
        phase = phases[phase_at(phases, step)]
        assert phase.first_step <= step <= phase.last_step
    assert len(phases) == len(shares) * (1 if progress == "none" else depth)


def test_progress_goes_from_layer_to_layer() -> None:
    up = phases_of({"name": "p", "share": 1, "progress": "bottom-up"})
    assert [(p.name, p.layers, p.freeze) for p in up] == [
        ("p-1", (0, 1), ()),
        ("p-2", (0, 1, 2), ()),
        ("p-3", (0, 1, 2, 3), ()),
    ]
    one = phases_of({"name": "p", "share": 1, "progress": "layer-by-layer"})
    assert [(p.layers, p.freeze) for p in one] == [
        ((0, 1), ()),
        ((2,), ("embedding", "layer-1")),
        ((3,), ("embedding", "layer-1", "layer-2")),
    ]
    down = phases_of({"name": "p", "share": 1, "progress": "unfreeze-down", "freeze": ["embedding"]})
    assert [(p.layers, p.freeze) for p in down] == [
        (None, ("embedding", "layer-1", "layer-2")),
        (None, ("embedding", "layer-1")),
        (None, ("embedding",)),
    ]
    assert [(p.first_step, p.last_step) for p in down] == [(1, 33), (34, 66), (67, 100)]


def test_what_training_freezes_is_frozen_in_every_phase_and_never_in_the_twin() -> None:
    run = expanded(
        training={"freeze": ["embedding"]},
        phases=[
            {"name": "a", "share": 0.5, "objectives": [HIDDEN], "freeze": ["head", "embedding"]},
            {"name": "b", "share": 0.5, "objectives": [MASKED]},
        ],
    )
    student, twin = run.students
    assert [phase.freeze for phase in student.phases] == [("embedding", "head"), ("embedding",)]
    assert [(phase.name, phase.freeze) for phase in twin.phases] == [("all", ())]
    assert [objective.type for objective in twin.objectives] == ["masked-lm"]


def test_an_objective_of_several_phases_is_one_whatever_its_weight() -> None:
    a, b, c = phases_of(
        {"name": "a", "share": 0.4, "objectives": [HIDDEN, MASKED, MASKED]},
        {"name": "b", "share": 0.4, "objectives": [MASKED | {"weight": 0.5}, HIDDEN | {"map": {1: 2, 3: 4}}]},
        {"name": "c", "share": 0.2, "objectives": [HIDDEN | {"weight": 3, "map": "uniform"}]},
    )
    assert distinct_objectives([a, b, c]) == (*a.objectives, b.objectives[1])
    keys = objective_keys(a.objectives)
    assert len(set(keys)) == 3
    assert objective_keys(b.objectives)[0] == keys[1]
    assert objective_keys(c.objectives) == keys[:1]


WINDOW: Tree = {"schedule": "window", "first_step": 5, "last_step": 20}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([{"name": "a", "share": 1, "freeze": ["body"]}], "phases.a.freeze: a student has no part 'body'"),
        ([{"name": "a", "share": 1, "freeze": ["layer"]}], "did you mean 'layers'?"),
        ([{"name": "a", "share": 1, "freeze": ["layer-4"]}], "'layer-4' is outside the student, whose layers are"),
        ([{"name": "a", "share": 1, "freeze": ["layer-0"]}], "'layer-0' is outside the student"),
        ([{"name": "a", "share": 1, "freeze": ["layers", "head", "embedding"]}], "every part of the student is frozen"),
        ([{"name": "a", "share": 0.001}, {"name": "b", "share": 0.999}], "phases.a: a share of 0.001 of 100 steps"),
        (
            [{"name": "a", "share": 0.98}, {"name": "b", "share": 0.02, "progress": "bottom-up"}],
            "2 step(s), which progress bottom-up cuts into 3 parts",
        ),
        (
            [{"name": "a", "share": 0.1, "objectives": [MASKED | {"weight": WINDOW}]}, {"name": "b", "share": 0.9}],
            "Phase 'a': objective masked-lm, weight: last_step 20 is beyond the 10 steps of this phase",
        ),
        (
            [{"name": "a", "share": 1, "objectives": [MASKED | {"weight": WINDOW | {"first_step": 21}}]}],
            "first_step 21 comes after last_step 20",
        ),
        (
            [{"name": "a", "share": 1, "objectives": [MASKED | {"weight": {"schedule": "cosine", "first_step": 101}}]}],
            "first_step 101 is beyond the 100 steps",
        ),
        (
            [
                {
                    "name": "a",
                    "share": 1,
                    "progress": "layer-by-layer",
                    "objectives": [HIDDEN | {"weight": WINDOW | {"last_step": 34}}],
                }
            ],
            "Phase 'a-1': objective hidden-states, weight: last_step 34 is beyond the 33 steps",
        ),
        (
            [{"name": "a", "share": 1, "progress": "layer-by-layer", "objectives": [HIDDEN | {"map": "last"}]}],
            "Phase 'a-1': none of its objectives matches layer 1",
        ),
        (
            [{"name": "a", "share": 1, "progress": "layer-by-layer", "objectives": [HIDDEN | {"map": "skip"}]}],
            "Phase 'a-3': none of its objectives matches layer 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(sections: list[Tree], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases_of(*sections)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_training_are_checked_without_phases() -> None:
    with pytest.raises(ConfigError, match=r"^training\.freeze: 'layer-3' is outside the student"):
        expanded(objectives=[MASKED], training={"freeze": ["layer-3"]})
    with pytest.raises(ConfigError, match=r"^objective masked-lm, weight: last_step 20 .* 10 steps of training"):
        expanded(objectives=[MASKED | {"weight": WINDOW}], training={"steps": 10})


def test_students_that_are_stepped_together_go_from_layer_to_layer_together() -> None:
    students = {
        "a": {"languages": ["en"], "layers": 2, "hidden_size": 8, "heads": 2},
        "b": {"languages": ["de"], "layers": 4, "hidden_size": 8, "heads": 2},
    }
    moving = [{"name": "p", "share": 1, "progress": "bottom-up", "objectives": [HIDDEN]}]
    with pytest.raises(ConfigError, match=r"phases\.p\.progress: .* group 'together' have 2 and 4 layers"):
        expanded("explicit", students=students, phases=moving, share={"parts": ["embedding"]})
    apart = expanded("explicit", students=students, phases=moving)
    assert [len(student.phases) for student in apart.students] == [2, 4]
    still = [{"name": "p", "share": 1, "freeze": ["layers"], "objectives": [MASKED]}]
    together = expanded("explicit", students=students, phases=still, share={"parts": ["embedding"]})
    assert [len(student.phases[0].freeze) for student in together.students] == [2, 4]


def test_objectives_of_a_student_beside_phases_are_refused() -> None:
    students = {"a": {"languages": ["en"], "objectives": [MASKED]}}
    phases = [{"name": "p", "share": 1, "objectives": [HIDDEN]}]
    with pytest.raises(ConfigError, match=r"students\.a\.objectives: 'phases' says"):
        expanded("explicit", students=students, phases=phases)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"revision": "main"}, "initialisation.revision: it belongs to 'checkpoint'"),
        ({"checkpoint": "c", "teacher": "big"}, "'checkpoint' takes the teacher's place"),
        ({"checkpoint": "c", "embedding": "random"}, "nothing is taken from it"),
        ({"teacher": "bgi"}, "there is no 'bgi'; did you mean 'big'?"),
    ],
)
def test_starts_that_contradict_themselves_are_refused(start: Tree, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(objectives=[MASKED], student={"initialisation": start})
    assert message in str(caught.value)


def test_the_twin_starts_at_random_whatever_the_student_starts_from() -> None:
    start = {"checkpoint": "c", "revision": "r", "layers": "teacher", "map": "top", "embedding": "svd"}
    run = expanded(objectives=[HIDDEN], student={"initialisation": start}, training={"baseline": True})
    twin = run.students[1].template.initialisation
    assert (twin.layers, twin.embedding, twin.checkpoint, twin.revision) == ("random", "random", None, None)


def test_the_whole_training_is_a_phase() -> None:
    phase = whole_training((), TrainingSection(steps=9))
    assert (phase.num_steps, phase.layers, phase_at([phase], 9)) == (9, None, 0)
