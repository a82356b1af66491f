"""How cost grows: with the vocabulary, the kept ids, the layers kept, the students, the actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from orchestrator.cluster.on_ray import open_cluster
from orchestrator.losses.fused import linear_output_losses
from orchestrator.losses.targets import top_k_targets
from orchestrator.records import SignalRequest, StateKey
from orchestrator.students.loop import train_group
from orchestrator.teachers.head import distribution
from tests.benchmarks.bars import Bar
from tests.benchmarks.scene import LANGUAGES, Scene, scene
from tests.benchmarks.step import peak_of_output_layer
from tests.benchmarks.workers import speed_of_sleepers

VOCABULARIES = (30_000, 120_000, 250_000, 500_000)
KEPT = (1, 16, 64, 256)
LAYERS = (0, 1, 4, 12)
ACTORS = (1, 2, 4, 8, 16)
POSITIONS, TOKENS = 256, 4096


def bars(rounds: int) -> Iterator[Bar]:
    """Figures without a bar: the curve is what they say."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for vocabulary in VOCABULARIES:
            yield _figure(f"teacher head, 256 positions, V = {vocabulary:,}", _head(vocabulary, 64), rounds)
            yield _figure(
                f"student output layer, forward and backward, V = {vocabulary:,}", _losses(vocabulary), rounds
            )
            peak, before = peak_of_output_layer("ours", TOKENS, vocabulary)
            what = f"its memory, {TOKENS:,} tokens of which 15 % masked, V = {vocabulary:,}"
            yield Bar(what, "", [(peak - before) / 1e9], unit="GB")
        for kept in KEPT:
            yield _figure(f"teacher head, V = 250,000, k = {kept}", _head(250_000, kept), rounds)
    finally:
        torch.set_num_threads(threads)
    with scene({"big": ["de"]}, texts=200) as here:
        for layers in LAYERS:
            states = tuple(StateKey("hidden", layer) for layer in range(1, layers + 1))
            request, kind = SignalRequest(top_k=64, states=states), f"layers-{layers}"
            yield _figure(f"precompute unit, top-64 and {layers} layers", _unit(here, kind, request), rounds)
    with scene({"big": LANGUAGES}, texts=100) as here:
        here.fill("a")
        for count in (1, 2, 4):
            jobs = here.jobs("a", "one-to-many", steps=8, name=f"{count}-students")[:count]
            started = time.perf_counter()
            for job in jobs:
                train_group(job)
            yield Bar(f"8 steps of {count} students", "", [time.perf_counter() - started], unit="s")
        with open_cluster(None, object_store_bytes=100 << 20, log_folder=here.root, num_cpus=ACTORS[-1]) as cluster:
            for count in ACTORS:
                speed = [speed_of_sleepers(cluster, count) for _ in range(rounds)]
                yield Bar(f"{count} sleeping teachers of 50 ms units", "", speed, unit="× one")


def _figure(what: str, call: Callable[[], object], rounds: int) -> Bar:
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return Bar(what, "", seconds, unit="s")


def _unit(here: Scene, kind: str, request: SignalRequest) -> Callable[[], object]:
    worker, (unit,) = here.worker(kind, request), here.units["big"]
    store = here.store(kind, "big", request)

    def run() -> None:
        store.receipt_path(0).unlink(missing_ok=True)
        worker.run(unit)

    return run


def _head(vocabulary: int, kept: int) -> Callable[[], object]:
    states = torch.randn(POSITIONS, 384, dtype=torch.bfloat16)
    weight = torch.randn(vocabulary, 384, dtype=torch.bfloat16) / 16

    def run() -> None:
        with torch.inference_mode():
            distribution(states, weight, None, k=kept, temperatures=[])

    return run


def _losses(vocabulary: int) -> Callable[[], object]:
    weight = torch.nn.Parameter(torch.randn(vocabulary, 384) / 20)
    hidden = torch.randn(POSITIONS, 384, requires_grad=True)
    labels = torch.randint(vocabulary, (POSITIONS,))
    log_probs = torch.randn(POSITIONS, 64).sort(descending=True).values.log_softmax(-1)
    ids = torch.randint(vocabulary, (POSITIONS, 64))
    targets = top_k_targets(ids, log_probs=log_probs, logsumexp=None, logsumexp_t=None, temperature=1.0)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            linear_output_losses(
                hidden,
                weight=weight,
                bias=None,
                labels=labels,
                targets=targets,
                masked_lm_scale=1.0,
                soft_targets_scale=1.0,
            ).total.backward()
        weight.grad = hidden.grad = None

    return run
