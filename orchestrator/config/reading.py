"""The only reader of YAML: a file becomes a tree of plain values, or one sentence says why not.

Nothing in it is executed, no alias makes it larger than its limits, and credentials are refused: what is read here is
copied to run folders, reports and model cards.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import TypeAlias

import yaml

from orchestrator.credentials import holds_credentials
from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage import read_bytes

_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000  # with those of an alias counted again; 100 languages take about 1 000
_MAX_DEPTH = 50

Tree: TypeAlias = dict[str, object]


class _Loader(yaml.SafeLoader):
    """Safe YAML within limits that also refuses a key written twice, and credentials."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.name = where
        self.depth = self.num_values = 0
        self._sizes: dict[int, int] = {}  # id of a finished node, which lives as long as the loader -> its values
        self._words: list[tuple[str, yaml.Mark]] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, counted with all that it stands for."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before, self.depth = self.num_values, self.depth + 1
        if self.depth > _MAX_DEPTH:
            raise ConfigError(f"{_place(mark)}: nested too deeply to be a configuration.")
        node = super().compose_node(parent, index)
        assert node is not None
        self.depth -= 1
        if is_alias:
            if id(node) not in self._sizes:
                raise ConfigError(f"{_place(mark)}: an alias stands within what it names; write it out.")
            self.num_values += self._sizes[id(node)]
        else:
            self.num_values += 1
            self._sizes[id(node)] = self.num_values - before
        if self.num_values > _MAX_VALUES:
            raise ConfigError(f"{_place(mark)}: more than {_MAX_VALUES:,} values, too many for a configuration.")
        if isinstance(node, yaml.ScalarNode):
            self._words.append((node.value, mark))
        return node

    def refuse_credentials(self) -> None:
        """ConfigError where a value that was read is, or holds, a credential."""
        if holds_credentials("\n".join(word for word, _ in self._words)):
            for word, mark in self._words:
                if holds_credentials(word):
                    raise ConfigError(
                        f"{_place(mark)} holds a password, a key or a token, which a run would copy to its files; take "
                        "it out, and give it by a variable of the environment (HF_TOKEN, AWS_SECRET_ACCESS_KEY) or the "
                        "provider's own file (~/.aws/credentials)."
                    )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor`, whose keys may be overridden
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{_place(key_node.start_mark)}: a key must be one word, not a list or a section.")
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"{_place(key_node.start_mark)}: the key '{key}' is written twice; keep one of the two."
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
    if not path.exists():
        raise ConfigError(
            f"There is no configuration at {path}: write one with `orch init`, or name yours with --config FILE."
        )
    return read_mapping(read_text(path, what="configuration"), where=str(path))


def read_text(path: Path, *, what: str) -> str:
    """The text of a file of YAML, which is a `what`; ConfigError when it is too large for one or cannot be read."""
    try:
        return read_bytes(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError) as error:
        reason = "there is no such file" if not path.exists() else str(error).rstrip(".")
        raise ConfigError(f"The {what} {path} cannot be read: {reason}.") from None


def read_value(text: str, *, where: str) -> object:
    """One value as YAML reads it, such as the right side of `--set`; ConfigError when it is none."""
    try:
        return _load(text, where)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{where}: the value is not YAML; put it in quotes.") from None


def read_mapping(text: str, *, where: str) -> Tree:
    """The mapping that a text holds; ConfigError names `where` and the line."""
    try:
        tree = _load(text, where)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{where}{line} is not YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds no sections: `corpus:`, `teachers:` and `objectives:` were expected.")
    return tree


def _load(text: str, where: str) -> object:
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        loader.refuse_credentials()
        return None if node is None else loader.construct_document(node)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:  # of a tag that its value does not fit
        raise ValueError(f"a value does not fit its tag ({error})") from error
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply to be a configuration.") from None


def _place(mark: yaml.Mark) -> str:
    return f"{mark.name}, line {mark.line + 1}"
