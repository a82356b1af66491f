"""The ways to bring a task from a source language's student to a target language's (Bui 2022)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from orchestrator.config.base import nearest
from orchestrator.errors import ConfigError


@dataclass(frozen=True)
class Mode:
    """What is trained and where: in the source's student (src), the target's (trg) or both at once (joint)."""

    name: str
    what: Literal["full", "freeze", "adapter", "bitfit"]
    place: Literal["src", "trg", "joint"]
    top: int = 0  # of freeze: how many layers below the head are trained with it


_NAMED = (
    Mode("full-src", "full", "src"),
    Mode("full-trg", "full", "trg"),
    Mode("adapter-src", "adapter", "src"),
    Mode("adapter-trg", "adapter", "trg"),
    Mode("adapter-joint", "adapter", "joint"),
    Mode("bitfit-src", "bitfit", "src"),
    Mode("bitfit-trg", "bitfit", "trg"),
    Mode("bitfit-joint", "bitfit", "joint"),
    Mode("sft", "full", "src"),
    Mode("distil", "full", "trg"),
)
#: What is done when no mode is named.
DEFAULT_MODES = ("full-src", "full-trg", "freeze+0", "freeze+1", *(mode.name for mode in _NAMED[2:]))


def parse_mode(text: str) -> Mode:
    """A mode by its name, in any case; ConfigError with the nearest right one.

    `freeze+K` has any number K of layers.
    """
    name = text.strip().lower()
    frozen = re.fullmatch(r"freeze\+(\d{1,3})", name)
    if frozen:
        return Mode(f"freeze+{int(frozen[1])}", "freeze", "src", top=int(frozen[1]))
    found = next((mode for mode in _NAMED if mode.name == name), None)
    if found is None:
        known = [*(mode.name for mode in _NAMED), "freeze+K"]
        raise ConfigError(f"--mode {text}: no such mode; {nearest(name, known)}")
    return found
