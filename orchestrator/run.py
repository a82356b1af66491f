"""An opened run: its configuration written out, its folders, and what its teachers are, without loading any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.config.corpus import ParallelText
from orchestrator.config.loading import load_config
from orchestrator.config.objectives import SentenceVectorsObjective
from orchestrator.config.run import RunConfig, known_setup
from orchestrator.config.setups import ExpandedRun, StudentSpec, expand
from orchestrator.errors import ConfigError
from orchestrator.models.architectures import ARCHITECTURES
from orchestrator.models.checkpoints import (
    CheckpointInfo,
    describe_checkpoint,
    read_config,
    resolve_folder,
    tokenizer_hash,
)
from orchestrator.models.maps import layer_map
from orchestrator.models.rows import check_row_widths
from orchestrator.records import SignalRequest
from orchestrator.storage import CacheOptions, Place, local_path, place
from orchestrator.students.requests import requested_signals


@dataclass(frozen=True)
class PivotText:
    """Parallel text whose sentences in one language a teacher says vectors of, for students to be held to."""

    text: ParallelText
    language: str
    teacher: str

    @property
    def name(self) -> str:
        """Of what the teacher says of it."""
        return f"{self.teacher}.{self.text.name}.{self.language}"


@dataclass(frozen=True)
class Run:
    """What every step of the pipeline is given."""

    expanded: ExpandedRun
    address: str | None

    @property
    def config(self) -> RunConfig:
        """The configuration behind the expansion."""
        return self.expanded.config

    @property
    def root(self) -> Path:
        """The folder that holds everything of the run, but for what lies in `stores`."""
        return local_path(self.config.run.root)

    @property
    def stores(self) -> Place:
        """The place of text, signals and vocabularies, which several runs may share; else the run's own."""
        section = self.config.run
        if section.stores is None:
            return self.root
        cache = str(local_path(section.cache)) if section.cache is not None else None
        return place(section.stores, CacheOptions(cache, int(section.cache_gigabytes * 1e9)))

    @property
    def vocabularies(self) -> Path:
        """The folder of vocabularies, which lies on this machine: students read it as long as they train."""
        return (self.stores if isinstance(self.stores, Path) else self.root) / "vocab"

    @property
    def students_folder(self) -> Path:
        """The folder of the students of this setup."""
        return self.root / "students" / self.expanded.setup

    @property
    def metrics_path(self) -> Path:
        """One line per measured figure."""
        return self.root / "evaluation" / "metrics.jsonl"

    @cached_property
    def checkpoints(self) -> Mapping[str, CheckpointInfo | None]:
        """Depth, width and vocabulary of each teacher that this setup uses; None: a tokenizer alone."""
        sections = self.config.teachers
        return {
            name: describe_checkpoint(model, revision=sections[name].revision)
            if (model := sections[name].model) is not None
            else None
            for name in self.teachers
        }

    @property
    def teachers(self) -> tuple[str, ...]:
        """Teachers that answer for some student, in the order of the configuration."""
        used = {name for student in self.expanded.students for name in student.teachers.values()}
        return tuple(name for name in self.config.teachers if name in used)

    def teacher_languages(self, teacher: str) -> tuple[str, ...]:
        """Languages for which a student of this setup listens to `teacher`, in the teacher's order."""
        used = {lang for s in self.expanded.students for lang, name in s.teachers.items() if name == teacher}
        return tuple(language for language in self.config.teachers[teacher].languages if language in used)

    def student_request(self, student: StudentSpec, teacher: str) -> SignalRequest:
        """What one student's objectives need of one teacher; ConfigError when it cannot say that."""
        return requested_signals(student.objectives, student.template, teacher=teacher, info=self.checkpoints[teacher])

    def teacher_request(self, teacher: str) -> SignalRequest:
        """What all students together need of one teacher."""
        request = SignalRequest()
        for student in self.expanded.students:
            if teacher in student.teachers.values():
                request |= self.student_request(student, teacher)
        return request

    def student_pivots(self, student: StudentSpec) -> tuple[PivotText, ...]:
        """What the objectives sentence-vectors of a student are about; ConfigError when one cannot be answered."""
        wanted = [one for one in student.objectives if isinstance(one, SentenceVectorsObjective)]
        found = {pivot.name: pivot for pivot in (self._pivot(student, objective) for objective in wanted)}
        return tuple(found.values())

    @property
    def pivots(self) -> tuple[PivotText, ...]:
        """Of all students, each once."""
        found = {pivot.name: pivot for one in self.expanded.students for pivot in self.student_pivots(one)}
        return tuple(found.values())

    def _pivot(self, student: StudentSpec, objective: SentenceVectorsObjective) -> PivotText:
        texts = {text.name: text for text in self.config.corpus.parallel}
        name, pivot = objective.text or (next(iter(texts)) if len(texts) == 1 else None), objective.pivot
        where = f"Objective sentence-vectors of student '{student.name}'"
        if name is None or name not in texts:
            raise ConfigError(
                f"{where}: there is no parallel text {name or 'to read, or more than one'}; list it under "
                "corpus.parallel, and name one of several with 'text'."
            )
        columns = texts[name].columns
        if pivot not in columns or not any(language in columns for language in student.languages):
            missing = f"'{pivot}'" if pivot not in columns else f"any of {', '.join(student.languages)}"
            raise ConfigError(f"{where}: parallel text '{name}' has no column of {missing}; add it to its columns.")
        named = [student.teachers[pivot]] if pivot in student.teachers else list(student.teachers.values())
        for teacher in named:
            if pivot in self.config.teachers[teacher].languages:
                return PivotText(texts[name], pivot, teacher)
        raise ConfigError(
            f"{where}: none of its teachers ({', '.join(dict.fromkeys(named))}) lists '{pivot}' among its languages; "
            "add it there, or choose another pivot."
        )


