"""The only reader of YAML: a file and `--set` overrides become one checked RunConfig, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.base import nearest
from orchestrator.config.run import RunConfig
from orchestrator.errors import ConfigError

_MAX_BYTES = 1 << 20

Tree = dict[str, object]


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor`, whose keys may be overridden
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: the key '{key}' is written "
                    "twice; keep one of the two."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads the language code `no` as False; in this tool only true and false are booleans.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path`, apply `a.b=value` overrides in order, and check the whole.

    Raises:
        ConfigError: the file is missing, is no YAML, or a value is wrong; the text names file, key and remedy.
    """
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, where=str(path))


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file, with anchors resolved and nothing executed."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} is larger than 1 MB: a configuration was expected, is this another file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration at {path}: write one with `orch init`, or name yours with --config FILE."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from None
    return _mapping(text, str(path))


def parse_config(tree: Tree, *, where: str) -> RunConfig:
    """Check a tree of plain values against the models; every problem found is one line of the error."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        # a list whose items are wrong is not also too short
        told = [d for d in found if d["type"] != "too_short" or not any(_is_inside(other, d) for other in found)]
        problems = "\n".join(f"  {_sentence(detail)}" for detail in told)
        raise ConfigError(f"{where} is not a valid configuration:\n{problems}") from None


def _mapping(text: str, where: str) -> Tree:
    try:
        loader = _Loader(text)
        loader.name = where
        tree = loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line} is not YAML: {getattr(error, 'problem', None) or error}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply to be a configuration.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds no sections: `corpus:`, `teachers:` and `objectives:` were expected.")
    return tree


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE with dots in the key, such as training.steps=200.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML; put it in quotes.") from None
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
