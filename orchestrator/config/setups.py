"""A setup is data: it expands one student template into explicit students, groups of students and their teachers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from orchestrator.config.base import nearest
from orchestrator.config.models import InitialisationSection, StudentSection, StudentTemplate
from orchestrator.config.objectives import AnchorsObjective, MaskedLMObjective, Objective, needs_teacher
from orchestrator.config.phases import PhaseSpec, distinct_objectives, make_phases, whole_training
from orchestrator.config.run import RunConfig, Setup
from orchestrator.errors import ConfigError

BASELINE_SUFFIX = "-no-teacher"


@dataclass(frozen=True)
class StudentSpec:
    """One student, complete: what it looks like, what it reads and what it is trained for."""

    name: str
    role: str
    template: StudentTemplate
    languages: tuple[str, ...]
    teachers: dict[str, str]  # language -> the teacher that answers for it
    phases: tuple[PhaseSpec, ...]  # one at least, one after the other
    origin: str  # decides vocabulary and order of batches: its own name, or its twin's for a baseline

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of all phases, each once."""
        return distinct_objectives(self.phases)


@dataclass(frozen=True)
class GroupSpec:
    """Students that are trained together: they share parameters, or one is held to another."""

    name: str
    students: tuple[StudentSpec, ...]

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """The names, steps and rates of the phases, which its students have in common; the rest is the first one's."""
        return self.students[0].phases


@dataclass(frozen=True)
class ExpandedRun:
    """A configuration whose setup is written out; `setup` names the folder of its students."""

    config: RunConfig
    setup: Setup
    groups: tuple[GroupSpec, ...]

    @property
    def students(self) -> tuple[StudentSpec, ...]:
        """All students of all groups, baselines included."""
        return tuple(student for group in self.groups for student in group.students)


def expand(config: RunConfig, *, setup: Setup | None = None) -> ExpandedRun:
    """Write a setup out.

    one-to-one: one student of one teacher over all its languages. many-to-one: one student of several teachers, each
    language answered by one. one-to-many: one student per language, or per named group of languages, of one teacher.
    explicit: the `students` as they are written, many-to-many included.

    Raises:
        ConfigError: the configuration cannot satisfy the setup; the text says why and what to change.
    """
    chosen = setup or config.run.setup
    _check_languages(config)
    _check_teachers(config)
    sections = _sections(config, chosen)
    groups = _groups(config, sections)
    if config.training.baseline:
        groups += tuple(_twin(group, config) for group in groups if any(map(_has_teacher, group.students)))
    return ExpandedRun(config=config, setup=chosen, groups=groups)


def _sections(config: RunConfig, setup: Setup) -> dict[str, StudentSection]:
    if setup == "explicit":
        if not config.students:
            raise ConfigError("Setup explicit: 'students' is empty; write them out or choose another --setup.")
        return dict(config.students)
    if config.student is None:
        raise ConfigError(f"Setup {setup}: 'student' (the template) is missing; add it, or use --setup explicit.")
    answering = _answering(config)
    if setup in ("one-to-one", "one-to-many"):
        one = _the_one_teacher(config, setup)
        answering = {language: [one] for language in config.teachers[one].languages}
    elif len(config.teachers) < 2:
        raise ConfigError("Setup many-to-one needs two teachers or more; this configuration has one: use one-to-one.")
    routes = {language: _only(config, language, names) for language, names in answering.items()}
    if setup == "one-to-many":
        groups = config.groups or {language: (language,) for language in routes}
        if len(groups) < 2:
            raise ConfigError("Setup one-to-many makes several students, but only one language or group is there.")
        return {name: _section(config.student, languages, routes, name) for name, languages in groups.items()}
    return {"student": _section(config.student, tuple(routes), routes, "student")}


def _section(
    template: StudentTemplate, languages: tuple[str, ...], routes: dict[str, str], name: str
) -> StudentSection:
    for language in languages:
        if language not in routes:
            raise ConfigError(f"Group '{name}': no teacher answers for '{language}'; {nearest(language, list(routes))}")
    return StudentSection(
        **{field: getattr(template, field) for field in StudentTemplate.model_fields},
        languages=languages,
        teachers={language: routes[language] for language in languages},
    )


