"""The worker that hosts teachers which are asked while students train: a unit in, what the teacher says to it out."""

from __future__ import annotations

from orchestrator.records import Tables, Unit
from orchestrator.signals.schema import ROW_TABLES
from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker


class AnsweringWorker:
    """Answers with a unit's signals, or, where the job names a store, writes them there and answers with nothing."""

    def __init__(self, job: PrecomputeJob) -> None:
        self._job, self._worker = job, TeacherWorker(job)
        # At once: loading a model draws random numbers, which in one process a student that trains would miss.
        self._worker.load()

    def run(self, unit: Unit) -> Tables | None:
        """The tables of the unit that the teacher's model has a part in; the others are in its store.

        Raises:
            OrchError: the teacher, the corpus or the store cannot be used; the sentence names it.
        """
        if self._job.teachers[unit.teacher].store is not None:
            self._worker.run(unit)
            return None
        tables = self._worker.signals(unit)
        return {name: columns for name, columns in tables.items() if name not in ROW_TABLES}
