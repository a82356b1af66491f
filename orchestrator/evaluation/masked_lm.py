"""Every model on masked text of its languages, beside its teacher on the same positions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from orchestrator.corpus.store import Corpus
from orchestrator.evaluation.encode import masked_states
from orchestrator.evaluation.fidelity import MaskedHead, MaskedScore, TeacherView, score
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.evaluation.loading import float_head, load_id_map, load_model, same_ids, tokenizer_of
from orchestrator.evaluation.masked_text import MaskedText, mask_texts
from orchestrator.evaluation.parts import Parts
from orchestrator.models.encoder import Encoder
from orchestrator.models.tokenizers import special_ids
from orchestrator.records import MetricRow

Split = Literal["held_out", "train"]

_SPLITS: tuple[Split, ...] = ("held_out", "train")
_log = logging.getLogger(__name__)


def masked_lm_rows(job: EvaluationJob, corpus: Corpus, parts: Parts) -> Iterator[MetricRow]:
    """Masked LM of every model that has a head, on held-out and on training text, and the fidelity of students.

    Teachers come first and run once: what their head reads at the masked positions is kept (a few MB per language),
    with their partition there, so that for each student only the logits of tokens that it has are computed again. Parts
    that are known are not measured; a teacher runs again only in languages where a student is yet to be measured.
    """
    texts = _Texts(job, corpus)
    heads: dict[tuple[str, str, Split], MaskedHead] = {}
    models = [m for m in job.models if m.folder is not None and (m.role != "teacher" or job.evaluation.teachers)]
    digests = {(m.name, lang): _digest(parts, job, m, lang, corpus) for m in models for lang in m.languages}
    missing = {part for part, digest in digests.items() if parts.known(digest) is None}
    heard = {(m.teachers[lang], lang) for m in models for lang in m.teachers if (m.name, lang) in missing}
    for model in sorted(models, key=lambda model: model.role != "teacher"):
        wanted = [language for language in model.languages if (model.name, language) in missing | heard]
        loaded = _Loaded.of(model, job) if wanted else None
        for language in model.languages:
            digest = digests[model.name, language]
            if language not in wanted:
                yield from parts.known(digest) or ()
            else:
                rows = _language_rows(job, loaded, language, texts, heads) if loaded is not None else ()
                yield from parts.keep(digest, rows)


def _digest(parts: Parts, job: EvaluationJob, model: EvaluatedModel, language: str, corpus: Corpus) -> str:
    """Of a model's part in one language, which its teacher there decides too."""
    teachers = [job.model(name) for name in (model.teachers.get(language),) if name is not None]
    return parts.digest(f"masked LM in {language}", [model, *teachers], text=corpus.fingerprint)


@dataclass(frozen=True)
class _Loaded:
    """A model with its decoder in float32."""

    model: EvaluatedModel
    encoder: Encoder
    weight: torch.Tensor  # [V, W]
    bias: torch.Tensor | None  # [V]

    @classmethod
    def of(cls, model: EvaluatedModel, job: EvaluationJob) -> _Loaded | None:
        """None where it has none."""
        encoder = load_model(model, job)
        if not encoder.has_head:
            _log.info("%s has no masked-language-model head and is measured by retrieval alone", model.name)
            return None
        return cls(model, encoder, *float_head(encoder))


def _language_rows(
    job: EvaluationJob, loaded: _Loaded, language: str, texts: _Texts, heads: dict[tuple[str, str, Split], MaskedHead]
) -> Iterator[MetricRow]:
    """Of one model in one language; `heads`, by teacher, is read, and written where the model is one."""
    model = loaded.model
    teacher = model.teachers.get(language, model.name)
    for split in _SPLITS:
        text = texts.of(job.model(teacher), language, split)
        answers = heads.get((teacher, language, split))
        head, found = _measure(loaded, language, text, answers)
        if model.role == "teacher":
            heads[model.name, language, split] = head
        yield from _rows(found, text, model, language, split, job.seed, compared=answers is not None)


class _Texts:
    """Masked texts by tokenizer, language and split, made when first asked for."""

    def __init__(self, job: EvaluationJob, corpus: Corpus) -> None:
        self._job, self._corpus = job, corpus
        self._made: dict[tuple[str, str | None, str, Split], MaskedText] = {}

    def of(self, teacher: EvaluatedModel, language: str, split: Split) -> MaskedText:
        key = (teacher.tokenizer(language), teacher.revision, language, split)
        if key not in self._made:
            texts = self._choose(language, split)
            tokenizer = tokenizer_of(teacher, language)
            self._made[key] = mask_texts(texts, tokenizer=tokenizer, section=self._job.corpus)
        return self._made[key]

    def _choose(self, language: str, split: Split) -> list[str]:
        most = self._job.evaluation.max_texts
        if split == "train":
            return self._corpus.sample(language, most)
        num_texts = self._corpus.info(language, split).num_texts
        count = min(most, num_texts)
        # Evenly spread, since the sources of a language stand one after another.
        return [self._corpus.texts(language, split, i * num_texts // count, 1)[0] for i in range(count)]


def _measure(
    loaded: _Loaded, language: str, text: MaskedText, teacher: MaskedHead | None
) -> tuple[MaskedHead, MaskedScore]:
    model, weight = loaded.model, loaded.weight
    special = special_ids(tokenizer_of(model, language))
    num_teacher_ids = max(text.vocab_size, len(teacher.weight) if teacher is not None else 0)
    path = model.maps.get(language)
    if path is None:
        id_map = same_ids(num_teacher_ids, vocabulary=len(weight))
    else:
        id_map = load_id_map(Path(path), size=num_teacher_ids, vocabulary=len(weight))
    rows, labels = text.carried_over(id_map, unk=special.unk)
    head = MaskedHead(masked_states(loaded.encoder, rows, text.masked, pad=special.pad), weight, loaded.bias)
    view = None
    if teacher is not None:
        carried = torch.from_numpy(id_map[: len(teacher.weight)].astype(np.int64)).to(weight.device)
        view = TeacherView(teacher, carried)
    return head, score(head, labels.to(weight.device), unk=special.unk, teacher=view)


def _rows(
    found: MaskedScore,
    text: MaskedText,
    model: EvaluatedModel,
    language: str,
    split: Split,
    seed: int,
    *,
    compared: bool,
) -> Iterator[MetricRow]:
    nats = found.nats / found.count
    figures = {
        "masked_lm_accuracy": found.correct / found.count,
        "masked_lm_nats": nats,
        "bits_per_character": text.bits_per_character(nats / math.log(2)),
        "unknown_share": text.unknown_share(found.unknown / found.count),
    }
    if compared:
        figures |= {
            "teacher_agreement": found.agreed / found.count,
            "teacher_kl": found.divergence / found.count,
            "teacher_kl_shared": found.shared_divergence / found.count,
            "teacher_mass_outside": found.outside / found.count,
        }
    for metric, value in figures.items():
        yield MetricRow(model.name, model.role, language, metric, value, found.count, seed, split)
