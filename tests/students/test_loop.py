"""Whole trainings of tiny groups: what moves, what does not, what is logged, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.config.models import InitialisationSection, ShareSection
from orchestrator.config.objectives import Objective
from orchestrator.errors import UnitError
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students import loop
from orchestrator.students.build import BuiltGroup, build_group, build_streams
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.objective import backward, micro_batch, total_counts
from tests.students.tiny import ALL, HIDDEN, MASKED_LM, MAX_LENGTH, STUDENT, World, make_job, student

RANDOM = InitialisationSection(embedding="random")
DROPOUT = STUDENT.model_copy(update={"dropout": 0.2, "initialisation": RANDOM})
ROUTES = {"aa": "mixed", "bb": "other"}


def rows_of(job: GroupJob, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (job.folder(name) / "metrics.jsonl").read_text().splitlines()]


def weights(built: BuiltGroup, name: str) -> dict[str, torch.Tensor]:
    return built.module.encoder(name).state_dict()


def test_students_that_share_nothing_train_together_as_they_train_alone(world: World, tmp_path: Path) -> None:
    """With dropout, several micro-batches, and gradients that are clipped."""
    ann, bob = student("ann", "aa", "bb", template=DROPOUT), student("bob", "bb", template=DROPOUT)
    options = {"accumulation": 2, "clip_norm": 0.05}
    together, result = train_group(make_job(world, tmp_path / "both", ann, bob, **options))
    for one in (ann, bob):
        alone, result_alone = train_group(make_job(world, tmp_path / one.name, one, **options))
        assert result_alone.tokens[one.name] == result.tokens[one.name]
        for key, tensor in weights(alone, one.name).items():
            assert torch.equal(tensor, weights(together, one.name)[key]), key
        own = {key: module for key, module in together.module.projections.items() if key.startswith(one.name)}
        for key, module in alone.module.projections.items():
            assert torch.equal(module.weight, own[key].weight)


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.type)
def test_training_learns(world: World, tmp_path: Path, objective: Objective) -> None:
    one = student("ann", "aa", objectives=[objective])
    job = make_job(world, tmp_path, one, steps=45, log_every=15, checkpoint_seconds=1000.0, learning_rate=1e-2)
    train_group(job)
    rows = rows_of(job, "ann")
    assert [row["step"] for row in rows] == [15, 30, 45]
    first, _, last = (row["terms"][objective.type] for row in rows)  # type: ignore[index]
    assert last < 0.95 * first


def test_a_logged_step_is_the_weighted_mean_over_all_its_micro_batches(world: World, tmp_path: Path) -> None:
    """Languages drawn by sampling, answered by two teachers of different tokenizer, depth and width."""
    named = student("ann", "aa", "bb", teachers=ROUTES)
    job = make_job(world, tmp_path, named, steps=1, accumulation=6)
    built = build_group(job)
    batches = build_streams(job, built.vocabularies, cursors={})["ann"].step(1)
    assert {batch.language for batch in batches} == {"aa", "bb"}
    micros = [micro_batch(built.terms["ann"][0][b.language], b, device=torch.device("cpu")) for b in batches]
    denominators = total_counts(micros)
    assert denominators["hidden-states"] == 3 * sum(batch.num_tokens for batch in batches)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    loss, sums = 0.0, dict.fromkeys(denominators, 0.0)
    for micro in micros:
        value, raw = backward(
            built.module,
            "ann",
            micro,
            denominators=denominators,
            weights=dict.fromkeys(denominators, 1.0),
            known={},
            autocast=autocast,
        )
        loss += float(value)
        sums = {name: total + float(raw[name]) for name, total in sums.items()}

    train_group(job)
    [row] = rows_of(job, "ann")
    assert row["loss"] == pytest.approx(loss, abs=2e-6)
    assert row["terms"] == pytest.approx({name: total / denominators[name] for name, total in sums.items()}, abs=2e-6)
    assert loss == pytest.approx(sum(row["terms"].values()), abs=1e-5)  # type: ignore[attr-defined]
    assert row["tokens"] == sum(batch.num_tokens for batch in batches)


def test_two_teachers_both_reach_the_student_through_their_own_projections(world: World, tmp_path: Path) -> None:
    named = student("ann", "aa", "bb", teachers=ROUTES)
    job = make_job(world, tmp_path, named, accumulation=4)
    before = {key: module.weight.clone() for key, module in build_group(job).module.projections.items()}
    built, _ = train_group(job)
    after = {key: module.weight for key, module in built.module.projections.items()}
    assert {key.split("/")[1] for key in after} == {"mixed", "other"}
    assert all(not torch.equal(after[key], before[key]) for key in before)


def test_shared_projections_are_trained_by_all(world: World, tmp_path: Path) -> None:
    students = (student("ann", "aa", objectives=[HIDDEN]), student("bob", "bb", objectives=[HIDDEN]))
    job = make_job(world, tmp_path, *students, share=ShareSection(projections=True))
    built, _ = train_group(job)
    assert len(built.module.projections) == 3
    assert set(built.module.parts()[("ann", "bob")]) == {
        f"projections.{key}.weight" for key in built.module.projections
    }
    kept = checkpoints.load(job.folder("ann") / "checkpoints", 6, fingerprint=job.fingerprint)
    assert {name for name in kept.tensors["model"] if name.startswith("projections.")} == set(
        built.module.parts()[("ann", "bob")]
    )
    others = checkpoints.load(job.folder("bob") / "checkpoints", 6, fingerprint=job.fingerprint)
    assert not any(name.startswith("projections.") for name in others.tensors["model"])


def test_a_student_without_a_teacher_reads_the_same_text(world: World, tmp_path: Path) -> None:
    job = make_job(world, tmp_path, student("ann", "aa"))
    twin = make_job(world, tmp_path, student("twin", "aa", objectives=[MASKED_LM], origin="ann"))
    assert twin.requests["twin"]["mixed"].needs_model is False
    results = [train_group(one)[1] for one in (job, twin)]
    assert results[0].tokens["ann"] == results[1].tokens["twin"]
    assert rows_of(twin, "twin")[0]["terms"].keys() == {"masked-lm"}  # type: ignore[attr-defined]


def test_bfloat16_follows_float32(world: World, tmp_path: Path) -> None:
    rows = []
    for precision in ("fp32", "bf16"):
        job = make_job(world, tmp_path / precision, student("ann", "aa"), precision=precision)
        built, _ = train_group(job)
        rows.append(rows_of(job, "ann")[-1])
        assert all(parameter.dtype == torch.float32 for parameter in built.module.parameters())
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=0.02)
    assert rows[1]["loss"] != rows[0]["loss"]


def test_short_rows_on_a_cpu_are_attended_to_eagerly(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for limit, expected in ((MAX_LENGTH, "eager"), (2, "sdpa")):
        monkeypatch.setattr(loop, "_EAGER_TOKENS", limit)
        job = make_job(world, tmp_path / expected, student("ann", "aa"))
        built, _ = train_group(job)
        assert built.module.encoder("ann").model.config._attn_implementation == expected
        rows.append(rows_of(job, "ann")[-1])
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)


def test_a_loss_that_is_no_number_ends_training_and_is_never_saved(world: World, tmp_path: Path) -> None:
    job = make_job(world, tmp_path, student("ann", "aa"), learning_rate=1e30, steps=20, log_every=1000)
    with pytest.raises(UnitError, match=r"^The (loss|gradient) of student 'ann' became (nan|inf) by step \d+; lower"):
        train_group(job)
    for step in checkpoints.steps(job.folder("ann") / "checkpoints"):
        kept = checkpoints.load(job.folder("ann") / "checkpoints", step, fingerprint=job.fingerprint)
        for name, tensor in kept.tensors["model"].items():
            assert bool(torch.isfinite(tensor).all()), (step, name)


def test_training_leaves_random_state_and_threads_as_they_were(world: World, tmp_path: Path) -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train_group(make_job(world, tmp_path, student("ann", "aa", template=DROPOUT), steps=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
