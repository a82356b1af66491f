"""The training loop of a group of students: one screen, from the batch to the stepped parameters."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

import torch

from orchestrator.config.phases import PhaseSpec, phase_at
from orchestrator.config.run import TrainingSection
from orchestrator.models.devices import Device, pick_device, pick_dtype
from orchestrator.stopping import undisturbed
from orchestrator.students.anchors import ANCHORS
from orchestrator.students.build import BuiltGroup, build_group, build_known, build_streams
from orchestrator.students.freezing import freeze_parts
from orchestrator.students.group import StudentGroup
from orchestrator.students.job import GroupJob, GroupResult
from orchestrator.students.metrics import StudentMetrics
from orchestrator.students.objective import MicroBatch, StepSums, backward, micro_batch, total_counts
from orchestrator.students.optimising import clip_gradients, learning_rate, make_optimiser, set_learning_rate
from orchestrator.students.parallel import Workers, joined
from orchestrator.students.resuming import resume, save
from orchestrator.students.rows import seed_for
from orchestrator.students.schedules import weight_at
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
    with _torch_threads(job.threads), torch.random.fork_rng(devices=devices), joined(job.seat, device) as workers:
        return _train(job, device, workers)


def _train(job: GroupJob, device: Device, workers: Workers) -> tuple[BuiltGroup, GroupResult]:
    training, built = job.training, build_group(job)
    group = built.module.to(device).train()
    parts, trained = group.parts(), group.trained()  # whatever a phase freezes
    known = build_known(job, built.vocabularies, device=device)
    anchors = built.anchors.to(torch.device(device))
    optimiser = make_optimiser(trained.values(), training)
    standing = resume(job, group, optimiser)
    workers.agree(standing.step)
    streams = build_streams(job, built.vocabularies, cursors=standing.cursors)
    origins = {student.name: student.origin for student in job.group.students}
    phases, first = job.group.phases, standing.step + 1
    if device == "cpu" and job.max_length <= _EAGER_TOKENS:
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
            weights = {name: _weights(built, name, at, phase, step.number) for name in group.names}
            anchored = {name: built.terms[name][at].get(ANCHORS, ()) for name in group.names}
            batches = step.batches
            counted = workers.add_counts(
                {name: total_counts(own.values(), terms=weights[name]) for name, own in batches.items()}
            )
            counted = {name: own | anchors.counts(name, anchored[name]) for name, own in counted.items()}
            sums = {name: StepSums(weights[name], device=torch.device(device)) for name in batches}
            for name, own in batches.items():
                for number, micro in own.items():
                    torch.manual_seed(seed_for("dropout", job.seed, origins[name], step.number, number))
                    sums[name].add(
                        *backward(
                            group,
                            name,
                            micro,
                            denominators=counted[name],
                            weights=weights[name],
                            known=known[name],
                            autocast=autocast,
                        )
                    )
            if workers.is_first:  # not of any batch
                for name, value, raw in anchors.backward(group, anchored, weights=weights):
                    sums[name].add(value, raw)
            workers.add_gradients(trained.values())
            norms = clip_gradients(parts, max_norm=training.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

            read = {name: {"tokens": sum(micro.num_tokens for micro in own.values())} for name, own in batches.items()}
            tokens = {name: own["tokens"] for name, own in workers.add_counts(read).items()}
            for name in group.names:
                workers.add_values(sums[name].values)
                standing.tokens[name] += tokens[name]
            standing.step, standing.cursors = step.number, step.cursors
            standing.seconds = time.monotonic() - started
            final = step.number == training.steps
            for name, own_metrics in metrics.items():
                computed = {term: count for term, count in counted[name].items() if weights[name][term]}
                raw = {term: sums[name].raw(term) for term in computed}
                own_metrics.add(sums[name].loss, raw, num_tokens=tokens[name])
                own_metrics.end_step(computed, gradient_norm=norms[name], waited=waited)
                if step.number == phase.last_step or step.number % training.log_every == 0:
                    own_metrics.log(step.number, phase=phase.name, rate=rate)
            if workers.is_first and (final or time.monotonic() - last_save >= training.checkpoint_seconds):
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


def _weights(built: BuiltGroup, student: str, index: int, phase: PhaseSpec, step: int) -> dict[str, float]:
    """Term -> its weight at a step of the training."""
    within = phase.step_within(step)
    return {
        term.name: weight_at(term.objective.weight, step=within, steps=phase.num_steps)
        for terms in built.terms[student][index].values()
        for term in terms
    }


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
    """Each step with the seconds that were spent waiting for it; a stop comes between two of them."""
    while True:
        started = time.monotonic()
        step = next(steps, None)
        if step is None:
            return
        waited = time.monotonic() - started
        with undisturbed():
            yield step, waited
