"""The worker that trains one group and exports its students as ordinary Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.setups import StudentSpec
from orchestrator.errors import StoreError
from orchestrator.models.export import export_student
from orchestrator.storage import commit_folder, hash_file, write_bytes
from orchestrator.students.build import BuiltGroup
from orchestrator.students.job import RECEIPT, GroupJob, GroupResult
from orchestrator.students.loop import train_group
from vocab_tools.errors import VocabularyError


class StudentWorker:
    """Runs group jobs; a plain class that the cluster makes an actor."""

    def run(self, job: GroupJob) -> GroupResult:
        """Train a group to its end and export every student of it; of several workers the first one exports.

        Raises:
            OrchError: the group cannot be built, read or trained; the sentence names what is wrong.
        """
        try:
            built, result = train_group(job)
            for student in job.group.students if job.seat.rank == 0 else ():
                _export(job, built, student, result)
        except VocabularyError as error:
            raise StoreError(str(error)) from error
        return result


def _export(job: GroupJob, built: BuiltGroup, student: StudentSpec, result: GroupResult) -> None:
    """`final/`: model and tokenizer as `from_pretrained` opens them, those of each language below `tokenizers/`."""
    target = job.folder(student.name) / "final"
    partial = target.with_name("final.partial")
    shutil.rmtree(partial, ignore_errors=True)
    encoder, vocabulary = built.module.encoder(student.name), built.vocabularies[student.name]
    export_student(encoder, partial)
    _copy(vocabulary.tokenizer_folder(_default_tokenizer(student.teachers)), partial)
    if len(set(student.teachers.values())) > 1:
        for language, teacher in student.teachers.items():
            _copy(vocabulary.tokenizer_folder(teacher), partial / "tokenizers" / language)
    receipt = {
        "fingerprint": job.fingerprint,
        "student": student.name,
        "role": student.role,
        "languages": student.languages,
        "teachers": student.teachers,
        "objectives": [objective.model_dump() for objective in student.objectives],
        "phases": [phase.name for phase in student.phases],
        "group": [one.name for one in job.group.students],
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "steps": result.steps,
        "seconds": result.seconds,
        "tokens": result.tokens[student.name],
        "files": {
            str(path.relative_to(partial)): hash_file(path) for path in sorted(partial.rglob("*")) if path.is_file()
        },
    }
    write_bytes(partial / RECEIPT, json.dumps(receipt, indent=1).encode())
    commit_folder(partial, target)


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        write_bytes(target / path.name, path.read_bytes())


def _default_tokenizer(teachers: Mapping[str, str]) -> str:
    """The teacher that answers for most languages, the first by name among equals."""
    names = sorted(set(teachers.values()))
    return max(names, key=lambda name: sum(teacher == name for teacher in teachers.values()))
