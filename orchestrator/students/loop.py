"""The training loop of a group of students in one screen: every step is read, taken, logged and now and then saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing

import torch

from orchestrator.config.phases import phase_at
from orchestrator.models.devices import Device, memory_kept, pick_device, torch_threads
from orchestrator.stopping import undisturbed
from orchestrator.students.build import BuiltGroup, build_group, build_streams
from orchestrator.students.freezing import freeze_parts
from orchestrator.students.group import StudentGroup
from orchestrator.students.job import GroupJob, GroupResult
from orchestrator.students.metrics import StudentMetrics
from orchestrator.students.objective import MicroBatch, micro_batch
from orchestrator.students.optimising import learning_rate, make_optimiser, set_learning_rate
from orchestrator.students.parallel import Workers, joined
from orchestrator.students.resuming import resume, save
from orchestrator.students.stepping import Stepper
from orchestrator.students.stream import Step, steps_ahead

#: Up to this row length the fused attention of a CPU, whose backward pass is slow, loses to the plain one: a whole step
#: of 2 000 tokens takes 0.70 s against 0.54 s (4 layers of 384, bfloat16, one thread). Beyond it, memory counts.
_EAGER_TOKENS = 256
_log = logging.getLogger(__name__)


def train_group(job: GroupJob) -> tuple[BuiltGroup, GroupResult]:
    """Train to the last step, from the last whole checkpoint if there is one; returns the trained group.

    Raises:
        UnitError: a loss stopped being a number; the text names student and step.
    """
    device = pick_device(job.training.device)
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with (
        torch_threads(job.threads),
        memory_kept(),
        torch.random.fork_rng(devices=devices),
        joined(job.seat, device) as workers,
    ):
        return _train(job, device, workers)


def _train(job: GroupJob, device: Device, workers: Workers) -> tuple[BuiltGroup, GroupResult]:
    training, built = job.training, build_group(job)
    group = built.module.to(device).train()
    parts, trained = group.parts(), group.trained()  # whatever a phase freezes
    optimiser = make_optimiser(trained.values(), training)
    stepper = Stepper(
        job, built, parts=parts, trained=trained.values(), optimiser=optimiser, workers=workers, device=device
    )
    standing = resume(job, group, optimiser)
    workers.agree(standing.step)
    streams = build_streams(job, built.vocabularies, cursors=standing.cursors)
    phases, first = job.group.phases, standing.step + 1
    if device == "cpu" and job.max_length <= _EAGER_TOKENS:
        group.attend_eagerly()
    started = last_save = time.monotonic()
    started -= standing.seconds

    with ExitStack() as stack:
        metrics = {
            name: stack.enter_context(
                closing(StudentMetrics(job.folder(name), student=name, step=standing.step, tokens=tokens))
            )
            for name, tokens in standing.tokens.items()
            if workers.is_first
        }
        steps = steps_ahead(
            streams,
            first_step=first,
            last_step=training.steps,
            prepare=lambda name, step, batch: micro_batch(
                built.terms[name][phase_at(phases, step)][batch.key], batch, device=torch.device(device)
            ),
            seat=job.seat,
        )
        for step, waited in _timed(stack.enter_context(closing(steps))):
            at = phase_at(phases, step.number)
            phase = phases[at]
            if step.number in (first, phase.first_step):
                _begin(job, group, trained, at)
            rate = learning_rate(step.number, training, phase)
            set_learning_rate(optimiser, rate)
            taken = stepper.take(step)
            standing.step, standing.cursors = step.number, step.cursors
            standing.tokens = {name: standing.tokens[name] + one.num_tokens for name, one in taken.items()}
            standing.seconds = time.monotonic() - started
            for name, own_metrics in metrics.items():
                one = taken[name]
                own_metrics.add(one.loss, one.raw, num_tokens=one.num_tokens)
                own_metrics.end_step(one.counts, gradient_norm=one.gradient_norm, waited=waited)
                if step.number == phase.last_step or step.number % training.log_every == 0:
                    own_metrics.log(step.number, phase=phase.name, rate=rate)
            is_due = step.number == training.steps or time.monotonic() - last_save >= training.checkpoint_seconds
            if workers.is_first and is_due:
                for own_metrics in metrics.values():
                    own_metrics.check(step.number)  # nothing that is broken is ever saved
                save(job, parts, optimiser, standing)
                last_save = time.monotonic()
    group.settle()
    return built, GroupResult(job.group.name, training.steps, standing.seconds, standing.tokens)


def _begin(job: GroupJob, group: StudentGroup, trained: Mapping[str, torch.nn.Parameter], index: int) -> None:
    """Freeze what is frozen in a phase, and say that it begins."""
    phase = job.group.phases[index]
    frozen = {student.name: student.phases[index].freeze for student in job.group.students}
    freeze_parts(group, frozen, trained=trained)
    held = ", ".join(dict.fromkeys(part for parts in frozen.values() for part in parts))
    text = "group %s: phase %s, steps %d to %d%s"
    _log.info(text, job.group.name, phase.name, phase.first_step, phase.last_step, f", frozen: {held}" if held else "")


def _timed(steps: Iterator[Step[MicroBatch]]) -> Iterator[tuple[Step[MicroBatch], float]]:
    """Each step with the seconds that were spent waiting for it; a stop comes between two of them."""
    while True:
        started = time.monotonic()
        step = next(steps, None)
        if step is None:
            return
        waited = time.monotonic() - started
        with undisturbed():
            yield step, waited
