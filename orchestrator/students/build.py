"""Build a group from its job: encoders initialised from teachers, shared parts tied, terms and readers made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

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
from orchestrator.students.batches import BatchReader
from orchestrator.students.group import StudentGroup
from orchestrator.students.ids import IdMap
from orchestrator.students.job import GroupJob
from orchestrator.students.rows import seed_for
from orchestrator.students.stream import Cursor, StreamSpec, StudentStream
from orchestrator.students.terms import Term, make_projections, make_terms
from vocab_tools.embeddings import carry_embeddings
from vocab_tools.mapping import Vocabulary, open_vocabulary


@dataclass(frozen=True)
class BuiltGroup:
    """A group ready to train."""

    module: StudentGroup
    terms: Mapping[str, Mapping[str, tuple[Term, ...]]]  # student -> language -> terms
    vocabularies: Mapping[str, Vocabulary]  # student -> its vocabulary


def build_group(job: GroupJob) -> BuiltGroup:
    """Encoders, projections and terms of a job, from its seed; the same job gives the same weights.

    What a student starts with does not depend on which others are in its group, shared parts aside.

    Raises:
        ConfigError: a student cannot start as asked, such as layers copied from a teacher of another width.
    """

    @cache
    def teacher(name: str) -> Encoder:
        section = job.teachers[name].section
        assert section.model is not None
        return load_encoder(section.model, revision=section.revision, dtype="float32", device="cpu", need_head=False)

    students = job.group.students
    if job.share.projections and len({student.template.hidden_size for student in students}) > 1:
        raise ConfigError(
            f"share.projections: the students of group '{job.group.name}' differ in hidden_size; give them the same, "
            "or leave projections unshared."
        )
    vocabularies = {student.name: open_vocabulary(job.vocabularies[student.origin]) for student in students}
    encoders = {student.name: _encoder(job, student, vocabularies[student.name], teacher) for student in students}
    terms = {student.name: _terms(job, student) for student in students}
    shared: dict[str, nn.Module] = {}
    module = StudentGroup(
        encoders,
        share=job.share,
        tokens={name: vocabulary.tokens for name, vocabulary in vocabularies.items()},
        projections={student.name: _projections(job, student, terms[student.name], shared) for student in students},
    )
    by_language = {
        student.name: {language: terms[student.name][name] for language, name in student.teachers.items()}
        for student in students
    }
    return BuiltGroup(module, by_language, vocabularies)


def build_streams(
    job: GroupJob, vocabularies: Mapping[str, Vocabulary], *, cursors: Mapping[str, Cursor]
) -> dict[str, StudentStream]:
    """One stream of batches per student, over the stores that its objectives need; `cursors`: where each goes on.

    Raises:
        StoreError: a store lacks a shard or a signal, or belongs to another tokenizer.
    """
    stores = {name: Store.open(facts.store) for name, facts in job.teachers.items()}
    training = job.training
    streams: dict[str, StudentStream] = {}
    for student in job.group.students:
        maps = {name: _id_map(job, name, vocabularies[student.name]) for name in set(student.teachers.values())}
        readers = {
            language: BatchReader(stores[name], language, ids=maps[name], request=job.requests[student.name][name])
            for language, name in student.teachers.items()
        }
        spec = StreamSpec(
            student=student.origin,
            seed=job.seed,
            tokens_per_batch=training.tokens_per_batch,
            accumulation=training.accumulation,
            shares=language_shares(
                {language: reader.rows.total_tokens for language, reader in readers.items()},
                alpha=job.alpha,
                max_epochs=job.max_epochs,
                total_tokens=training.steps * training.accumulation * training.tokens_per_batch,
            ),
        )
        streams[student.name] = StudentStream(spec, readers, cursor=cursors.get(student.name))
    return streams


def _id_map(job: GroupJob, teacher: str, vocabulary: Vocabulary) -> IdMap:
    section = job.teachers[teacher].section
    return IdMap(
        vocabulary.map(teacher),
        student_special=_special(vocabulary),
        student_size=vocabulary.size,
        teacher_mask=special_ids(load_tokenizer(section.tokenizer_path, revision=section.revision)).mask,
    )


def _special(vocabulary: Vocabulary) -> SpecialIds:
    ids = vocabulary.special
    return SpecialIds(pad=ids["pad"], unk=ids["unk"], mask=ids["mask"], cls=ids["cls"], sep=ids["sep"])


def _terms(job: GroupJob, student: StudentSpec) -> dict[str, tuple[Term, ...]]:
    """Teacher -> the terms of a student on batches that this teacher answers."""
    return {
        name: make_terms(
            student.objectives,
            owner="shared" if job.share.projections else student.name,
            teacher=name,
            student_layers=student.template.layers,
            teacher_layers=job.teachers[name].depth,
        )
        for name in sorted(set(student.teachers.values()))
    }


def _projections(
    job: GroupJob, student: StudentSpec, terms: Mapping[str, tuple[Term, ...]], shared: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    """The student's projections by key; those that `shared` holds already are taken from there, new ones enter it."""
    found: dict[str, nn.Module] = {}
    for name, of_teacher in terms.items():
        width = job.teachers[name].width or 0
        found |= make_projections(
            of_teacher, student_width=student.template.hidden_size, teacher_width=width, seed=job.seed
        )
    return {key: shared.setdefault(key, module) for key, module in found.items()}


def _encoder(job: GroupJob, student: StudentSpec, vocabulary: Vocabulary, teacher: Callable[[str], Encoder]) -> Encoder:
    """A student's encoder as its `initialisation` asks; the seed is its origin's, so a twin starts alike."""
    template, start = student.template, student.template.initialisation
    seed = seed_for("weights", job.seed, student.origin)
    encoder = build_encoder(template, vocab_size=vocabulary.size, special=_special(vocabulary), seed=seed)
    models = [name for name in dict.fromkeys(student.teachers.values()) if job.teachers[name].section.model is not None]
    if start.layers == "teacher":
        source = _source(student, models)
        depth = job.teachers[source].depth or 0
        option = "initialisation.map"
        pairs = layer_map(start.map, student_layers=template.layers, teacher_layers=depth, option=option)
        initialise_layers(encoder, teacher(source), pairs)
    if start.embedding == "teacher" and models:
        rows = carry_embeddings(
            {name: teacher(name).word_embeddings.weight.detach().numpy() for name in models},
            {name: vocabulary.map(name) for name in models},
            size=vocabulary.size,
            width=template.hidden_size,
            seed=seed,
            priority=sorted(models, key=lambda name: name != start.teacher),
        )
        with torch.no_grad():
            encoder.word_embeddings.weight.copy_(torch.from_numpy(rows))
    return encoder


def _source(student: StudentSpec, models: list[str]) -> str:
    """The teacher whose layers a student starts from."""
    named = student.template.initialisation.teacher
    source = named or (models[0] if len(models) == 1 else None)
    if source not in models:
        whose = f"of teacher '{named}'" if named else "of a teacher without saying which"
        raise ConfigError(
            f"Student '{student.name}' starts from the layers {whose}, but its teachers with a model are: "
            f"{', '.join(models) or 'none'}; name one of them with initialisation.teacher, or set "
            "initialisation.layers: random."
        )
    return source
