"""A student's step: from the store against without a teacher, several teachers, waiting, checkpoints, memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec

import psutil
import torch

from orchestrator.config.setups import Setup
from orchestrator.models.devices import memory_kept, pick_device
from orchestrator.students.build import build_group, build_streams
from orchestrator.students.job import GroupJob
from orchestrator.students.objective import micro_batch
from orchestrator.students.optimising import make_optimiser
from orchestrator.students.parallel import joined
from orchestrator.students.resuming import resume, save
from orchestrator.students.stepping import Stepper, Taken
from orchestrator.students.stream import steps_ahead
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios, seconds_of
from tests.benchmarks.scene import LANGUAGES, Scene, scene
from tests.memory import peak_resident_bytes

STEPS = 4  # of every measurement
CHECKPOINT_SECONDS = 120.0  # the default interval


class Training:
    """The loop of a group, one step at a call, with the seconds that it waited for data."""

    def __init__(self, job: GroupJob) -> None:
        self.job, self.waited = job, 0.0
        built = build_group(job)
        terms = built.terms
        device = pick_device("cpu")
        group = built.module.train()
        group.attend_eagerly()
        self.parts, trained = group.parts(), group.trained()
        self.optimiser = make_optimiser(trained.values(), job.training)
        self.standing = resume(job, group, self.optimiser)
        self._open = ExitStack()
        self._open.enter_context(memory_kept())
        self._stepper = Stepper(
            job,
            built,
            parts=self.parts,
            trained=trained.values(),
            optimiser=self.optimiser,
            workers=self._open.enter_context(joined(job.seat, device)),
            device=device,
        )
        self.steps = self._open.enter_context(
            closing(
                steps_ahead(
                    build_streams(job, built.vocabularies, cursors={}),
                    first_step=1,
                    last_step=job.training.steps,
                    prepare=lambda name, _, batch: micro_batch(
                        terms[name][0][batch.key], batch, device=torch.device(device)
                    ),
                )
            )
        )

    def step(self, count: int = STEPS) -> dict[str, Taken]:
        """`count` steps."""
        for _ in range(count):
            started = time.perf_counter()
            step = next(self.steps)
            self.waited += time.perf_counter() - started
            taken = self._stepper.take(step)
            self.standing.step, self.standing.cursors = step.number, step.cursors
        return taken

    def close(self) -> None:
        self._open.close()


def bars(rounds: int) -> Iterator[Bar]:
    """Every figure of a step."""
    with scene({"big": ["de"]}) as here:
        yield from one_teacher(here, rounds)
    with scene({f"big-{language}": [language] for language in LANGUAGES}) as here:
        here.fill("a")
        yield _pair(here, "distillation step, four teachers mixed", "many-to-one", 1.2, rounds)
    yield from memory()


def one_teacher(here: Scene, rounds: int) -> Iterator[Bar]:
    """Soft targets, masked LM and a hidden layer from the store, against masked LM alone; waiting; checkpoints."""
    here.fill("a")
    yield _pair(here, "distillation step from the store, V = 56 796", "one-to-one", 1.05, rounds)
    with closing(Training(here.jobs("a", "one-to-one")[0])) as training:
        training.step()
        training.waited, started = 0.0, time.perf_counter()
        training.step(4 * STEPS)
        share = training.waited / (time.perf_counter() - started)
        yield Bar("waiting for data, share of a step", "0", [share], "≤", 0.02, unit="")
        taken = []
        for number in range(rounds):
            training.standing.step += number
            started = time.perf_counter()
            save(training.job, training.parts, training.optimiser, training.standing)
            taken.append((time.perf_counter() - started) / CHECKPOINT_SECONDS)
        what = f"checkpoint every {CHECKPOINT_SECONDS:.0f} s, share of the time"
        yield Bar(what, "step time", taken, "≤", 0.02, unit="")


def _pair(here: Scene, what: str, setup: Setup, wanted: float, rounds: int) -> Bar:
    first, *_, last = here.jobs("a", setup)
    with closing(Training(first)) as distilled, closing(Training(last)) as plain:
        ours, limit = seconds_of(distilled.step, plain.step, rounds=2 * rounds)
    return Bar(what, "plain masked-LM step, same student and rows", ratios(ours, limit), "≤", wanted)


def memory() -> Iterator[Bar]:
    """Peak memory of the output layer of one step: each in a process of its own."""
    tokens, vocabulary = 4096, 250_002
    ours, before = peak_of_output_layer("ours", tokens, vocabulary)
    full = tokens * vocabulary * 4
    yield Bar(
        "peak memory of a step, V = 250 002, 4 096 tokens, above its start",
        "one [tokens, V] float32 tensor",
        [(ours - before) / full],
        "≤",
        1.0,
        note=f"{(ours - before) / 1e9:.2f} GB against {full / 1e9:.1f} GB, gradients of the matrix included",
    )
    if find_spec("textbrewer") is None:
        return
    other, other_before = peak_of_output_layer("textbrewer", tokens, vocabulary)
    note = f"{(ours - before) / 1e9:.2f} GB and {(other - other_before) / 1e9:.2f} GB"
    ratio = (ours - before) / (other - other_before)
    yield Bar("the same", "TextBrewer's, teacher's logits given", [ratio], "≤", 0.25, note=note)


def peak_of_output_layer(which: str, tokens: int, vocabulary: int) -> tuple[int, int]:
    """Bytes of the largest resident set of a process that does one step, and of the one before the step."""
    command = [sys.executable, "-m", "tests.benchmarks.step", which, str(tokens), str(vocabulary)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, before = json.loads(told.splitlines()[-1])
    return peak, before


def _output_layer(which: str, tokens: int, vocabulary: int, width: int = 384) -> None:
    """A student's last layer, forward and backward, for masked LM and soft targets of 15 % of the tokens."""
    weight = torch.nn.Parameter(torch.randn(vocabulary, width) / 20)
    hidden = torch.randn(tokens, width, requires_grad=True)
    masked = torch.randperm(tokens)[: round(0.15 * tokens)].sort().values
    labels = torch.randint(vocabulary, (tokens,))
    teacher = torch.randn(tokens, vocabulary) if which == "textbrewer" else None
    before = psutil.Process().memory_info().rss
    if teacher is None:
        from orchestrator.losses.fused import linear_output_losses
        from orchestrator.losses.targets import top_k_targets

        best = torch.randn(len(masked), 64).sort(descending=True).values.log_softmax(-1)
        ids = torch.randint(vocabulary, (len(masked), 64))
        targets = top_k_targets(ids, log_probs=best, logsumexp=None, logsumexp_t=None, temperature=1.0)
        linear_output_losses(
            hidden[masked],
            weight=weight,
            bias=None,
            labels=labels[masked],
            targets=targets,
            masked_lm_scale=1 / len(masked),
            soft_targets_scale=1 / len(masked),
        ).total.backward()
    else:
        from textbrewer.losses import kd_ce_loss

        logits = hidden @ weight.T
        loss = kd_ce_loss(logits[masked], teacher[masked]) + torch.nn.functional.cross_entropy(
            logits[masked], labels[masked]
        )
        loss.backward()
    print(json.dumps([peak_resident_bytes(), before]))


if __name__ == "__main__":
    _output_layer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
