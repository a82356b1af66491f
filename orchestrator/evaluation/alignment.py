"""How well the languages of a system lie beside one another: layer by layer, on translations and by swapping heads.

Shape legend: S layers with the embedding output, n sentences, D width.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from orchestrator.corpus.parallel import ParallelTexts, read_parallel
from orchestrator.evaluation.cka import Kernel, linear_cka
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob, Role
from orchestrator.evaluation.neurons import Neurons, neuron_correlation
from orchestrator.evaluation.parts import Parts
from orchestrator.evaluation.probing import LabelledSentences, Probe, head_swaps, majority_share, read_probes
from orchestrator.evaluation.retrieval import retrieve
from orchestrator.evaluation.sentences import Vectors, encode_sentences
from orchestrator.records import MetricRow
from orchestrator.storage import hash_bytes

#: Pairs of the control are shuffled alike in every run.
_SHUFFLE_SEED = 20_240_229
#: The unbiased estimator of CKA needs four pairs, and fewer have no correlation worth the name.
_FEWEST_PAIRS = 4
_log = logging.getLogger(__name__)


def alignment_rows(job: EvaluationJob, parts: Parts) -> Iterator[MetricRow]:
    """Every pair of languages of every system that a parallel source or a probe holds; rows are the system's.

    `split` is `parallel:<source>` or `probe:<name>`. Of retrieval, a row's `language` asks and its `other_language` is
    searched; of a probe, the head was fitted on `language` and tested on `other_language`; CKA and correlations have
    no direction.
    """
    sources = [read_parallel(source) for source in job.evaluation.parallel]
    probes = read_probes(job.evaluation)
    systems = job.all_systems()
    _warn_of_unserved(systems, sources, probes)
    wanted: dict[tuple[str, str], Sequence[str]] = {}
    for source in sources:
        wanted |= {(_split(source), language): texts for language, texts in source.texts.items()}
    for probe in probes:
        wanted |= {_key(probe, "train", language): sentences.texts for language, sentences in probe.train.items()}
        wanted |= {_key(probe, "test", language): sentences.texts for language, sentences in probe.test.items()}
    text = hash_bytes(json.dumps([(*key, *texts) for key, texts in wanted.items()]).encode())
    for name, members in systems.items():
        role = members[0].role
        if role == "teacher" and not job.evaluation.teachers:
            continue
        part = parts.digest(f"alignment of {name}", members, text=text)
        rows = parts.known(part)
        if rows is None:
            _log.info("alignment of the languages of %s", name)
            vectors = encode_sentences(members, wanted, job)
            rows = parts.keep(part, _system_rows(_Rows(name, role, "", job.seed), sources, probes, vectors))
        yield from rows


def _system_rows(
    row: _Rows, sources: Sequence[ParallelTexts], probes: Sequence[Probe], vectors: Mapping[tuple[str, str], Vectors]
) -> Iterator[MetricRow]:
    for source in sources:
        own = replace(row, split=_split(source))
        yield from _source_rows({lang: vectors.get((own.split, lang)) for lang in source.texts}, own)
    for probe in probes:
        yield from _probe_rows(probe, vectors, replace(row, split=probe.split))


def _split(source: ParallelTexts) -> str:
    return f"parallel:{source.name}"


def _key(probe: Probe, part: str, language: str) -> tuple[str, str]:
    return f"{probe.split}:{part}", language


def _warn_of_unserved(
    systems: Mapping[str, tuple[EvaluatedModel, ...]], sources: list[ParallelTexts], probes: list[Probe]
) -> None:
    served = [{language for member in members for language in member.languages} for members in systems.values()]
    held = {f"evaluation.parallel '{source.name}'": {*source.texts} for source in sources}
    held |= {f"evaluation.probes '{probe.name}'": {*probe.train, *probe.test} for probe in probes}
    for name, languages in held.items():
        if not any(len(own & languages) > 1 for own in served):
            _log.warning("%s: no model or setup serves two of its languages", name)


@dataclass(frozen=True)
class _Rows:
    """What the rows of one system and source have in common."""

    system: str
    role: Role
    split: str
    seed: int

    def __call__(
        self, metric: str, value: float, n: int, pair: tuple[str, str], layer: int | None = None
    ) -> Iterator[MetricRow]:
        """One row, or none where there is no such figure: of sides that do not vary."""
        if not math.isnan(value):
            language, other = pair
            yield MetricRow(
                self.system,
                self.role,
                language,
                metric,
                value,
                n,
                self.seed,
                self.split,
                other_language=other,
                layer=layer,
            )


@dataclass(frozen=True)
class _Side:
    """One language at one layer, with what every pair that it is in needs of it."""

    vectors: npt.NDArray[np.float32]  # [n, D]
    depth: int  # of its model
    shuffled: npt.NDArray[np.int64]  # [n] the order of the control

    @cached_property
    def kernel(self) -> Kernel:
        return Kernel.of(self.vectors)

    @cached_property
    def shuffled_kernel(self) -> Kernel:
        return self.kernel.reordered(self.shuffled)

    @cached_property
    def neurons(self) -> Neurons:
        return Neurons.of(self.vectors)


def _source_rows(vectors: Mapping[str, Vectors | None], row: _Rows) -> Iterator[MetricRow]:
    """Layer by layer, so that what belongs to one language is made once and dropped before the next layer."""
    there = {language: found for language, found in vectors.items() if found is not None}
    n = next((found.shape[1] for found in there.values()), 0)
    shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(n)
    for here in range(-max(map(len, there.values()), default=0), 0):
        sides = {
            language: _Side(found[here], len(found) - 1, shuffled)
            for language, found in there.items()
            if len(found) >= -here
        }
        for left, right in combinations(sides, 2):
            # Layers are matched by number where the depths agree, else only the last of each side.
            if here == -1 or sides[left].depth == sides[right].depth:
                yield from _pair_rows(sides[left], sides[right], (left, right), here, row)


def _pair_rows(left: _Side, right: _Side, pair: tuple[str, str], here: int, row: _Rows) -> Iterator[MetricRow]:
    n, layer, back = len(left.vectors), min(left.depth, right.depth) + here + 1, pair[::-1]
    same_width = left.vectors.shape[1] == right.vectors.shape[1]
    if same_width:  # vectors of different widths have no cosine
        found = retrieve(left.vectors, right.vectors)
        yield from row("retrieval_cosine", found.cosine_forward, n, pair, layer)
        yield from row("retrieval_cosine", found.cosine_backward, n, back, layer)
        yield from row("retrieval_csls", found.csls_forward, n, pair, layer)
        yield from row("retrieval_csls", found.csls_backward, n, back, layer)
        if here == -1:
            yield from row("retrieval_chance", 1 / n, n, pair)
            yield from row("retrieval_chance", 1 / n, n, back)
    if n < _FEWEST_PAIRS:
        return
    yield from row("cka", linear_cka(left.kernel, right.kernel), n, pair, layer)
    yield from row("cka_shuffled", linear_cka(left.kernel, right.shuffled_kernel), n, pair, layer)
    if same_width and left.depth == right.depth:
        control = right.neurons.reordered(right.shuffled)
        yield from row("neuron_correlation", neuron_correlation(left.neurons, right.neurons), n, pair, layer)
        yield from row("neuron_correlation_shuffled", neuron_correlation(left.neurons, control), n, pair, layer)


def _probe_rows(probe: Probe, vectors: Mapping[tuple[str, str], Vectors], row: _Rows) -> Iterator[MetricRow]:
    def part(name: str, texts: Mapping[str, LabelledSentences]) -> dict[str, Vectors]:
        found = {language: vectors.get(_key(probe, name, language)) for language in texts}
        return {language: states for language, states in found.items() if states is not None}

    tried: dict[tuple[str, str], int] = {}
    for swap in head_swaps(probe, part("train", probe.train), part("test", probe.test)):
        yield from row("head_swap_accuracy", swap.accuracy, swap.n, (swap.fitted, swap.tested), swap.layer)
        tried[swap.fitted, swap.tested] = swap.n
    for pair, n in tried.items():
        yield from row("head_swap_chance", majority_share(probe, *pair), n, pair)
