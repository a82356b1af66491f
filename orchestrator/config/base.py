"""What every section of the configuration shares: frozen, strict, and helpful about typing errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: A name that becomes a folder: letters, digits, dot, dash, underscore.
Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
#: A language code such as `en` or `zh-Hans`.
Language: TypeAlias = Name
Share: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`, or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(sorted(known))}"


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_right_key(cls, data: object) -> object:
        if isinstance(data, Mapping):
            known = list(cls.model_fields)
            for key in data:
                if key not in known:
                    raise ValueError(f"unknown key '{key}': {nearest(str(key), known)}")
        return data