def _groups(config: RunConfig, sections: dict[str, StudentSection]) -> tuple[GroupSpec, ...]:
    answering = _answering(config)
    specs = {name: _spec(config, name, section, answering) for name, section in sections.items()}
    joined = bool(config.share.parts) or config.share.projections or any(map(_is_anchored, specs.values()))
    members: dict[str, list[StudentSpec]] = defaultdict(list)
    for name, section in sections.items():
        members[section.group or ("together" if joined and len(sections) > 1 else name)].append(specs[name])
    for part in config.share.parts:
        _check_shared(part, members)
    for group, students in members.items():
        _check_progress(config, group, students)
        _check_anchors(config, group, students)
    return tuple(GroupSpec(name=name, students=tuple(students)) for name, students in members.items())


def _spec(config: RunConfig, name: str, section: StudentSection, answering: dict[str, list[str]]) -> StudentSpec:
    routes: dict[str, str] = {}
    for language in section.languages:
        named = section.teachers.get(language)
        if named is not None and named not in config.teachers:
            raise ConfigError(
                f"students.{name}.teachers.{language}: there is no teacher '{named}'; "
                f"{nearest(named, list(config.teachers))}"
            )
        if named is None:
            if language not in answering:
                raise ConfigError(
                    f"students.{name}: no teacher answers for '{language}'; add it to a teacher's languages or "
                    f"route it with students.{name}.teachers.{language}"
                )
            named = _only(config, language, answering[language])
        routes[language] = named
    template = StudentTemplate(**{field: getattr(section, field) for field in StudentTemplate.model_fields})
    _check_start(config, template.initialisation)
    if config.phases and section.objectives is not None:
        raise ConfigError(
            f"students.{name}.objectives: 'phases' says what every student is trained for; leave one of them out."
        )
    return StudentSpec(
        name=name,
        role=section.role,
        template=template,
        languages=section.languages,
        teachers=routes,
        phases=make_phases(
            config.phases,
            config.training,
            objectives=section.objectives if section.objectives is not None else config.objectives,
            student_layers=template.layers,
        ),
        origin=name,
    )


def _twin(group: GroupSpec, config: RunConfig) -> GroupSpec:
    """The same students trained on the same rows and masks without a teacher, from random weights, all of them."""
    masked_lm = (MaskedLMObjective(type="masked-lm"),)
    return GroupSpec(
        name=group.name + BASELINE_SUFFIX,
        students=tuple(
            StudentSpec(
                name=student.name + BASELINE_SUFFIX,
                role="baseline",
                template=student.template.model_copy(
                    update={"initialisation": InitialisationSection(layers="random", embedding="random")}
                ),
                languages=student.languages,
                teachers=student.teachers,
                phases=(whole_training(masked_lm, config.training),),
                origin=student.origin,
            )
            for student in group.students
            if _has_teacher(student)
        ),
    )


def _has_teacher(student: StudentSpec) -> bool:
    return any(map(needs_teacher, student.objectives))


def _is_anchored(student: StudentSpec) -> bool:
    return any(isinstance(objective, AnchorsObjective) for objective in student.objectives)


def _answering(config: RunConfig) -> dict[str, list[str]]:
    answering: dict[str, list[str]] = defaultdict(list)
    for name, teacher in config.teachers.items():
        for language in teacher.languages:
            answering[language].append(name)
    return answering


def _only(config: RunConfig, language: str, names: list[str]) -> str:
    routed = config.routes.get(language)
    if routed in names:
        return routed
    if len(names) > 1:
        raise ConfigError(
            f"Language '{language}' has {len(names)} teachers ({', '.join(names)}), and one must answer for it: "
            f"name it with `routes: {{{language}: {names[0]}}}`, or take '{language}' out of the others' languages."
        )
    return names[0]


def _the_one_teacher(config: RunConfig, setup: Setup) -> str:
    if config.run.teacher is not None:
        return config.run.teacher
    if len(config.teachers) > 1:
        twice = [language for language, names in _answering(config).items() if len(names) > 1]
        for_language = f" (and two answer for '{twice[0]}')" if twice else ""
        raise ConfigError(
            f"Setup {setup} has one teacher, and this configuration has {len(config.teachers)}: "
            f"{', '.join(config.teachers)}{for_language}; choose one with `run.teacher`, or use --setup many-to-one."
        )
    return next(iter(config.teachers))


