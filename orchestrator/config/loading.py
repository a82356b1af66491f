"""A file, a recipe under it and `--set` overrides become one checked RunConfig, or one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.base import nearest
from orchestrator.config.reading import Tree, read_value, read_yaml
from orchestrator.config.recipes import OBJECTIVES, merged, read_recipe
from orchestrator.config.run import RunConfig
from orchestrator.errors import ConfigError


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path`, put its recipe under it, apply `a.b=value` overrides in order, and check the whole.

    Raises:
        ConfigError: the file is missing, is no YAML, or a value is wrong; the text names file, key and remedy.
    """
    tree = read_yaml(path)
    choosing = [override for override in overrides if override.partition("=")[0] == "recipe"]
    others = [override for override in overrides if override not in choosing]
    for override in choosing:
        _apply(tree, override)
    name = tree.pop("recipe", None)
    where = str(path)
    if name is not None:
        recipe = read_recipe(name)
        if choosing:  # the command line is stronger than the file
            tree = {key: value for key, value in tree.items() if key not in OBJECTIVES}
        given = {override.partition("=")[0] for override in others}
        tree = merged(tree, recipe.tree, given=given)
        where = f"{path} with recipe {recipe.name}"
    for override in others:
        _apply(tree, override)
    return parse_config(tree, where=where)


def parse_config(tree: Tree, *, where: str) -> RunConfig:
    """Check a tree of plain values against the models; every problem found is one line of the error."""
    for key in tree.keys() - RunConfig.model_fields.keys():
        if get_close_matches(key, ["recipe"]):  # which is no field: only a file has it
            raise ConfigError(f"{where}: unknown key '{key}': did you mean 'recipe'?")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        # a list whose items are wrong is not also too short
        told = [d for d in found if d["type"] != "too_short" or not any(_is_inside(other, d) for other in found)]
        problems = "\n".join(f"  {_sentence(detail)}" for detail in told)
        raise ConfigError(f"{where} is not a valid configuration:\n{problems}") from None


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE with dots in the key, such as training.steps=200.")
    value = read_value(text, where=f"--set {override}")
    at: object = tree
    for part in parts[:-1]:
        at = _child(at, part, override)
    _assign(at, parts[-1], value, override)


def _child(at: object, part: str, override: str) -> object:
    if isinstance(at, list) and part.isdigit() and int(part) < len(at):
        return at[int(part)]
    if isinstance(at, dict):
        if at.get(part) is None:
            at[part] = {}
        return at[part]
    raise ConfigError(f"--set {override}: '{part}' is no section of the configuration.")


def _assign(at: object, part: str, value: object, override: str) -> None:
    if isinstance(at, list) and part.isdigit() and int(part) < len(at):
        at[int(part)] = value
    elif isinstance(at, dict):
        at[part] = value
    else:
        raise ConfigError(f"--set {override}: what stands before '.{part}' is a single value; leave '.{part}' out.")


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
