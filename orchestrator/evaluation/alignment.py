"""How well the languages of a system lie beside one another: retrieval at every layer, CKA at the last.

Shape legend: S layers with the embedding output, n sentences, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from orchestrator.corpus.parallel import ParallelTexts, read_parallel
from orchestrator.evaluation.cka import linear_cka
from orchestrator.evaluation.encode import TokenRows, mean_vectors
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob, Role
from orchestrator.evaluation.loading import load_model, tokenizer_of
from orchestrator.evaluation.retrieval import retrieve
from orchestrator.models.tokenizers import special_ids
from orchestrator.records import MetricRow

Vectors = npt.NDArray[np.float32]  # [S, n, D]

#: Pairs of the control are shuffled alike in every run.
_SHUFFLE_SEED = 20_240_229
_FEWEST_FOR_CKA = 4
_log = logging.getLogger(__name__)


def alignment_rows(job: EvaluationJob) -> Iterator[MetricRow]:
    """Every pair of languages of every system that a parallel source holds; rows carry the system's name as model.

    A row's `language` asks and its `other_language` is searched; `split` is `parallel:<source>`.
    """
    sources = [read_parallel(source) for source in job.evaluation.parallel]
    systems = job.all_systems()
    for source in sources:
        if not any(len(_served(members) & source.texts.keys()) > 1 for members in systems.values()):
            _log.warning("evaluation.parallel '%s': no model or setup serves two of its languages", source.name)
    for name, members in systems.items():
        if members[0].role == "teacher" and not job.evaluation.teachers:
            continue
        _log.info("retrieval across the languages of %s", name)
        vectors = _encode(members, sources, job)
        for source in sources:
            for left, right in combinations(source.texts, 2):
                sides = vectors.get((source.name, left)), vectors.get((source.name, right))
                if sides[0] is not None and sides[1] is not None:
                    labels = _Labels(name, members[0].role, left, right, f"parallel:{source.name}", job.seed)
                    yield from _pair_rows(sides[0], sides[1], labels)


def _served(members: tuple[EvaluatedModel, ...]) -> set[str]:
    return {language for member in members for language in member.languages}


@dataclass(frozen=True)
class _Labels:
    """What the rows of one pair of languages have in common."""

    system: str
    role: Role
    left: str
    right: str
    split: str
    seed: int

    def row(self, metric: str, value: float, n: int, *, layer: int | None = None, backward: bool = False) -> MetricRow:
        language, other = (self.right, self.left) if backward else (self.left, self.right)
        return MetricRow(
            self.system, self.role, language, metric, value, n, self.seed, self.split, other_language=other, layer=layer
        )


def _encode(
    members: tuple[EvaluatedModel, ...], sources: list[ParallelTexts], job: EvaluationJob
) -> dict[tuple[str, str], Vectors]:
    """(source, language) -> vectors by the first member that serves the language; each member is loaded once."""
    vectors: dict[tuple[str, str], Vectors] = {}
    taken: set[str] = set()
    for member in members:
        languages = [language for language in member.languages if language not in taken]
        taken.update(languages)
        wanted = [(source, language) for source in sources for language in languages if language in source.texts]
        if not wanted:
            continue
        encoder = load_model(member, job)
        for source, language in wanted:
            tokenizer = tokenizer_of(member, language)
            encoded = tokenizer(source.texts[language], truncation=True, max_length=job.corpus.max_length)
            rows = TokenRows.of(encoded["input_ids"])
            vectors[source.name, language] = mean_vectors(encoder, rows, pad=special_ids(tokenizer).pad)
    return vectors


def _pair_rows(left: Vectors, right: Vectors, labels: _Labels) -> Iterator[MetricRow]:
    n, depth = left.shape[1], min(len(left), len(right)) - 1
    if left.shape[2] == right.shape[2]:  # vectors of different widths have no cosine
        # Layers are matched by number where the depths agree, else only the last of each side.
        for number in range(depth + 1) if len(left) == len(right) else (depth,):
            here = number - depth - 1
            found = retrieve(left[here], right[here])
            yield labels.row("retrieval_cosine", found.cosine_forward, n, layer=number)
            yield labels.row("retrieval_cosine", found.cosine_backward, n, layer=number, backward=True)
            yield labels.row("retrieval_csls", found.csls_forward, n, layer=number)
            yield labels.row("retrieval_csls", found.csls_backward, n, layer=number, backward=True)
        yield labels.row("retrieval_chance", 1 / n, n)
        yield labels.row("retrieval_chance", 1 / n, n, backward=True)
    if n >= _FEWEST_FOR_CKA:
        shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(n)
        yield labels.row("cka", linear_cka(left[-1], right[-1]), n, layer=depth)
        yield labels.row("cka_shuffled", linear_cka(left[-1], right[-1][shuffled]), n, layer=depth)
