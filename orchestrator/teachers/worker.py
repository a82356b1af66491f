"""The worker that hosts teachers: a unit of work in, a shard of the teacher's store out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from orchestrator.config.corpus import CorpusSection
from orchestrator.config.models import TeacherSection
from orchestrator.corpus.mask import mask_rows
from orchestrator.corpus.store import open_corpus
from orchestrator.corpus.tokenise import tokenise
from orchestrator.errors import ConfigError, DataError
from orchestrator.models.devices import pick_device
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.records import BatchPlan, Int32, SpecialIds, Tables, Unit
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.store import Store
from orchestrator.teachers.forward import compute_signals


@dataclass(frozen=True)
class TeacherTask:
    """One teacher of a job; what to compute and how to store it is what its store was created for."""

    section: TeacherSection
    store: Path
    plan: BatchPlan


@dataclass(frozen=True)
class PrecomputeJob:
    """Everything that a unit needs beside itself; plain data, to be sent to workers."""

    teachers: Mapping[str, TeacherTask]
    corpus_folder: Path
    corpus: CorpusSection
    seed: int


class TeacherWorker:
    """Computes units of any teacher of a job; each teacher is loaded with its first unit and stays."""

    def __init__(self, job: PrecomputeJob) -> None:
        self._job = job
        self._corpus = open_corpus(job.corpus_folder)
        self._hosted: dict[str, _HostedTeacher] = {}

    def run(self, unit: Unit) -> Receipt:
        """Compute the unit's shard and write it; running a unit again gives the same bytes.

        Raises:
            OrchError: the teacher, the corpus or the store cannot be used; the sentence names it.
        """
        return self._host(unit.teacher).store.write(unit, self.signals(unit))

    def signals(self, unit: Unit) -> Tables:
        """The tables of the unit's shard: every masked copy of its texts, and what the teacher says to them."""
        teacher, section = self._host(unit.teacher), self._job.corpus
        plan = self._job.teachers[unit.teacher].plan
        rows = tokenise(
            self._corpus.texts(unit.language, "train", unit.first_text, unit.num_texts),
            first_text=unit.first_text,
            tokenizer=teacher.tokenizer,
            max_length=section.max_length,
            packing=section.packing,
        )
        masked = mask_rows(
            rows,
            language=teacher.store.languages.index(unit.language),
            special=teacher.special,
            vocab_ids=teacher.ordinary_ids,
            masking=section.masking,
            seed=self._job.seed,
            copies=range(section.masking.copies),
        )
        with _torch_threads(plan.threads):
            return compute_signals(
                teacher.encoder,
                masked,
                teacher.store.request,
                codec=teacher.store.codec,
                plan=plan,
                pad_id=teacher.special.pad,
                vocab_size=teacher.vocab_size,
            )

    def _host(self, name: str) -> _HostedTeacher:
        if name not in self._hosted:
            self._hosted[name] = _load(name, self._job.teachers[name], max_length=self._job.corpus.max_length)
        return self._hosted[name]


@dataclass(frozen=True)
class _HostedTeacher:
    store: Store
    encoder: Encoder | None
    tokenizer: PreTrainedTokenizerFast
    special: SpecialIds
    ordinary_ids: Int32
    vocab_size: int  # ids that the tokenizer can give


def _load(name: str, task: TeacherTask, *, max_length: int) -> _HostedTeacher:
    section, store = task.section, Store.open(task.store)
    tokenizer = load_tokenizer(section.tokenizer_path, revision=section.revision)
    ids = sorted(tokenizer.get_vocab().values())
    encoder = None
    if store.request.needs_model:
        assert section.model is not None, "objectives that need a model are refused for a tokenizer alone"
        encoder = freeze(
            load_encoder(
                section.model,
                revision=section.revision,
                dtype=task.plan.dtype,
                device=pick_device(section.device),
                need_head=store.request.needs_head,
            )
        )
        _check_fit(name, encoder, vocab_size=ids[-1] + 1, max_length=max_length)
    special = special_ids(tokenizer)
    return _HostedTeacher(
        store=store,
        encoder=encoder,
        tokenizer=tokenizer,
        special=special,
        ordinary_ids=np.setdiff1d(ids, [*tokenizer.all_special_ids, *special.all()]).astype(np.int32),
        vocab_size=ids[-1] + 1,
    )


def _check_fit(name: str, encoder: Encoder, *, vocab_size: int, max_length: int) -> None:
    if vocab_size > encoder.vocab_size:
        raise DataError(
            f"teachers.{name}: the tokenizer has ids up to {vocab_size - 1}, but the model's vocabulary ends at"
            f" {encoder.vocab_size - 1}; give the tokenizer that this model was trained with"
        )
    if max_length > encoder.max_positions:
        raise ConfigError(
            f"corpus.max_length: {max_length} tokens are more than teacher '{name}' can read ({encoder.max_positions});"
            " lower it"
        )


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
