"""A checked configuration as YAML that gives the same run again."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config.setups import ExpandedRun


def as_yaml(run: ExpandedRun, *, defaults: bool = False) -> str:
    """The configuration as it was read, its recipe merged; the students of the setup stand above it as comments.

    `defaults`: also every value that nobody wrote.
    """
    tree = plain_values(run.config) if defaults else run.config.model_dump(mode="json", exclude_defaults=True)
    assert isinstance(tree, dict)
    tree["run"] = {**tree.get("run", {}), "setup": run.setup}
    lines = [
        f"#   {student.name} ({student.role}): "
        + ", ".join(f"{lang} from {name}" for lang, name in student.teachers.items())
        for student in run.students
    ]
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    return "# As read and expanded; students of this setup:\n" + "\n".join(lines) + f"\n\n{text}"


def plain_values(value: object) -> object:
    """Plain values with all defaults, but for the options that a section refuses once they are written out."""
    if isinstance(value, BaseModel):
        written = {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
        names = [name for name in type(value).model_fields if name in written or _accepts(value, written, name)]
        return {name: plain_values(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return value


def _accepts(section: BaseModel, written: Mapping[str, object], name: str) -> bool:
    """An option of another choice, such as `draws` of soft targets by top-k, is refused even with its default."""
    try:
        type(section).model_validate({**written, name: getattr(section, name)})
    except ValidationError:
        return False
    return True
