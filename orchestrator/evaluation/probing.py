"""Linear probes of sentences, fitted on one language and applied to another: can a head be swapped between students?

Shape legend: S layers with the embedding output, n sentences, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orchestrator.config.run import EvaluationSection
from orchestrator.corpus.labelled import LabelledRow, read_labelled
from orchestrator.errors import DataError
from orchestrator.evaluation.sentences import Vectors

Labels = npt.NDArray[np.str_]  # [n]

_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LabelledSentences:
    """n sentences of one language and what is to be said of each."""

    texts: tuple[str, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Probe:
    """A labelled task: language -> sentences to fit a head on, and to test one on."""

    name: str
    train: Mapping[str, LabelledSentences]
    test: Mapping[str, LabelledSentences]

    @property
    def split(self) -> str:
        """What its rows have as split."""
        return f"probe:{self.name}"


@dataclass(frozen=True)
class HeadSwap:
    """How often a head of one layer that was fitted on `fitted` is right on the n test sentences of `tested`."""

    fitted: str
    tested: str
    layer: int
    accuracy: float
    n: int


def read_probes(section: EvaluationSection) -> list[Probe]:
    """The labelled sentences of every probe.

    Raises:
        DataError: a table cannot be used, or the training sentences of a language have one label alone.
    """
    probes = []
    for name, task in section.probes.items():
        key = f"evaluation.probes.{name}"
        table = read_labelled(task, key=key)
        train = {language: _sentences(table.train_rows(language)) for language in table.train_languages()}
        test = {language: _sentences(table.test_rows(language)) for language in table.test_languages()}
        if not train or not test:
            raise DataError(f"{key}.{'test' if train else 'train'} lets no row through; correct it.")
        for language, sentences in train.items():
            if len(set(sentences.labels)) < 2:
                raise DataError(
                    f"{key}: all {len(sentences)} training sentences in '{language}' are '{sentences.labels[0]}'; a "
                    "probe needs two labels or more: raise max_train, or choose other rows with train."
                )
        probes.append(Probe(name, train, test))
    return probes


def head_swaps(probe: Probe, train: Mapping[str, Vectors], test: Mapping[str, Vectors]) -> Iterator[HeadSwap]:
    """Every language's heads, one per layer, on every language's test sentences, the own one included.

    `train` and `test` hold a system's vectors [S, n, D] by language. Layers are matched by number where the depths of
    both sides agree, else the last of each; where widths differ there is nothing to apply a head to. A head is a
    logistic regression on standardised vectors, and brings the means and deviations that it was fitted with along.
    """
    for fitted, layers in train.items():
        for here in range(-len(layers), 0):
            fits = [tested for tested in test if _applies(layers, test[tested], here)]
            if not fits:
                continue
            head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MAX_ITERATIONS))
            head.fit(layers[here], probe.train[fitted].labels)
            for tested in fits:
                truth = probe.test[tested].labels
                right = head.predict(test[tested][here]) == truth
                layer = min(len(layers), len(test[tested])) + here
                yield HeadSwap(fitted, tested, layer, float(right.mean()), len(truth))


def majority_share(probe: Probe, fitted: str, tested: str) -> float:
    """The share right of who always says the most frequent label of the training sentences of `fitted`."""
    labels, counts = np.unique(probe.train[fitted].labels, return_counts=True)
    return float((probe.test[tested].labels == labels[counts.argmax()]).mean())


def _applies(fitted: Vectors, tested: Vectors, here: int) -> bool:
    return fitted.shape[2] == tested.shape[2] and (len(fitted) == len(tested) or here == -1)


def _sentences(rows: Sequence[LabelledRow]) -> LabelledSentences:
    return LabelledSentences(tuple(words[0] for words, _ in rows), np.array([tags[0] for _, tags in rows], np.str_))
