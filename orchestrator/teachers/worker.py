"""The worker that hosts teachers: a unit of work in, a shard of the teacher's store out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from orchestrator import meters
from orchestrator.config.corpus import CorpusSection, ParallelText
from orchestrator.config.models import TeacherSection
from orchestrator.corpus.mask import mask_rows, unmasked_rows
from orchestrator.corpus.parallel import ParallelTexts, read_parallel
from orchestrator.corpus.store import open_corpus
from orchestrator.corpus.tokenise import first_rows, tokenise
from orchestrator.errors import ConfigError, DataError
from orchestrator.models.devices import pick_device, torch_threads
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.records import BatchPlan, HiddenCodec, Int32, MaskedRows, SignalRequest, SpecialIds, Tables, Unit
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.schema import table_columns
from orchestrator.signals.store import Store
from orchestrator.storage import Place
from orchestrator.teachers.forward import compute_signals


@dataclass(frozen=True)
class TeacherTask:
    """One teacher of a job: what to compute, how to code it, and the store to write, None where nothing is stored."""

    section: TeacherSection
    plan: BatchPlan
    request: SignalRequest
    codec: HiddenCodec
    store: Place | None = None
    sentences: ParallelText | None = None  # whose sentences it is about, in place of the corpus: whole, unmasked


@dataclass(frozen=True)
class PrecomputeJob:
    """Everything that a unit needs beside itself; plain data, to be sent to workers."""

    teachers: Mapping[str, TeacherTask]
    corpus_folder: Place
    corpus: CorpusSection
    seed: int


class TeacherWorker:
    """Computes units of any teacher of a job; each teacher is loaded with its first unit and stays."""

    def __init__(self, job: PrecomputeJob) -> None:
        self._job = job
        self._corpus = open_corpus(job.corpus_folder)
        self._hosted: dict[str, _HostedTeacher] = {}
        self._stores: dict[str, Store] = {}
        self._sentences: dict[str, ParallelTexts] = {}

    def run(self, unit: Unit) -> Receipt:
        """Compute what the unit's shard lacks and write it; running a unit again gives the same bytes.

        Raises:
            OrchError: the teacher, the corpus or the store cannot be used; the sentence names it.
        """
        folder = self._job.teachers[unit.teacher].store
        assert folder is not None, "this job stores nothing"
        if unit.teacher not in self._stores:
            self._stores[unit.teacher] = Store.open(folder)
        store, request = self._stores[unit.teacher], self._job.teachers[unit.teacher].request
        asked = table_columns(request, store.codec, store.sizes)
        lacking = [table for table in store.lacking(unit) if table in asked]
        return store.write(unit, self.signals(unit, lacking), only=lacking)

    def load(self) -> None:
        """Load every teacher of the job now."""
        for name in self._job.teachers:
            self._host(name)

    def signals(self, unit: Unit, tables: Collection[str] | None = None) -> Tables:
        """Every masked copy of the unit's texts, and what the teacher says to them: all, or the named tables alone."""
        teacher, task = self._host(unit.teacher), self._job.teachers[unit.teacher]
        masked = self._rows(unit, task, teacher)
        with torch_threads(task.plan.threads):
            said = compute_signals(
                teacher.encoder,
                masked,
                task.request,
                codec=task.codec,
                plan=task.plan,
                pad_id=teacher.special.pad,
                seed=self._job.seed,
                vocab_size=teacher.vocab_size,
                tables=tables,
            )
        tags = {"teacher": unit.teacher, "language": unit.language}
        meters.add("teacher_rows", len(masked), tags)
        meters.add("teacher_tokens", len(masked.input_id), tags)
        return said

    def _rows(self, unit: Unit, task: TeacherTask, teacher: _HostedTeacher) -> MaskedRows:
        """The rows of a unit, every masked copy of each; of sentences, one row each as it is."""
        section = self._job.corpus
        rows = tokenise(
            self._texts(unit, task),
            first_text=unit.first_text,
            tokenizer=teacher.tokenizer,
            max_length=section.max_length,
            packing=section.packing and task.sentences is None,
        )
        language = task.section.languages.index(unit.language)
        if task.sentences is not None:
            return unmasked_rows(first_rows(rows), language=language)
        return mask_rows(
            rows,
            language=language,
            special=teacher.special,
            vocab_ids=teacher.ordinary_ids,
            masking=section.masking,
            seed=self._job.seed,
            copies=range(section.masking.copies),
        )

    def _texts(self, unit: Unit, task: TeacherTask) -> Sequence[str]:
        if task.sentences is None:
            return self._corpus.texts(unit.language, "train", unit.first_text, unit.num_texts)
        if unit.teacher not in self._sentences:
            self._sentences[unit.teacher] = read_parallel(task.sentences)
        return self._sentences[unit.teacher].texts[unit.language][unit.first_text : unit.first_text + unit.num_texts]

    def _host(self, name: str) -> _HostedTeacher:
        if name not in self._hosted:
            self._hosted[name] = _load(name, self._job.teachers[name], max_length=self._job.corpus.max_length)
        return self._hosted[name]


@dataclass(frozen=True)
class _HostedTeacher:
    encoder: Encoder | None
    tokenizer: PreTrainedTokenizerFast
    special: SpecialIds
    ordinary_ids: Int32
    vocab_size: int  # ids that the tokenizer can give


def _load(name: str, task: TeacherTask, *, max_length: int) -> _HostedTeacher:
    section, request = task.section, task.request
    tokenizer = load_tokenizer(section.tokenizer_path, revision=section.revision)
    ids = sorted(tokenizer.get_vocab().values())
    encoder = None
    if request.needs_model:
        assert section.model is not None, "objectives that need a model are refused for a tokenizer alone"
        encoder = freeze(
            load_encoder(
                section.model,
                revision=section.revision,
                dtype=task.plan.dtype,
                device=pick_device(section.device),
                need_head=request.needs_head,
            )
        )
        _check_fit(name, encoder, vocab_size=ids[-1] + 1, max_length=max_length)
    special = special_ids(tokenizer)
    return _HostedTeacher(
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
