"""Whether the embedding rows of one model can start another; no torch, so that configurations are checked quickly."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import ConfigError


def check_row_widths(how: str, *, own: int, widths: Mapping[str, int]) -> None:
    """Whether embedding rows of these widths (whose -> width) can start a student of width `own` as `how` asks.

    Raises:
        ConfigError: `copy` meets another width, or `svd` one that is not larger.
    """
    for whose, width in widths.items():
        if how == "copy" and width != own:
            raise ConfigError(
                f"initialisation.embedding: rows of {width} values of '{whose}' cannot be copied into a student of "
                f"hidden_size {own}; make them equal, or set 'embedding: teacher'"
            )
        if how == "svd" and width <= own:
            raise ConfigError(
                f"initialisation.embedding: svd cuts rows down, but those of '{whose}' have {width} values and the "
                f"student's hidden_size is {own}; set 'embedding: teacher', or make the student narrower"
            )
