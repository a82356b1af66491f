"""The only reader of YAML: a file becomes a tree of plain values, or one sentence says why not."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import TypeAlias

import yaml

from orchestrator.errors import ConfigError

_MAX_BYTES = 1 << 20

Tree: TypeAlias = dict[str, object]


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
    return read_mapping(text, where=str(path))


def read_value(text: str, *, where: str) -> object:
    """One value as YAML reads it, such as the right side of `--set`; ConfigError when it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: the value is not YAML; put it in quotes.") from None


def read_mapping(text: str, *, where: str) -> Tree:
    """The mapping that a text holds; ConfigError names `where` and the line."""
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
