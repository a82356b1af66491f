"""Build a group from its job: encoders initialised from teachers, shared parts tied, terms and readers made ready."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress

import numpy as np
import torch
from torch import nn

from orchestrator.config.objectives import Objective, SentenceVectorsObjective
from orchestrator.config.phases import PhaseSpec, objective_keys
from orchestrator.config.setups import StudentSpec
from orchestrator.corpus.parallel import read_parallel
from orchestrator.corpus.sampling import language_shares
from orchestrator.errors import ConfigError
from orchestrator.models.devices import Device
from orchestrator.models.encoder import Encoder
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.signals.store import Store
from orchestrator.students.anchors import ANCHORS, Anchors, find_anchors
from orchestrator.students.batches import BatchReader
from orchestrator.students.frozen import KnownTeacher, load_frozen, needs_frozen
from orchestrator.students.group import StudentGroup
from orchestrator.students.ids import IdMap
from orchestrator.students.job import GroupJob, TeacherFacts
from orchestrator.students.rows import seed_for
from orchestrator.students.sentences import SentenceReader, SentenceStream, sentence_key
from orchestrator.students.source import AskingSource, Source, StoredSource
from orchestrator.students.starting import special_ids_of, start_encoder
from orchestrator.students.stream import Cursor, StreamSpec, StudentStream
from orchestrator.students.terms import Term, make_projections, make_terms
from vocab_tools.mapping import Vocabulary, open_vocabulary


@dataclass(frozen=True)
class BuiltGroup:
    """A group ready to train."""

    module: StudentGroup
    terms: Mapping[str, Sequence[Mapping[str, tuple[Term, ...]]]]  # student -> phase -> key of a batch, or ANCHORS
    vocabularies: Mapping[str, Vocabulary]  # student -> its vocabulary
    anchors: Anchors  # of the students that have a term of them


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
    encoders = {
        student.name: start_encoder(
            student,
            vocabularies[student.name],
            teachers={name: job.teachers[name].section for name in student.teachers.values()},
            teacher=teacher,
            seed=seed_for("weights", job.seed, student.origin),  # its origin's, so that a twin starts alike
        )
        for student in students
    }
    terms = {student.name: _terms(job, student, encoders[student.name]) for student in students}
    shared: dict[str, nn.Module] = {}
    module = StudentGroup(
        encoders,
        share=job.share,
        tokens={name: vocabulary.tokens for name, vocabulary in vocabularies.items()},
        projections={student.name: _projections(job, terms[student.name], shared) for student in students},
    )
    by_phase = {
        student.name: tuple(_by_key(job, student, phase, terms[student.name]) for phase in student.phases)
        for student in students
    }
    held = [name for name, phases in by_phase.items() if any(ANCHORS in phase for phase in phases)]
    return BuiltGroup(module, by_phase, vocabularies, find_anchors({name: vocabularies[name] for name in held}))


def _by_key(
    job: GroupJob, student: StudentSpec, phase: PhaseSpec, terms: Mapping[str, tuple[Term, ...]]
) -> dict[str, tuple[Term, ...]]:
    """What batches are for in a phase, by `Batch.key`: of masked rows by language, of sentences by parallel text.

    Under ANCHORS what no batch is for, if anything: those terms are the same whatever the teacher.
    """
    first = _in_phase(phase, student, next(iter(terms.values())))
    of_embeddings = tuple(term for term in first if term.reads_embeddings)
    found = {ANCHORS: of_embeddings} if of_embeddings else {}
    for language, teacher in student.teachers.items():
        of_teacher = _in_phase(phase, student, terms[teacher])
        found[language] = tuple(t for t in of_teacher if not (t.reads_sentences or t.reads_embeddings))
    for facts in job.sentences.get(student.name, ()):
        of_teacher = _in_phase(phase, student, terms[facts.teacher])
        found[sentence_key(facts.text.name, facts.pivot)] = tuple(
            term
            for term in of_teacher
            if isinstance(term.objective, SentenceVectorsObjective)
            and (term.objective.text or facts.text.name, term.objective.pivot) == (facts.text.name, facts.pivot)
        )
    return found


def build_known(
    job: GroupJob, vocabularies: Mapping[str, Vocabulary], *, device: Device
) -> dict[str, dict[str, KnownTeacher]]:
    """Student -> teacher -> its frozen parameters, of the teachers of which an objective reads any."""
    asked: dict[str, list[Objective]] = defaultdict(list)
    for student in job.group.students:
        for name in set(student.teachers.values()):
            asked[name] += student.objectives if job.teachers[name].info is not None else ()
    frozen = {
        name: load_frozen(job.teachers[name].section, objectives, device=device)
        for name, objectives in asked.items()
        if needs_frozen(objectives)
    }
    return {
        student.name: {
            name: KnownTeacher.make(
                frozen[name],
                vocabularies[student.name].map(name).astype(np.int64),
                student_size=vocabularies[student.name].size,
                device=torch.device(device),
            )
            for name in sorted(set(student.teachers.values()) & frozen.keys())
        }
        for student in job.group.students
    }


def build_streams(
    job: GroupJob, vocabularies: Mapping[str, Vocabulary], *, cursors: Mapping[str, Cursor]
) -> dict[str, StudentStream]:
    """One stream of batches per student, over what the teachers say to its languages; `cursors`: where each goes on.

    Raises:
        StoreError: a store lacks a shard or a signal, or belongs to another tokenizer.
    """
    sources = {name: _source(facts) for name, facts in job.teachers.items()}
    training = job.training
    streams: dict[str, StudentStream] = {}
    for student in job.group.students:
        maps = {name: _id_map(job, name, vocabularies[student.name]) for name in set(student.teachers.values())}
        readers = {
            language: BatchReader(sources[name], language, ids=maps[name], request=job.requests[student.name][name])
            for language, name in student.teachers.items()
        }
        spec = StreamSpec(
            student=student.origin,
            seed=job.seed,
            tokens_per_batch=training.tokens_per_batch,
            accumulation=training.accumulation,
            shares=language_shares(
                {language: sum(size.num_tokens for size in reader.sizes) for language, reader in readers.items()},
                alpha=job.alpha,
                max_epochs=job.max_epochs,
                total_tokens=training.steps * training.accumulation * training.tokens_per_batch,
            ),
        )
        cursor = cursors.get(student.name)
        sentences = _sentences(job, student, vocabularies[student.name], cursor=cursor or {})
        streams[student.name] = StudentStream(spec, readers, sentences=sentences, cursor=cursor)
    return streams


def _sentences(job: GroupJob, student: StudentSpec, vocabulary: Vocabulary, *, cursor: Cursor) -> list[SentenceStream]:
    """What a student reads of parallel text, one stream for each text and pivot."""
    streams = []
    for facts in job.sentences.get(student.name, ()):
        known = [language for language in student.languages if language in facts.text.columns]
        reader = SentenceReader(
            read_parallel(facts.text),
            Store.open(facts.store),
            pivot=facts.pivot,
            tokenizers={
                language: load_tokenizer(str(vocabulary.tokenizer_folder(student.teachers[language])))
                for language in known
            },
            max_length=job.max_length,
            pad=vocabulary.special["pad"],
        )
        size = job.training.tokens_per_batch
        streams.append(
            SentenceStream(reader, student=student.origin, seed=job.seed, tokens_per_batch=size, places=cursor)
        )
    return streams


def _source(facts: TeacherFacts) -> Source:
    store = Store.open(facts.store)
    return StoredSource(store) if facts.live is None else AskingSource(store, facts.live)


def _id_map(job: GroupJob, teacher: str, vocabulary: Vocabulary) -> IdMap:
    section = job.teachers[teacher].section
    return IdMap(
        vocabulary.map(teacher),
        student_special=special_ids_of(vocabulary),
        student_size=vocabulary.size,
        teacher_mask=special_ids(load_tokenizer(section.tokenizer_path, revision=section.revision)).mask,
    )


def _terms(job: GroupJob, student: StudentSpec, encoder: Encoder) -> dict[str, tuple[Term, ...]]:
    """Teacher -> the terms of a student on batches that this teacher answers, of all its phases."""
    return {
        name: make_terms(
            student.objectives,
            student.template,
            owner="shared" if job.share.projections else student.name,
            teacher=name,
            info=job.teachers[name].info,
            windows=[encoder.window(layer) for layer in range(1, encoder.depth + 1)],
        )
        for name in sorted(set(student.teachers.values()))
    }


def _in_phase(phase: PhaseSpec, student: StudentSpec, terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms of a student, one for each of its `objectives`, as they are in one phase.

    An objective that is in several phases has one term, so that its name and its projections stay; its weight is the
    phase's own, and of its layer pairs only those that the phase matches are left.
    """
    known = dict(zip(objective_keys(student.objectives), terms, strict=True))
    found = []
    for key, objective in zip(objective_keys(phase.objectives), phase.objectives, strict=True):
        term = replace(known[key], objective=objective)
        if term.pairs and phase.layers is not None:
            kept = [student_layer in phase.layers for student_layer, _ in term.pairs]
            if not any(kept):
                continue
            term = replace(
                term,
                pairs=tuple(compress(term.pairs, kept)),
                windows=tuple(compress(term.windows, kept)),
                projections=tuple(compress(term.projections, kept)),
            )
        found.append(term)
    return tuple(found)


def _projections(
    job: GroupJob, terms: Mapping[str, tuple[Term, ...]], shared: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    """A student's projections by key; those that `shared` holds already are taken from there, new ones enter it."""
    found = make_projections([term for of_teacher in terms.values() for term in of_teacher], seed=job.seed)
    return {key: shared.setdefault(key, module) for key, module in found.items()}