def open_run(path: Path, *, overrides: Sequence[str] = (), setup: str | None = None, address: str | None = None) -> Run:
    """Read, check and expand a configuration.

    Raises:
        ConfigError, DataError: something in it is wrong; one sentence per problem.
    """
    return make_run(load_config(path, overrides=overrides), setup=setup, address=address)


def make_run(config: RunConfig, *, setup: str | None = None, address: str | None = None) -> Run:
    """Expand a checked configuration, and refuse what its teachers cannot give."""
    run = Run(expand(config, setup=known_setup(setup)), address or config.cluster.address)
    for teacher in run.teachers:
        run.teacher_request(teacher)
        tokenizer_hash(config.teachers[teacher].tokenizer_path, revision=config.teachers[teacher].revision)  # is there
    _check_students(run)
    for student in run.expanded.students:
        run.student_pivots(student)
    return run


def _check_students(run: Run) -> None:
    """Lengths, and what students need that start from a teacher's layers, before anything heavy runs."""
    for student in run.expanded.students:
        if student.template.max_positions < run.config.corpus.max_length:
            raise ConfigError(
                f"Student '{student.name}' has max_positions {student.template.max_positions}, fewer than the "
                f"{run.config.corpus.max_length} tokens of corpus.max_length; raise the one or lower the other."
            )
        _check_start(run, student)


def _check_start(run: Run, student: StudentSpec) -> None:
    """Whether there is a model of the right sizes for a student to start from, before anything heavy runs."""
    template, start = student.template, student.template.initialisation
    models = {name: run.checkpoints[name] for name in dict.fromkeys(student.teachers.values())}
    infos = {name: info for name, info in models.items() if info is not None}
    if start.checkpoint is not None:
        infos = {start.checkpoint: describe_checkpoint(start.checkpoint, revision=start.revision)}
        tokenizer_hash(start.checkpoint, revision=start.revision)  # is there
    elif start.teacher is not None and start.teacher not in infos:
        raise ConfigError(
            f"initialisation.teacher: '{start.teacher}' has no model, or answers for no student of this setup; "
            "name another."
        )
    one = start.teacher or (next(iter(infos)) if len(infos) == 1 else None)
    if one is None and (start.layers == "teacher" or start.embedding == "mean"):
        option = "layers" if start.layers == "teacher" else "embedding"
        raise ConfigError(
            f"Student '{student.name}' starts from a teacher's {'layers' if option == 'layers' else 'pieces'}, but "
            f"{len(infos)} of its teachers have a model; name one with initialisation.teacher, or set "
            f"initialisation.{option}: random."
        )
    check_row_widths(
        start.embedding, own=template.hidden_size, widths={name: info.embedding_width for name, info in infos.items()}
    )
    if start.layers == "random" or one is None:
        return
    info = infos[one]
    for option, own, needed in _sizes(run, student, one, info):
        if own != needed:
            raise ConfigError(
                f"Student '{student.name}' starts from the layers of '{one}', so its {option} must be {needed}, "
                f"not {own}; change it, or set initialisation.layers: random."
            )
    layer_map(start.map, student_layers=template.layers, teacher_layers=info.depth, option="student.initialisation.map")


def _sizes(run: Run, student: StudentSpec, source: str, info: CheckpointInfo) -> Iterator[tuple[str, int, object]]:
    """(option, the student's, the source's) of all that must agree before a layer can be copied."""
    template, start = student.template, student.template.initialisation
    path, revision = start.checkpoint, start.revision
    if path is None:
        path, revision = run.config.teachers[source].model, run.config.teachers[source].revision
    assert path is not None
    config = read_config(resolve_folder(path, revision=revision, patterns=("config.json",)))
    keys = ARCHITECTURES[info.architecture].config
    yield "hidden_size", template.hidden_size, info.width
    yield "heads", template.heads, info.heads
    yield "intermediate_size", template.feed_forward_size, config.get(keys.intermediate)
