"""The worker that trains one group and exports its students as ordinary Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

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
        """Train a group to its end and export every student of it; a damaged vocabulary is a StoreError."""
        try:
            built, result = train_group(job)
            for student in job.group.students:
                _export(job, built, student.name, result)
        except VocabularyError as error:
            raise StoreError(str(error)) from error
        return result


def _export(job: GroupJob, built: BuiltGroup, student: str, result: GroupResult) -> None:
    """`final/`: model and tokenizer as `from_pretrained` opens them, those of each language below `tokenizers/`."""
    target = job.folder(student) / "final"
    partial = target.with_name("final.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    export_student(built.module.encoder(student), partial)
    vocabulary = built.vocabularies[student]
    spec = next(one for one in job.group.students if one.name == student)
    shutil.copytree(vocabulary.tokenizer_folder(_default_tokenizer(spec.teachers)), partial, dirs_exist_ok=True)
    if len(set(spec.teachers.values())) > 1:
        for language in spec.languages:
            shutil.copytree(vocabulary.tokenizer_folder(spec.teachers[language]), partial / "tokenizers" / language)
    receipt = {
        "fingerprint": job.fingerprint,
        "student": student,
        "role": spec.role,
        "languages": spec.languages,
        "teachers": spec.teachers,
        "objectives": [objective.model_dump() for objective in spec.objectives],
        "group": [one.name for one in job.group.students],
        "files": {
            str(path.relative_to(partial)): hash_file(path) for path in sorted(partial.rglob("*")) if path.is_file()
        },
        "parameters": sum(p.numel() for p in built.module.encoder(student).parameters()),
        **asdict(result),
    }
    write_bytes(partial / RECEIPT, json.dumps(receipt, indent=1).encode())
    commit_folder(partial, target)


def _default_tokenizer(teachers: dict[str, str]) -> str:
    """The teacher that answers for most languages, the first by name among equals."""
    names = sorted(set(teachers.values()))
    return max(names, key=lambda name: sum(teacher == name for teacher in teachers.values()))
