"""The training loop of a group of students: one screen, from the batch to the stepped parameters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import torch

from orchestrator.config.run import TrainingSection
from orchestrator.models.devices import Device, pick_device, pick_dtype
from orchestrator.students.build import BuiltGroup, build_group, build_streams
from orchestrator.students.job import GroupJob, GroupResult
from orchestrator.students.metrics import StudentMetrics
from orchestrator.students.objective import MicroBatch, backward, micro_batch, total_counts
from orchestrator.students.optimising import clip_gradients, learning_rate, make_optimiser, set_learning_rate
from orchestrator.students.resuming import resume, save
from orchestrator.students.rows import seed_for
from orchestrator.students.stream import Step, steps_ahead

#: Up to this row length the fused attention of a CPU, whose backward pass is slow, loses to the plain one: a whole step
#: of 2 000 tokens takes 0.70 s against 0.54 s (4 layers of 384, bfloat16, one thread). Beyond it, memory counts.
_EAGER_TOKENS = 256


def train_group(job: GroupJob) -> tuple[BuiltGroup, GroupResult]:
    """Train to the last step, from the last whole checkpoint if there is one; returns the trained group.

    Raises:
        UnitError: a loss stopped being a number; the text names student and step.
    """
    device = pick_device(job.training.device)
    with _torch_threads(job.threads), torch.random.fork_rng(devices=[0] if device == "cuda" else []):
        return _train(job, device)


def _train(job: GroupJob, device: Device) -> tuple[BuiltGroup, GroupResult]:
    training, built = job.training, build_group(job)
    group = built.module.to(device).train()
    parts = group.parts()
    optimiser = make_optimiser(group.trained().values(), training)
    standing = resume(job, group, optimiser)
    streams = build_streams(job, built.vocabularies, cursors=standing.cursors)
    origins = {student.name: student.origin for student in job.group.students}
    if device == "cpu" and max(stream.longest_row for stream in streams.values()) <= _EAGER_TOKENS:
        group.attend_eagerly()
    autocast = torch.autocast(device, torch.bfloat16, enabled=_precision(training, device) == "bfloat16")
    started = last_save = time.monotonic()
    started -= standing.seconds

    with ExitStack() as stack:
        metrics = {
            name: stack.enter_context(
                closing(StudentMetrics(job.folder(name), student=name, step=standing.step, tokens=tokens))
            )
            for name, tokens in standing.tokens.items()
        }
        steps = steps_ahead(
            streams,
            first_step=standing.step + 1,
            last_step=training.steps,
            prepare=lambda name, batch: micro_batch(
                built.terms[name][batch.language], batch, device=torch.device(device)
            ),
        )
        for step, waited in _timed(stack.enter_context(closing(steps))):
            rate = learning_rate(step.number, training)
            set_learning_rate(optimiser, rate)
            denominators = {name: total_counts(batches) for name, batches in step.batches.items()}
            for name, batches in step.batches.items():
                torch.manual_seed(seed_for("dropout", job.seed, origins[name], step.number))
                for micro in batches:
                    value, raw = backward(group, name, micro, denominators=denominators[name], autocast=autocast)
                    metrics[name].add(value, raw, num_tokens=micro.batch.num_tokens)
                    standing.tokens[name] += micro.batch.num_tokens
            norms = clip_gradients(parts, max_norm=training.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

            standing.step, standing.cursors = step.number, step.cursors
            standing.seconds = time.monotonic() - started
            final = step.number == training.steps
            for name in group.names:
                metrics[name].end_step(denominators[name], gradient_norm=norms[name], waited=waited)
                if final or step.number % training.log_every == 0:
                    metrics[name].log(step.number, rate)
            if final or time.monotonic() - last_save >= training.checkpoint_seconds:
                for student_metrics in metrics.values():
                    student_metrics.check(step.number)  # nothing that is broken is ever saved
                save(job, parts, optimiser, standing)
                last_save = time.monotonic()
    group.settle()
    return built, GroupResult(job.group.name, training.steps, standing.seconds, standing.tokens)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _precision(training: TrainingSection, device: Device) -> str:
    wanted = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}[training.precision]
    return pick_dtype(wanted, device=device)  # type: ignore[arg-type]


def _timed(steps: Iterator[Step[MicroBatch]]) -> Iterator[tuple[Step[MicroBatch], float]]:
    """Each step with the seconds that were spent waiting for it."""
    while True:
        started = time.monotonic()
        step = next(steps, None)
        if step is None:
            return
        yield step, time.monotonic() - started
