"""A file, a recipe under it and `--set` overrides become one checked RunConfig, or one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.base import Section, nearest
from orchestrator.config.reading import Tree, read_value, read_yaml
from orchestrator.config.recipes import OBJECTIVES, merged, read_recipe
from orchestrator.config.run import RunConfig
from orchestrator.errors import ConfigError

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Setting:
    """One value that is put above what a file says: a dotted key, and who says so, as messages call it."""

    key: str
    value: object
    origin: str


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path`, put its recipe under it, apply `a.b=value` overrides in order, and check the whole.

    Raises:
        ConfigError: the file is missing, is no YAML, or a value is wrong; the text names file, key and remedy.
    """
    return configure(read_yaml(path), [_setting(override) for override in overrides], where=str(path))


def configure(tree: Tree, settings: Sequence[Setting], *, where: str) -> RunConfig:
    """A tree as it was read, with its recipe under it and `settings` above it in order, checked.

    Raises:
        ConfigError: the text names `where`, key and remedy.
    """
    tree = deepcopy(tree)
    choosing = [setting for setting in settings if setting.key == "recipe"]
    others = [setting for setting in settings if setting.key != "recipe"]
    for setting in choosing:
        _apply(tree, setting)
    name = tree.pop("recipe", None)
    if name is not None:
        recipe = read_recipe(name)
        if choosing:  # who sets it is stronger than the file
            tree = {key: value for key, value in tree.items() if key not in OBJECTIVES}
        tree = merged(tree, recipe.tree, given={setting.key for setting in others})
        where = f"{where} with recipe {recipe.name}"
    for setting in others:
        if setting.key in OBJECTIVES:
            tree = {key: value for key, value in tree.items() if key not in OBJECTIVES}
        _apply(tree, setting)
    return parse_config(tree, where=where)


def parse_config(tree: Tree, *, where: str) -> RunConfig:
    """Check a tree of plain values against the models; every problem found is one line of the error."""
    for key in tree.keys() - RunConfig.model_fields.keys():
        if get_close_matches(key, ["recipe"]):  # which is no field: only a file has it
            raise ConfigError(f"{where}: unknown key '{key}': did you mean 'recipe'?")
    return parse_section(RunConfig, tree, where=where)


def parse_section(kind: type[S], tree: Tree, *, where: str) -> S:
    """Check a tree of plain values against a model; every problem found is one line of the error."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        # a list whose items are wrong is not also too short
        told = [d for d in found if d["type"] != "too_short" or not any(_is_inside(other, d) for other in found)]
        problems = "\n".join(f"  {_sentence(detail)}" for detail in told)
        raise ConfigError(f"{where} is not a valid configuration:\n{problems}") from None


def _setting(override: str) -> Setting:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected KEY=VALUE with dots in the key, such as training.steps=200.")
    return Setting(key, read_value(text, where=f"--set {override}"), f"--set {override}")


def _apply(tree: Tree, setting: Setting) -> None:
    parts = setting.key.split(".")
    at: object = tree
    for part in parts[:-1]:
        at = _child(at, part, setting.origin)
    _assign(at, parts[-1], deepcopy(setting.value), setting.origin)


def _child(at: object, part: str, origin: str) -> object:
    if isinstance(at, list) and part.isdigit() and int(part) < len(at):
        return at[int(part)]
    if isinstance(at, dict):
        if at.get(part) is None:
            at[part] = {}
        return at[part]
    raise ConfigError(f"{origin}: '{part}' is no section of the configuration.")


def _assign(at: object, part: str, value: object, origin: str) -> None:
    if isinstance(at, list) and part.isdigit() and int(part) < len(at):
        at[int(part)] = value
    elif isinstance(at, dict):
        at[part] = value
    else:
        raise ConfigError(f"{origin}: what stands before '.{part}' is a single value; leave '.{part}' out.")


def _is_inside(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    depth = len(outer["loc"])
    return len(inner["loc"]) > depth and inner["loc"][:depth] == outer["loc"]


def _sentence(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "configuration"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "union_tag_invalid":
        context = detail.get("ctx", {})
        known = [tag.strip().strip("'") for tag in str(context.get("expected_tags", "")).split(",")]
        message = f"unknown type '{context.get('tag')}': {nearest(str(context.get('tag')), known)}"
    elif detail["type"] == "union_tag_not_found":
        message = "an objective needs its 'type', such as masked-lm or soft-targets"
    elif detail["type"] == "missing":
        message = "this key is required"
    elif not message.startswith(("unknown key", "give ")) and not isinstance(detail["input"], dict | list):
        message = f"{message}, found {detail['input']!r}"
    return f"{where}: {message.rstrip('.')}{'' if message.endswith('?') else '.'}"
