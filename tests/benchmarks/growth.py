"""How cost grows: with the vocabulary, the kept ids, the layers kept, the students, the actors.

Every point is measured in a process of its own: seconds of a call, and what it holds at most above what it held before.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import psutil
import torch

from orchestrator.cluster.on_ray import open_cluster
from orchestrator.config.setups import Setup
from orchestrator.losses.fused import linear_output_losses
from orchestrator.losses.targets import top_k_targets
from orchestrator.records import SignalRequest, StateKey
from orchestrator.teachers.head import ROWS, distribution
from tests.benchmarks.bars import Bar
from tests.benchmarks.scene import LANGUAGES, scene
from tests.benchmarks.step import Training
from tests.benchmarks.workers import Precomputes, speed_of_sleepers, timed
from tests.memory import forget_peak, peak_resident_bytes

WIDTH, VOCABULARY, KEPT = 384, 250_000, 64
POSITIONS = 614  # of a student: 15 % of 4,096 tokens
STEPS = 8
ACTORS = (1, 2, 4, 8, 16)
TEACHERS = (1, 2, 4)

Call = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """A call for each value of what it grows with; `make` sets it up, and is pickled for the process that measures."""

    what: str
    over: str
    values: Sequence[int]
    make: Callable[[int], AbstractContextManager[Call]]


def bars(rounds: int) -> Iterator[Bar]:
    """Figures without a bar: the curve is what they say."""
    for curve in curves():
        for value in curve.values:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, peak = pool.submit(_cost, partial(curve.make, value), rounds).result()
            yield Bar(curve.what, "", seconds, unit="s", over=curve.over, at=value)
            yield Bar(f"{curve.what}: memory", "", [peak / 1e9], unit="GB", over=curve.over, at=value)
    yield from actors(rounds)


def curves() -> list[Curve]:
    """In the order of the table."""
    vocabularies, over_v = (30_000, 60_000, 120_000, 250_000, 500_000), "V"
    return [
        Curve(f"teacher head, {ROWS} positions", over_v, vocabularies, head),
        Curve(f"student output layer, {POSITIONS} positions, forward and backward", over_v, vocabularies, output_layer),
        Curve(f"teacher head, {ROWS} positions", "k", (1, 16, 64, 256), partial(head, VOCABULARY)),
        Curve("precompute unit", "layers kept", (0, 1, 4, 12), unit),
        Curve(f"{STEPS} steps of a group", "students", (1, 2, 4), students),
    ]


def actors(rounds: int) -> Iterator[Bar]:
    """Teachers that sleep, how often as fast as one; and what real ones hold that they do not share."""
    with (
        scene({"big": LANGUAGES}, texts=100) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=here.root, num_cpus=ACTORS[-1]) as cluster,
    ):
        for count in ACTORS:
            speed = [speed_of_sleepers(cluster, count) for _ in range(rounds)]
            yield Bar("teachers that sleep 50 ms a unit, speed", "", speed, over="actors", at=count)
        for count in TEACHERS:
            make = partial(_Weighed, here.work("a"), here.units["big"])
            held = [result for result, _ in timed(cluster, make, 2 * count, count)]
            total = count * sum(held) / len(held)
            yield Bar("teachers 12 × 384: memory", "", [total / 1e9], unit="GB", over="actors", at=count)


class _Weighed(Precomputes):
    """Says what its process holds that no other shares."""

    def run(self, number: int, /) -> int:
        super().run(number)
        return int(psutil.Process().memory_full_info().uss)


def _cost(make: Callable[[], AbstractContextManager[Call]], rounds: int) -> tuple[list[float], int]:
    """Seconds of each round but the first, and the bytes of the largest resident set above that before the call."""
    torch.set_num_threads(1)
    seconds = []
    with make() as call:
        forget_peak()
        before = psutil.Process().memory_info().rss
        for _ in range(rounds + 1):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        return seconds[1:], peak_resident_bytes() - before


@contextmanager
def head(vocabulary: int, kept: int = KEPT) -> Iterator[Call]:
    """A teacher's head, log-partition and top-k, of as many positions as it takes at once."""
    states = torch.randn(ROWS, WIDTH, dtype=torch.bfloat16)
    weight = torch.randn(vocabulary, WIDTH, dtype=torch.bfloat16) / 16

    def call() -> None:
        with torch.inference_mode():
            distribution(states, weight, None, k=kept, temperatures=[])

    yield call


@contextmanager
def output_layer(vocabulary: int) -> Iterator[Call]:
    """Masked LM and soft targets with their gradients, in bfloat16 as students are trained."""
    weight = torch.nn.Parameter(torch.randn(vocabulary, WIDTH) / 20)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    labels = torch.randint(vocabulary, (POSITIONS,))
    log_probs = torch.randn(POSITIONS, KEPT).sort(descending=True).values.log_softmax(-1)
    ids = torch.randint(vocabulary, (POSITIONS, KEPT))
    targets = top_k_targets(ids, log_probs=log_probs, logsumexp=None, logsumexp_t=None, temperature=1.0)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            linear_output_losses(
                hidden,
                weight=weight,
                bias=None,
                labels=labels,
                targets=targets,
                masked_lm_scale=1 / POSITIONS,
                soft_targets_scale=1 / POSITIONS,
            ).total.backward()
        weight.grad = hidden.grad = None

    yield call


@contextmanager
def unit(layers: int) -> Iterator[Call]:
    """A teacher's unit, from reading to fsync, with so many hidden layers."""
    request = SignalRequest(top_k=KEPT, states=tuple(StateKey("hidden", layer) for layer in range(1, layers + 1)))
    with scene({"big": ["de"]}, texts=200) as here:
        worker, (only,), store = here.worker("a", request), here.units["big"], here.store("a", "big", request)

        def call() -> None:
            store.receipt_path(0).unlink(missing_ok=True)
            worker.run(only)

        yield call


@contextmanager
def students(count: int) -> Iterator[Call]:
    """Steps of a group whose students share the embedding, a language each."""
    with scene({"big": LANGUAGES[:count]}, texts=100) as here:
        here.fill("a")
        setup: Setup = "one-to-one" if count == 1 else "one-to-many"
        group, *_ = here.jobs("a", setup, shared=("embedding",) if count > 1 else ())
        with closing(Training(group)) as training:
            yield partial(training.step, STEPS)
