"""The model card of one student: what it is, whom it learnt from, on what, how, and how well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from orchestrator.config.corpus import TextSource
from orchestrator.config.models import InitialisationSection, TeacherSection
from orchestrator.config.objectives import RampSection, Weight, WindowSection, needs_teacher
from orchestrator.config.phases import PhaseSpec
from orchestrator.config.run import RunConfig
from orchestrator.config.setups import BASELINE_SUFFIX, StudentSpec
from orchestrator.config.writing import plain_values
from orchestrator.records import MetricRow
from orchestrator.report.headline import alignment, alignment_table, headline, markdown_table
from orchestrator.report.reading import TrainingLog

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")

_USE = """\
```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForMaskedLM.from_pretrained(folder)
```
"""

_MEASURED = """\
Held-out text under fixed masks; all models of a language meet the same positions when they read the same tokens.
Agreement and KL compare the student with its teacher at those positions. The best of the small models is in bold.
"""


def model_card(
    student: StudentSpec,
    *,
    setup: str,
    config: RunConfig,
    rows: Sequence[MetricRow],
    log: TrainingLog | None = None,
    parameters: int | None = None,
) -> str:
    """The README.md of an exported student, with the YAML head that the Hugging Face hub reads.

    Args:
        student: the student, as its setup expands it.
        setup: the setup's name; the student's figures are those of the model `<setup>/<student>`.
        config: the whole run.
        rows: all metric rows; those of the student, its teachers and its no-teacher twin are shown.
        log: the student's training, for the tokens read and the time.
        parameters: number of the student's parameters.
    """
    sections = [
        _head(student, config),
        f"# {student.name}\n",
        _summary(student, parameters),
        _USE,
        "## Teachers\n",
        *_teachers(student, config),
        "## Recipe\n",
        "".join(_recipe(student)),
        "## Data\n",
        "".join(_data(student, config)),
        "## Training\n",
        "".join(_training(config, log)),
        "## Figures\n",
        *_figures(student, setup, rows),
        "## Licence\n",
        "The terms of the teachers' weights and of the training text apply; see their own cards.\n",
    ]
    return "\n".join(sections)


def _head(student: StudentSpec, config: RunConfig) -> str:
    learnt = _learns_from_teacher(student)
    hub = [config.teachers[name].model for name in _names(student)] if learnt else []
    found = [name for name in hub if name is not None and _is_on_hub(name)]
    head: dict[str, object] = {
        "language": list(student.languages),
        "license": "other",
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["knowledge-distillation", student.template.architecture]
        if learnt
        else [student.template.architecture],
    }
    if found:
        head["base_model"] = found
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _summary(student: StudentSpec, parameters: int | None) -> str:
    shape = student.template
    size = f" and {parameters / 1e6:.1f} million parameters" if parameters is not None else ""
    made = (
        f"distilled from {_listed([_code(name) for name in _names(student)])}"
        if _learns_from_teacher(student)
        else "trained by masked-language modelling alone"
    )
    return (
        f"A masked-language model of type {shape.architecture} with {shape.layers} layers of width {shape.hidden_size}"
        f"{size} for {_listed(list(student.languages))}, {made} with orch.\n"
    )


def _teachers(student: StudentSpec, config: RunConfig) -> Iterator[str]:
    if not _learns_from_teacher(student):
        yield "None: the teachers below gave their tokenizers and the text's masks, not what they know.\n"
    lines = ["| teacher | answers for | weights | revision |\n", "| --- | --- | --- | --- |\n"]
    for name in _names(student):
        languages = [language for language in student.languages if student.teachers.get(language) == name]
        teacher = config.teachers[name]
        lines.append(f"| {name} | {', '.join(languages)} | {_weights(teacher)} | {_revision(teacher)} |\n")
    yield "".join(lines)


def _recipe(student: StudentSpec) -> Iterator[str]:
    for phase in student.phases:
        indent = ""
        if len(student.phases) > 1:
            yield f"- phase {phase.name}, {_of_phase(phase)}:\n"
            indent = "  "
        elif phase.freeze:
            yield f"- {_of_phase(phase)}\n"
        for objective in phase.objectives:
            options = plain_values(objective)
            assert isinstance(options, dict)
            words = ", ".join(
                f"{key.replace('_', ' ')} {value}" for key, value in options.items() if key not in ("type", "weight")
            )
            yield f"{indent}- {objective.type}, weight {_weight(objective.weight)}{f' ({words})' if words else ''}\n"
    yield f"- {_start(student.template.initialisation)}\n"
    vocabulary = student.template.vocabulary
    kept = "the teachers' whole vocabularies" if vocabulary.keep == "full" else "trimmed to what the training text uses"
    yield f"- vocabulary: {kept}\n"


def _start(section: InitialisationSection) -> str:
    whose = "the teacher" if section.checkpoint is None else _model_name(section.checkpoint)
    layers = f"layers from {whose} ({section.map} map)" if section.layers == "teacher" else "random layers"
    how = "" if section.embedding == "teacher" else f" ({section.embedding})"
    embedding = "random" if section.embedding == "random" else f"from {whose}{how}"
    return f"starts with {layers}, embedding {embedding}"


def _of_phase(phase: PhaseSpec) -> str:
    """Its steps, what is frozen, which layers are matched, and the peak of its own learning rate."""
    words = [f"steps {phase.first_step:,} to {phase.last_step:,}"]
    if phase.layers is not None:
        words.append(f"matching layer{'s' * (len(phase.layers) > 1)} {_listed(list(map(str, phase.layers)))}")
    if phase.freeze:
        words.append(f"{_listed(list(phase.freeze))} frozen")
    if phase.learning_rate is not None:
        words.append(f"peak learning rate {phase.learning_rate:g}")
    return ", ".join(words)


def _weight(weight: Weight) -> str:
    """A number, or how it goes in the steps of the phase."""
    match weight:
        case RampSection():
            steps = f"steps {weight.first_step} to {weight.last_step or 'the last'}"
            return f"{weight.start:g} to {weight.end:g}, {weight.schedule}, over {steps}"
        case WindowSection():
            return f"{weight.value:g} at steps {weight.first_step} to {weight.last_step or 'the last'}"
        case _:
            return f"{weight:g}"


def _data(student: StudentSpec, config: RunConfig) -> Iterator[str]:
    corpus = config.corpus
    for language in student.languages:
        yield f"- {language}: {_source(corpus.languages[language].train)}\n"
    masking = corpus.masking
    unit = "whole words" if masking.whole_word else "tokens"
    packed = ", packed" if corpus.packing else ""
    copies = "1 copy" if masking.copies == 1 else f"{masking.copies} copies"
    yield f"\nRows of at most {corpus.max_length} tokens{packed}; "
    yield f"{masking.probability:.0%} of the {unit} masked, in {copies}.\n"


def _training(config: RunConfig, log: TrainingLog | None) -> Iterator[str]:
    training = config.training
    yield (
        f"- {training.steps:,} steps of {training.accumulation} × {training.tokens_per_batch:,} tokens, "
        f"AdamW, peak learning rate {training.learning_rate:g}, {training.decay} decay, "
        f"weight decay {training.weight_decay:g}, seed {config.run.seed}\n"
    )
    if log is not None:
        yield f"- {int(log.tokens[-1]):,} tokens read in {log.seconds / 60:,.1f} minutes\n"


def _figures(student: StudentSpec, setup: str, rows: Sequence[MetricRow]) -> Iterator[str]:
    own = f"{setup}/{student.name}"
    shown = {name for it in (own, setup) for name in (it, it + BASELINE_SUFFIX, it.removesuffix(BASELINE_SUFFIX))}
    head = [
        row
        for row in headline(rows)
        if row.language in student.languages
        and (row.model in shown or (row.role == "teacher" and row.model == student.teachers.get(row.language)))
    ]
    if not head:
        yield "Not measured yet.\n"
        return
    yield _MEASURED
    yield markdown_table(head)
    teachers = set(student.teachers.values())
    aligned = [row for row in alignment(rows) if row.model in (teachers if row.role == "teacher" else shown)]
    if any(row.role != "teacher" for row in aligned):
        yield "Retrieval of translations by mean vectors of the last layer, each language by its own student:\n"
        yield alignment_table(aligned)


def _names(student: StudentSpec) -> list[str]:
    return list(dict.fromkeys(student.teachers[language] for language in student.languages))


def _learns_from_teacher(student: StudentSpec) -> bool:
    return any(map(needs_teacher, student.objectives))


def _is_on_hub(model: str) -> bool:
    return _HUB_NAME.fullmatch(model) is not None and not Path(model).exists()


def _model_name(model: str) -> str:
    """What a reader elsewhere can find: a name on the hub, or the last name of a folder of the maker's machine."""
    return _code(model if _is_on_hub(model) else Path(model).name)


def _weights(teacher: TeacherSection) -> str:
    shown = _model_name(teacher.model or teacher.tokenizer_path)
    return shown if teacher.model is not None else f"{shown} (tokenizer only)"


def _revision(teacher: TeacherSection) -> str:
    return _word(teacher.revision) if teacher.revision else "–"


def _source(source: TextSource) -> str:
    if source.dataset is not None:
        config = f", {_word(source.dataset_config)}" if source.dataset_config is not None else ""
        return f"data set {_code(source.dataset)}{config}, split {_word(source.dataset_split)}"
    return ", ".join(_code(Path(file).name) for file in source.files)


def _code(text: str) -> str:
    """Text from outside as code, in which nothing is markup; line breaks would end it, and a bar a cell."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def _word(text: str) -> str:
    """An ordinary word as it is, anything else as code."""
    return text if re.fullmatch(r"[\w.+-]+", text) else _code(text)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
