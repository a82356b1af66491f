"""The numbers behind a plot as a CSV file, on the disk and inside the page."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class DataFile:
    """A small table; `name` becomes the name of its file."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def file_name(self) -> str:
        """Letters, digits, dots and dashes of the name, ending in .csv."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-.") + ".csv"

    def csv(self) -> bytes:
        """The table as CSV in UTF-8; what was not measured is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def link(self) -> str:
        """The table as the address of a link, for a page that has to travel alone."""
        return f"data:text/csv;base64,{base64.b64encode(self.csv()).decode()}"
