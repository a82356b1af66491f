"""Training in phases: what enters and leaves, what stays frozen, what is logged, and how a killed run goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from orchestrator import storage
from orchestrator.config.models import InitialisationSection, ShareSection
from orchestrator.config.objectives import (
    HiddenStatesObjective,
    MaskedLMObjective,
    Objective,
    RampSection,
    WindowSection,
)
from orchestrator.config.phases import PhaseSpec, make_phases
from orchestrator.config.run import PhaseSection, TrainingSection
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students import loop, stepping
from orchestrator.students.build import BuiltGroup, build_group
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.optimising import learning_rate
from tests.faults.disks import Crash, CrashingDisk, FaultyDisk
from tests.students.test_resume import digests
from tests.students.tiny import HIDDEN, MASKED_LM, SOFT, STUDENT, World, make_job, student

STEPS = 9
DROPOUT = STUDENT.model_copy(update={"dropout": 0.2, "initialisation": InitialisationSection(embedding="random")})
ONE_LAYER = HiddenStatesObjective(type="hidden-states", map="last")


def staged(*sections: Mapping[str, object], freeze: tuple[str, ...] = (), steps: int = STEPS) -> tuple[PhaseSpec, ...]:
    read = [PhaseSection.model_validate(section) for section in sections]
    return make_phases(read, TrainingSection(steps=steps, freeze=freeze), objectives=(), student_layers=2)


def two_stages(**of_the_first: object) -> tuple[PhaseSpec, ...]:
    """TinyBERT's: first the layers, then the output."""
    third = STEPS // 3 / STEPS
    return staged(
        {"name": "layers", "share": third, "objectives": [HIDDEN]} | of_the_first,
        {"name": "output", "share": 1 - third, "objectives": [SOFT, MASKED_LM]},
    )


def layer_by_layer() -> tuple[PhaseSpec, ...]:
    """MobileBERT's: a layer at a time, then everything but the embedding."""
    return staged(
        {"name": "transfer", "share": 4 / 9, "objectives": [HIDDEN], "progress": "layer-by-layer"},
        {"name": "distil", "share": 5 / 9, "objectives": [SOFT, HIDDEN], "freeze": ["embedding"]},
    )


def job_of(world: World, root: Path, phases: tuple[PhaseSpec, ...], **options: object) -> GroupJob:
    one = student("ann", "aa", "bb", phases=phases, template=DROPOUT)
    return make_job(world, root, one, steps=STEPS, accumulation=2, **options)  # type: ignore[arg-type]


def rows_of(job: GroupJob, name: str = "ann") -> list[dict[str, object]]:
    return [json.loads(line) for line in (job.folder(name) / "metrics.jsonl").read_text().splitlines()]


def saved(job: GroupJob, step: int, name: str = "ann") -> checkpoints.StudentCheckpoint:
    return checkpoints.load(job.folder(name) / "checkpoints", step, fingerprint=job.fingerprint)