def _check_languages(config: RunConfig) -> None:
    known = list(config.corpus.languages)
    named = [(f"teachers.{name}.languages", t.languages) for name, t in config.teachers.items()]
    named += [(f"groups.{name}", languages) for name, languages in config.groups.items()]
    named += [(f"students.{name}.languages", s.languages) for name, s in config.students.items()]
    named += [("routes", tuple(config.routes))]
    for where, languages in named:
        for language in languages:
            if language not in known:
                raise ConfigError(f"{where}: the corpus has no language '{language}'; {nearest(language, known)}")


def _check_teachers(config: RunConfig) -> None:
    named = [(f"routes.{language}", name) for language, name in config.routes.items()]
    if config.run.teacher is not None:
        named.append(("run.teacher", config.run.teacher))
    for where, name in named:
        if name not in config.teachers:
            raise ConfigError(f"{where}: there is no teacher '{name}'; {nearest(name, list(config.teachers))}")
    for language, name in config.routes.items():
        if language not in config.teachers[name].languages:
            raise ConfigError(
                f"routes.{language}: '{name}' does not list '{language}' among its languages; add it there."
            )


def _check_shared(part: str, members: dict[str, list[StudentSpec]]) -> None:
    """A part can only be shared by students whose shape of it agrees."""
    for group, students in members.items():
        shapes = {(s.template.architecture, s.template.hidden_size) for s in students}
        if len(shapes) > 1:
            raise ConfigError(
                f"share.parts: '{part}' cannot be shared in group '{group}': its students differ in architecture or "
                "hidden_size; give them the same, or leave it out."
            )
        if part.startswith("layer-"):
            depth = min(s.template.layers for s in students)
            if int(part.removeprefix("layer-")) > depth:
                raise ConfigError(
                    f"share.parts: '{part}' is outside the students of group '{group}', which have {depth} layers."
                )


def _check_progress(config: RunConfig, group: str, students: list[StudentSpec]) -> None:
    """Students that are stepped together are in the same phase, so a phase per layer needs one depth."""
    moving = next((phase.name for phase in config.phases if phase.progress != "none"), None)
    depths = sorted({student.template.layers for student in students})
    if moving is not None and len(depths) > 1:
        raise ConfigError(
            f"phases.{moving}.progress: the students of group '{group}' have {' and '.join(map(str, depths))} layers, "
            "and go from layer to layer together; give them one depth, or groups of their own."
        )


def _check_anchors(config: RunConfig, group: str, students: list[StudentSpec]) -> None:
    """Students are held together that have embeddings of their own, of one width."""
    held = [student for student in students if _is_anchored(student)]
    if not held:
        return
    if "embedding" in config.share.parts:
        raise ConfigError(
            "Objective anchors: with share.parts: [embedding] a token has one row for all students, so that nothing is "
            "to be held together; leave the objective or the shared embedding out."
        )
    if len(held) == 1:
        raise ConfigError(
            f"Objective anchors holds students of one group together, and in group '{group}' only '{held[0].name}' has "
            "it; take setup one-to-many, give it to another student of that group, or leave it out."
        )
    if len({student.template.hidden_size for student in held}) > 1:
        raise ConfigError(
            f"Objective anchors compares the word embeddings of {', '.join(student.name for student in held)}, which "
            "differ in hidden_size; give them the same, or groups of their own."
        )


def _check_start(config: RunConfig, start: InitialisationSection) -> None:
    """Options of where a student starts that exclude each other, and teachers that are not there."""
    if start.teacher is not None and start.teacher not in config.teachers:
        raise ConfigError(
            f"initialisation.teacher: there is no '{start.teacher}'; {nearest(start.teacher, list(config.teachers))}"
        )
    if start.checkpoint is None:
        if start.revision is not None:
            raise ConfigError("initialisation.revision: it belongs to 'checkpoint', which is missing; leave it out.")
        return
    if start.teacher is not None:
        raise ConfigError(
            "initialisation: 'checkpoint' takes the teacher's place; leave 'teacher' or 'checkpoint' out."
        )
    if start.layers == start.embedding == "random":
        raise ConfigError(
            "initialisation.checkpoint: nothing is taken from it; set 'layers: teacher' or 'embedding: teacher'."
        )
