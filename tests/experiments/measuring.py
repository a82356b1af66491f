"""One row of the table: what a trained student of the experiment measures, and what its training wrote down."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.records import MetricRow, SignalRequest
from orchestrator.run import Run
from orchestrator.signals.schema import ROW_TABLES, bytes_per_token
from orchestrator.signals.store import Store
from orchestrator.steps.sentences import sentence_stores
from orchestrator.steps.signals import open_stores, teacher_sizes

Metrics = list[dict[str, object]]


@dataclass(frozen=True)
class Row:
    """One recipe and seed. `terms`: of each phase and objective the raw value in its first and last tenth."""

    name: str
    seed: int
    steps: int
    accuracy: float | None = None
    bits_per_character: float | None = None
    agreement: float | None = None
    kl: float | None = None
    retrieval_last: float | None = None
    retrieval_best: float | None = None
    best_layer: int | None = None
    tokens_per_second: float | None = None
    signal_bytes_per_token: float | None = None
    terms: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def fell(self) -> tuple[int, int]:
        """How many of the terms ended lower than they began, of how many."""
        return sum(last < first for first, last in self.terms.values()), len(self.terms)


def scores(rows: Iterable[MetricRow]) -> dict[str, float | int | None]:
    """Means over languages on held-out text, and over pairs of languages and directions of CSLS, by layer."""
    by_metric: dict[str, list[float]] = defaultdict(list)
    by_layer: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.split == "held_out":
            by_metric[row.metric].append(row.value)
        elif row.metric == "retrieval_csls" and row.layer is not None:
            by_layer[row.layer].append(row.value)
    layers = {layer: statistics.fmean(values) for layer, values in sorted(by_layer.items())}
    best = max(layers, key=lambda layer: layers[layer], default=None)
    mean = {name: statistics.fmean(values) for name, values in by_metric.items()}
    return {
        "accuracy": mean.get("masked_lm_accuracy"),
        "bits_per_character": mean.get("bits_per_character"),
        "agreement": mean.get("teacher_agreement"),
        "kl": mean.get("teacher_kl"),
        "retrieval_last": layers[max(layers)] if layers else None,
        "retrieval_best": None if best is None else layers[best],
        "best_layer": best,
    }


def read_training(path: Path) -> Metrics:
    """The lines of a student's metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def first_and_last(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """`phase/term` -> its mean raw value in the first and in the last tenth of the lines of its phase that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for line in metrics:
        terms = line["terms"]
        assert isinstance(terms, dict)
        for name, value in terms.items():
            found[f"{line['phase']}/{name}"].append(float(value))
    ends = {}
    for name, values in found.items():
        tenth = max(1, len(values) // 10)
        if len(values) > 1:
            ends[name] = (statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:]))
    return ends


def speed(metrics: Metrics) -> float:
    """Tokens per second of the training, waiting for batches included, logging and checkpoints not."""
    seconds = tokens = 0.0
    for line in metrics:
        own = float(str(line["tokens"])) - tokens
        tokens += own
        seconds += own / float(str(line["tokens_per_second"]))
    return tokens / seconds


def signal_bytes(run: Run) -> float:
    """Bytes per token of text of what a run's own objectives read, the rows themselves left out.

    What the same run would store if it were alone: the store of the experiment holds what all of them read. Of parallel
    sentences the tokens of the pivot count.
    """
    section = run.config
    texts = {name: (run.teacher_request(name), store) for name, store in open_stores(run).items()}
    pivots = {pivot.name: pivot.teacher for pivot in run.pivots}
    sentences = {name: Store.open(folder) for name, folder in sentence_stores(run).items()}
    found = [(name, request, store) for name, (request, store) in texts.items() if request != SignalRequest()]
    found += [(pivots[name], store.request, store) for name, store in sentences.items()]
    total = num_bytes = 0.0
    for name, request, store in found:
        heard = run.teacher_languages(name)
        counts = [counted for language, counted in store.counts().items() if language in heard]
        tokens, rows = sum(count.tokens for count in counts), sum(count.rows for count in counts)
        tables = bytes_per_token(
            request,
            store.codec,
            teacher_sizes(run, name),
            section.corpus.masking.probability,
            tokens_per_row=tokens / rows,
        )
        total += tokens
        num_bytes += tokens * sum(value for table, value in tables.items() if table not in ROW_TABLES)
    return num_bytes / total if total else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation of the sample (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