def moved(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> set[str]:
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


def part(name: str) -> str:
    """The part of an encoder, or `projection`, that a parameter's name belongs to."""
    if name.startswith("projections."):
        return "projection"
    if ".layer." in name:
        return f"layer-{int(name.split('.layer.')[1].split('.')[0]) + 1}"
    return "embedding" if "embedding" in name else "head"


def test_objectives_enter_and_leave_and_rows_never_mix_phases(world: World, tmp_path: Path) -> None:
    job = job_of(world, tmp_path, two_stages())
    train_group(job)
    rows = rows_of(job)
    assert [(row["step"], row["phase"]) for row in rows] == [
        (2, "layers"),
        (3, "layers"),  # its last step, though no other
        (4, "output"),
        (6, "output"),
        (8, "output"),
        (9, "output"),
    ]
    terms = [set(row["terms"]) for row in rows]  # type: ignore[call-overload]
    assert terms == [{"hidden-states"}] * 2 + [{"soft-targets", "masked-lm"}] * 4


def test_one_phase_after_another_of_the_same_is_one_phase(world: World, tmp_path: Path) -> None:
    """The same names, projections, moments and learning rate, to the last bit."""
    whole = job_of(world, tmp_path / "whole", staged({"name": "a", "share": 1, "objectives": [HIDDEN, MASKED_LM]}))
    both = [{"name": name, "share": 1 / 3, "objectives": [HIDDEN, MASKED_LM]} for name in "abc"]
    cut = job_of(world, tmp_path / "cut", staged(*both))
    for job in (whole, cut):
        train_group(job)
    assert digests(cut) == digests(whole)


def test_what_is_frozen_stays_and_keeps_its_moments(world: World, tmp_path: Path) -> None:
    phases = staged(
        {"name": "all", "share": 3 / 9, "objectives": [HIDDEN, MASKED_LM]},
        {"name": "top", "share": 3 / 9, "objectives": [HIDDEN, MASKED_LM], "freeze": ["embedding", "layer-1"]},
        {"name": "again", "share": 3 / 9, "objectives": [HIDDEN, MASKED_LM]},
    )
    job = job_of(world, tmp_path, phases, keep_checkpoints=STEPS, weight_decay=0.5)
    train_group(job)
    kept = {step: saved(job, step).tensors for step in (2, 3, 4, 6, 7)}
    names = set(kept[3]["model"])
    assert all(kept[step]["model"].keys() == names for step in kept)  # whatever is frozen
    still = {name for name in names if part(name) in ("embedding", "layer-1")}
    assert still
    assert moved(kept[2]["model"], kept[3]["model"]) == names
    assert moved(kept[3]["model"], kept[6]["model"]) == names - still
    assert moved(kept[6]["model"], kept[7]["model"]) == names
    for name in names:
        steps = [float(kept[step]["optimizer"][f"{name}|step"]) for step in (3, 6, 7)]
        assert steps == ([3, 3, 4] if name in still else [3, 6, 7]), name
    for name in still:
        assert torch.equal(kept[3]["optimizer"][f"{name}|exp_avg_sq"], kept[6]["optimizer"][f"{name}|exp_avg_sq"])


def test_what_is_frozen_has_no_gradient(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting: list[set[str]] = []
    clip = stepping.clip_gradients

    def watch(parts: Mapping[tuple[str, ...], Mapping[str, torch.nn.Parameter]], *, max_norm: float) -> object:
        wanting.append({part(name) for own in parts.values() for name, p in own.items() if p.grad is not None})
        return clip(parts, max_norm=max_norm)

    monkeypatch.setattr(stepping, "clip_gradients", watch)
    train_group(job_of(world, tmp_path, layer_by_layer()))
    first, second = {"embedding", "layer-1", "projection"}, {"layer-2", "projection"}
    assert wanting[:2] == [first] * 2
    assert wanting[2:4] == [second] * 2
    assert wanting[4:] == [{"layer-1", "layer-2", "head", "projection"}] * 5


def test_progress_matches_layers_one_by_one_with_the_same_projections(world: World, tmp_path: Path) -> None:
    built = build_group(job_of(world, tmp_path, layer_by_layer()))
    pairs = [[term.pairs for term in terms["aa"]] for terms in built.terms["ann"]]
    assert pairs == [[((0, 0), (1, 2))], [((2, 4),)], [(), ((0, 0), (1, 2), (2, 4))]]
    hidden = [terms["aa"][-1] for terms in built.terms["ann"]]
    assert {term.name for term in hidden} == {"hidden-states"}
    assert hidden[0].projections + hidden[1].projections == hidden[2].projections
    assert len(built.module.projections) == 3


def test_the_top_is_trained_first_when_unfreezing_goes_down(world: World, tmp_path: Path) -> None:
    phases = staged(
        {"name": "p", "share": 1, "objectives": [SOFT], "progress": "unfreeze-down"}, freeze=("embedding",), steps=STEPS
    )
    job = job_of(world, tmp_path, phases, keep_checkpoints=STEPS)
    train_group(job)
    at = {step: saved(job, step).tensors["model"] for step in (1, phases[0].last_step, STEPS)}
    assert {part(name) for name in moved(at[1], at[phases[0].last_step])} == {"layer-2", "head"}
    assert {part(name) for name in moved(at[1], at[STEPS])} == {"layer-1", "layer-2", "head"}


def test_a_frozen_part_that_is_shared_is_frozen_for_all(world: World, tmp_path: Path) -> None:
    phases = staged({"name": "p", "share": 1, "objectives": [MASKED_LM], "freeze": ["embedding"]})
    students = [student(name, lang, phases=phases, template=DROPOUT) for name, lang in (("ann", "aa"), ("bob", "bb"))]
    job = make_job(
        world, tmp_path, *students, steps=STEPS, keep_checkpoints=STEPS, share=ShareSection(parts=("embedding",))
    )
    start = build_group(job).module.embedding
    built, _ = train_group(job)
    assert start is not None
    assert built.module.embedding is not None
    assert torch.equal(built.module.embedding, start)
    assert "embedding" in saved(job, STEPS).tensors["model"]  # frozen, and kept all the same
    assert "layer-1" in {part(name) for name in moved(saved(job, 1).tensors["model"], saved(job, 9).tensors["model"])}


def test_the_learning_rate_of_a_phase(world: World, tmp_path: Path) -> None:
    phases = two_stages(learning_rate=0.25)
    job = job_of(world, tmp_path, phases, log_every=1)
    train_group(job)
    rates = [row["learning_rate"] for row in rows_of(job)]
    assert rates == [
        learning_rate(step, job.training, phases[0 if step <= phases[0].last_step else 1])
        for step in range(1, STEPS + 1)
    ]
    assert max(rates[:3]) == 0.25  # type: ignore[type-var]


def test_weights_follow_their_schedules(world: World, tmp_path: Path) -> None:
    """A window that is open for two steps, and a ramp: the same losses, weighted step by step."""
    window = WindowSection(schedule="window", value=2.0, first_step=2, last_step=3)
    ramp = RampSection(schedule="linear", start=1.0, end=0.0, last_step=4)
    objectives: tuple[Objective, ...] = (
        MaskedLMObjective(type="masked-lm", weight=window),
        HIDDEN.model_copy(update={"weight": ramp}),
    )
    phases = staged({"name": "p", "share": 1, "objectives": objectives})
    job = job_of(world, tmp_path, phases, log_every=1)
    train_group(job)
    rows = rows_of(job)
    names = [set(row["terms"]) for row in rows]  # type: ignore[call-overload]
    both, hidden = {"masked-lm", "hidden-states"}, {"hidden-states"}
    assert names == [hidden, both, both, *[set()] * 6]  # at weight 0 a term is left out
    shares = [1.0, 2 / 3, 1 / 3]
    for row, share in zip(rows, shares, strict=False):
        terms = row["terms"]
        assert isinstance(terms, dict)
        expected = share * terms["hidden-states"] + 2.0 * terms.get("masked-lm", 0.0)
        assert row["loss"] == pytest.approx(expected, rel=1e-4)
    assert [row["loss"] for row in rows[3:]] == [0.0] * 6
    still = saved(job, STEPS).tensors["model"]
    assert not moved(still, saved(job, STEPS - 1).tensors["model"])


def test_means_are_over_the_steps_in_which_a_term_was_computed(world: World, tmp_path: Path) -> None:
    window = WindowSection(schedule="window", first_step=3, last_step=3)
    objectives = (MaskedLMObjective(type="masked-lm", weight=window), HIDDEN)
    phases = staged({"name": "p", "share": 1, "objectives": objectives})
    each, all_at_once = (job_of(world, tmp_path / str(every), phases, log_every=every) for every in (1, STEPS))
    for job in (each, all_at_once):
        train_group(job)
    [row] = rows_of(all_at_once)
    term = rows_of(each)[2]["terms"]["masked-lm"]  # type: ignore[index]
    assert row["terms"]["masked-lm"] == pytest.approx(term, abs=1e-6)  # type: ignore[index]


def test_the_log_says_when_a_phase_begins(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=loop.__name__):
        train_group(job_of(world, tmp_path, layer_by_layer()))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "group group: phase transfer-1, steps 1 to 2",
        "group group: phase transfer-2, steps 3 to 4, frozen: embedding, layer-1",
        "group group: phase distil, steps 5 to 9, frozen: embedding",
    ]


def shared_and_frozen(world: World, root: Path) -> GroupJob:
    """Two students with a shared embedding, layer by layer, the embedding frozen from the second part on."""
    students = [
        student("ann", "aa", "bb", phases=layer_by_layer(), template=DROPOUT),
        student("bob", "bb", phases=layer_by_layer(), template=DROPOUT),
    ]
    share = ShareSection(parts=("embedding", "layer-2"), projections=True)
    return make_job(world, root, *students, share=share, steps=STEPS, accumulation=2, keep_checkpoints=STEPS)


@pytest.mark.parametrize("kind", ["two stages", "layer by layer", "shared and frozen"])
def test_a_run_goes_on_from_any_step_bit_by_bit(
    world: World, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each step in turn, the last of a phase and those inside a frozen one among them."""

    def make(root: Path) -> GroupJob:
        if kind == "shared and frozen":
            return shared_and_frozen(world, root)
        phases = two_stages() if kind == "two stages" else layer_by_layer()
        return job_of(world, root, phases, keep_checkpoints=STEPS)

    undisturbed = make(tmp_path / "undisturbed")
    train_group(undisturbed)
    for step in range(1, STEPS):
        job = make(tmp_path / str(step))
        _train_until(job, step, monkeypatch)
        train_group(job)
        assert digests(job) == digests(undisturbed), step
        assert rows_of(job)[-1]["phase"] == rows_of(undisturbed)[-1]["phase"]
        assert [row["step"] for row in rows_of(job)] == [row["step"] for row in rows_of(undisturbed)]


def _train_until(job: GroupJob, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose power as soon as the checkpoint of a step is whole."""
    save = loop.save

    def save_and_die(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        if arguments[-1].step == step:  # type: ignore[attr-defined]
            raise Crash

    monkeypatch.setattr(loop, "save", save_and_die)
    with pytest.raises(Crash):
        train_group(job)
    monkeypatch.setattr(loop, "save", save)


@pytest.mark.parametrize("kill", range(4))
def test_a_staged_run_that_is_killed_anywhere_goes_on(
    world: World, tmp_path: Path, kill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shared_and_frozen(world, tmp_path / "whole")
    counted = FaultyDisk()
    monkeypatch.setattr(storage, "disk", counted)
    train_group(whole)
    job = shared_and_frozen(world, tmp_path / "killed")
    disk = CrashingDisk(round((kill + 0.5) * counted.num_calls / 4))
    monkeypatch.setattr(storage, "disk", disk)
    with pytest.raises(Crash):
        train_group(job)
    disk.lose_power()
    monkeypatch.setattr(storage, "disk", FaultyDisk())
    train_group(job)
    assert digests(job) == digests(whole)


def test_a_phase_matched_by_no_pair_of_a_teacher_is_left_out(world: World, tmp_path: Path) -> None:
    phases = staged({"name": "p", "share": 1, "objectives": [ONE_LAYER, MASKED_LM], "progress": "bottom-up"})
    built: BuiltGroup = build_group(job_of(world, tmp_path, phases))
    names = [[term.name for term in terms["aa"]] for terms in built.terms["ann"]]
    assert names == [["masked-lm"], ["hidden-states", "masked-lm"]]
