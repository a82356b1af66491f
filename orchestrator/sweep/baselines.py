"""The baselines that make a claim believable, each as the values that it sets in the base configuration.

| name | what it is |
|---|---|
| no-teacher | masked LM on the same rows for as many steps, from random weights |
| no-teacher-time | no-teacher, for as long as the reference was trained (timing.py) |
| same-start | masked LM for as many steps, from the weights that the base starts with |
| random-start | the base's objectives, from random weights |
| untrained | the weights that the base starts with, as they are |
| trimmed-teacher | the whole teacher with the student's vocabulary, untrained: what trimming alone costs |
"""

from __future__ import annotations

from orchestrator.config.loading import Setting
from orchestrator.errors import ConfigError
from orchestrator.models.architectures import ARCHITECTURES
from orchestrator.models.checkpoints import read_config, resolve_folder
from orchestrator.run import Run
from orchestrator.sweep.spec import Baseline

#: Architectures that are another one under a name of their own.
_BUILT_AS = {"camembert": "roberta", "xlm-roberta": "roberta"}
_MASKED_LM: dict[str, object] = {"objectives": [{"type": "masked-lm"}]}
_RANDOM: dict[str, object] = {"student.initialisation": {"layers": "random", "embedding": "random"}}
#: One step that is too short to move anything.
_UNTRAINED: dict[str, object] = {**_MASKED_LM, "training.steps": 1, "training.learning_rate": 1e-12}


def baseline_settings(name: Baseline, base: Run) -> tuple[Setting, ...]:
    """What a baseline sets above `base`; ConfigError when the base has no place for it."""
    if base.expanded.setup == "explicit":
        raise ConfigError(
            f"baselines: {name} changes the template 'student', and setup explicit has none; write the cell out under "
            "'cells', with keys such as students.NAME.initialisation."
        )
    values = {
        "no-teacher": _MASKED_LM | _RANDOM,
        "no-teacher-time": _MASKED_LM | _RANDOM,
        "same-start": _MASKED_LM,
        "random-start": _RANDOM,
        "untrained": _UNTRAINED,
    }.get(name) or _whole_teacher(base) | _UNTRAINED
    return tuple(Setting(key, value, f"baselines: {name}") for key, value in values.items())


def _whole_teacher(base: Run) -> dict[str, object]:
    """A student that is the teacher but for its vocabulary."""
    models = {name: info for name in base.teachers if (info := base.checkpoints[name]) is not None}
    if len(models) != 1:
        raise ConfigError(
            f"baselines: trimmed-teacher copies one teacher, and {len(models)} of this setup's have a model; leave it "
            "out."
        )
    ((name, info),) = models.items()
    section = base.config.teachers[name]
    assert section.model is not None
    config = read_config(resolve_folder(section.model, revision=section.revision, patterns=("config.json",)))
    return {
        "student.architecture": _BUILT_AS.get(info.architecture, info.architecture),
        "student.layers": info.depth,
        "student.hidden_size": info.width,
        "student.heads": info.heads,
        "student.intermediate_size": config.get(ARCHITECTURES[info.architecture].config.intermediate),
        "student.initialisation": {"layers": "teacher", "embedding": "teacher", "teacher": name},
    }
