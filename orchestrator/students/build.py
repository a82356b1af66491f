"""Build a group from its job: encoders initialised from teachers, shared parts tied, terms and readers made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.config.models import TeacherSection
from orchestrator.config.setups import StudentSpec
from orchestrator.corpus.sampling import language_shares
from orchestrator.errors import ConfigError
from orchestrator.models.building import build_encoder
from orchestrator.models.encoder import Encoder
from orchestrator.models.initialising import initialise_layers
from orchestrator.models.loading import load_encoder
from orchestrator.models.maps import layer_map
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.records import SpecialIds
from orchestrator.signals.store import Store
from orchestrator.students.batches import BatchReader, IdMap
from orchestrator.students.group import StudentGroup
from orchestrator.students.job import GroupJob
from orchestrator.students.objective import Term, make_projections, make_terms
from orchestrator.students.stream import Cursor, StreamSpec, StudentStream
from vocab_tools.embeddings import carry_embeddings
from vocab_tools.mapping import Vocabulary, open_vocabulary

#: teacher -> the terms of a student on batches that this teacher answers
TermsByTeacher = Mapping[str, tuple[Term, ...]]


@dataclass(frozen=True)
class BuiltGroup:
    """A group ready to train."""

    module: StudentGroup
    terms: Mapping[str, TermsByTeacher]  # student -> teacher -> terms
    vocabularies: Mapping[str, Vocabulary]  # student -> its vocabulary


def build_group(job: GroupJob) -> BuiltGroup:
    """Encoders, projections and terms of a job, from its seed; the same job gives the same weights.

    Raises:
        ConfigError: a student cannot start as asked, such as layers copied from a teacher of another width.
    """
    teachers: dict[str, Encoder] = {}

    def teacher(name: str) -> Encoder:
        if name not in teachers:
            section = job.teachers[name].section
            assert section.model is not None
            teachers[name] = load_encoder(
                section.model, revision=section.revision, dtype="float32", device="cpu", need_head=False
            )
        return teachers[name]

    encoders: dict[str, Encoder] = {}
    terms: dict[str, dict[str, tuple[Term, ...]]] = {}
    vocabularies: dict[str, Vocabulary] = {}
    projections: dict[str, torch.nn.Module] = {}
    for number, student in enumerate(job.group.students):
        vocabulary = open_vocabulary(job.vocabularies[student.origin])
        vocabularies[student.name] = vocabulary
        seed = job.seed * 1000 + number
        encoder = build_encoder(
            student.template, vocab_size=vocabulary.size, special=vocabulary_special(vocabulary), seed=seed
        )
        _initialise(encoder, student, job, vocabulary, teacher, seed)
        encoders[student.name] = encoder
        terms[student.name] = {}
        for name in sorted(set(student.teachers.values())):
            facts = job.teachers[name]
            made = make_terms(
                student.objectives,
                owner="shared" if job.share.projections else student.name,
                teacher=name,
                student_layers=student.template.layers,
                teacher_layers=facts.depth,
            )
            terms[student.name][name] = made
            for key, module in make_projections(
                made, student_width=student.template.hidden_size, teacher_width=facts.width or 0, seed=seed
            ).items():
                projections.setdefault(key, module)
    module = StudentGroup(
        encoders,
        share=job.share,
        tokens={name: vocabulary.tokens for name, vocabulary in vocabularies.items()},
        projections=projections,
    )
    return BuiltGroup(module, terms, vocabularies)


def build_streams(
    job: GroupJob, vocabularies: Mapping[str, Vocabulary], *, cursors: Mapping[str, Cursor] | None = None
) -> dict[str, StudentStream]:
    """One stream of batches per student, over the stores that its objectives need."""
    stores = {name: Store.open(facts.store) for name, facts in job.teachers.items()}
    streams: dict[str, StudentStream] = {}
    for student in job.group.students:
        vocabulary = vocabularies[student.name]
        maps = {
            name: IdMap(
                vocabulary.map(name),
                student_special=vocabulary_special(vocabulary),
                student_size=vocabulary.size,
                teacher_mask=teacher_special(job.teachers[name].section).mask,
            )
            for name in set(student.teachers.values())
        }
        readers = {
            language: BatchReader(stores[name], language, ids=maps[name], request=job.requests[student.name][name])
            for language, name in student.teachers.items()
        }
        training = job.training
        shares = language_shares(
            {language: reader.rows.total_tokens for language, reader in readers.items()},
            alpha=job.alpha,
            max_epochs=job.max_epochs,
            total_tokens=training.steps * training.accumulation * training.tokens_per_batch,
        )
        spec = StreamSpec(
            student=student.origin,
            seed=job.seed,
            tokens_per_batch=training.tokens_per_batch,
            accumulation=training.accumulation,
            shares=shares,
        )
        streams[student.name] = StudentStream(spec, readers, cursor=cursors[student.name] if cursors else None)
    return streams


def vocabulary_special(vocabulary: Vocabulary) -> SpecialIds:
    """Special ids of a student's vocabulary as the record that other rooms use."""
    return SpecialIds(**vocabulary.special)


def teacher_special(section: TeacherSection) -> SpecialIds:
    """Special ids of a teacher's tokenizer."""
    return special_ids(load_tokenizer(section.tokenizer_path, revision=section.revision))


def _initialise(
    encoder: Encoder,
    student: StudentSpec,
    job: GroupJob,
    vocabulary: Vocabulary,
    teacher: Callable[[str], Encoder],
    seed: int,
) -> None:
    start = student.template.initialisation
    models = [name for name in dict.fromkeys(student.teachers.values()) if job.teachers[name].section.model is not None]
    if start.layers == "teacher":
        source = start.teacher or _only_model(student.name, models)
        pairs = layer_map(
            start.map, student_layers=student.template.layers, teacher_layers=job.teachers[source].depth or 0
        )
        initialise_layers(encoder, teacher(source), pairs)
    if start.embedding == "teacher" and models:
        first = [start.teacher] if start.teacher in models else []
        rows = carry_embeddings(
            {name: teacher(name).word_embeddings.weight.detach().float().numpy() for name in models},
            {name: vocabulary.map(name) for name in models},
            size=vocabulary.size,
            width=student.template.hidden_size,
            seed=seed,
            priority=[*first, *(name for name in models if name not in first)],
        )
        with torch.no_grad():
            encoder.word_embeddings.weight.copy_(torch.from_numpy(np.ascontiguousarray(rows)))


def _only_model(student: str, models: list[str]) -> str:
    if len(models) != 1:
        raise ConfigError(
            f"Student '{student}' starts from a teacher's layers, but has {len(models)} teachers with a model "
            f"({', '.join(models) or 'none'}); name one with initialisation.teacher, or set initialisation.layers: random."
        )
    return models[0]
