"""The training loop of a group of students: one screen, from the batch to the stepped parameters."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orchestrator.config.run import TrainingSection
from orchestrator.models.devices import pick_device, pick_dtype
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students.build import BuiltGroup, build_group, build_streams
from orchestrator.students.job import GroupJob, GroupResult
from orchestrator.students.metrics import StudentMetrics
from orchestrator.students.objective import counts, loss, needs_head, student_layers
from orchestrator.students.stream import Cursor, Step, steps_ahead


def train_group(job: GroupJob) -> tuple[BuiltGroup, GroupResult]:
    """Train to the last step, from the last whole checkpoint if there is one; returns the trained group.

    Raises:
        UnitError: a loss stopped being a number; the text names student and step.
    """
    torch.set_num_threads(job.threads)
    device = torch.device(pick_device(job.training.device))
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        return _train(job, device)


def _train(job: GroupJob, device: torch.device) -> tuple[BuiltGroup, GroupResult]:
    built = build_group(job)
    group = built.module.to(device).train()
    optimiser = make_optimiser(group.trained(), job.training)
    state = _resume(job, built, optimiser)
    streams = build_streams(job, built.vocabularies, cursors=state.cursors or None)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_precision(job.training, device) == "bfloat16")
    metrics = {
        name: StudentMetrics(job.folder(name), student=name, step=state.step, tokens=state.tokens[name])
        for name in group.names
    }
    parameters = list(group.trained().values())
    last_save, started = time.monotonic(), time.monotonic()
    seconds_before = state.seconds

    steps = steps_ahead(
        streams,
        first_step=state.step + 1,
        last_step=job.training.steps,
        prepare=lambda batch: batch.to(device),
    )
    for step, waited in _timed(steps):
        for parameter_group in optimiser.param_groups:
            parameter_group["lr"] = learning_rate(step.number, job.training)
        for name, batches in step.batches.items():
            terms = [built.terms[name][_teacher(job, name, batch.language)] for batch in batches]
            denominators = _totals([counts(t, batch) for t, batch in zip(terms, batches, strict=True)])
            for batch_terms, batch in zip(terms, batches, strict=True):
                with autocast:
                    output = group.run(
                        name, batch, layers=student_layers(batch_terms), needs_head=needs_head(batch_terms)
                    )
                    value, raw = loss(
                        batch_terms, output, batch, denominators=denominators, projections=group.projections
                    )
                value.backward()  # type: ignore[no-untyped-call]
                metrics[name].add(value, raw, num_tokens=batch.num_tokens)
            metrics[name].count(denominators)
        torch.nn.utils.clip_grad_norm_(parameters, job.training.clip_norm, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

        state.advance(step)
        state.seconds = seconds_before + time.monotonic() - started
        final = step.number == job.training.steps
        for name in group.names:
            metrics[name].waited += waited
            if final or step.number % job.training.log_every == 0:
                metrics[name].log(step.number, learning_rate(step.number, job.training))
        if final or time.monotonic() - last_save >= job.training.checkpoint_seconds:
            _save(job, built, optimiser, state)
            last_save = time.monotonic()
    for student_metrics in metrics.values():
        student_metrics.close()
    group.settle()
    return built, GroupResult(job.group.name, job.training.steps, state.seconds, dict(state.tokens))


def learning_rate(step: int, training: TrainingSection) -> float:
    """Linear warm-up over `warmup_share` of the steps, then the chosen decay; a function of the step alone."""
    warmup = max(1, round(training.warmup_share * training.steps))
    if step <= warmup:
        return training.learning_rate * step / warmup
    share = (step - warmup) / max(1, training.steps - warmup)
    match training.decay:
        case "linear":
            return training.learning_rate * (1.0 - share)
        case "cosine":
            return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        case "constant":
            return training.learning_rate


def make_optimiser(parameters: Mapping[str, torch.nn.Parameter], training: TrainingSection) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019); biases and norms are not decayed."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=training.betas,
        fused=True,
    )


@dataclass
class _State:
    """Where the group stands."""

    step: int = 0
    seconds: float = 0.0
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cursors: dict[str, Cursor] = field(default_factory=dict)

    def advance(self, step: Step) -> None:
        self.step = step.number
        self.cursors = step.cursors
        for name, batches in step.batches.items():
            self.tokens[name] += sum(batch.num_tokens for batch in batches)


def _resume(job: GroupJob, built: BuiltGroup, optimiser: torch.optim.Optimizer) -> _State:
    folders = {student.name: job.folder(student.name) / "checkpoints" for student in job.group.students}
    found = checkpoints.load_latest(folders, fingerprint=job.fingerprint)
    if found is None:
        return _State()
    names = {parameter: name for name, parameter in built.module.trained().items()}
    model: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for saved in found.values():
        model |= saved.tensors["model"]
        moments |= saved.tensors["optimizer"]
    _restore_random(moments)
    with torch.no_grad():
        for name, parameter in built.module.trained().items():
            parameter.copy_(model[name])
    checkpoints.restore_optimiser(optimiser, names, moments)
    first = next(iter(found.values()))
    logging.getLogger(__name__).info("group %s goes on from step %d", job.group.name, first.step)
    return _State(
        step=first.step,
        seconds=first.seconds,
        tokens=defaultdict(int, {name: saved.tokens for name, saved in found.items()}),
        cursors={name: saved.cursor for name, saved in found.items()},
    )


def _save(job: GroupJob, built: BuiltGroup, optimiser: torch.optim.Optimizer, state: _State) -> None:
    group = built.module
    trained = group.trained()
    moments = checkpoints.optimiser_tensors(optimiser, {parameter: name for name, parameter in trained.items()})
    moments |= _random_state()
    for student in group.names:
        mine = {name: tensor for name, tensor in trained.items() if group.owner(name) == student}
        own_moments = {
            name: tensor for name, tensor in moments.items() if group.owner(name.partition("|")[0]) == student
        }
        checkpoints.save(
            job.folder(student) / "checkpoints",
            checkpoints.StudentCheckpoint(
                step=state.step,
                tokens=state.tokens[student],
                seconds=state.seconds,
                cursor=state.cursors[student],
                tensors={"model": dict(mine), "optimizer": own_moments},
            ),
            fingerprint=job.fingerprint,
            keep=job.training.keep_checkpoints,
        )


def _random_state() -> dict[str, Tensor]:
    state = {"random|cpu": torch.get_rng_state()}
    return state | ({"random|cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random(moments: dict[str, Tensor]) -> None:
    torch.set_rng_state(moments.pop("random|cpu"))
    cuda = moments.pop("random|cuda", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def _precision(training: TrainingSection, device: torch.device) -> str:
    wanted = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}[training.precision]
    return pick_dtype(wanted, device=device.type)  # type: ignore[arg-type]


def _teacher(job: GroupJob, student: str, language: str) -> str:
    return next(spec for spec in job.group.students if spec.name == student).teachers[language]


def _totals(found: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in found) for name in dict.fromkeys(n for one in found for n in one)}


def _timed(steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """Each step with the seconds that were spent waiting for it."""
    while True:
        started = time.monotonic()
        step = next(steps, None)
        if step is None:
            return
        yield step, time.monotonic() - started
