"""The page of a sweep: whole without a network, escaped, with the transfer of its cells and every plot as CSV."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.report.comparison import (
    ComparedCell,
    Comparison,
    Difference,
    Figure,
    Measure,
    legend,
    write_comparison,
)

from .samples import full_transfer

NASTY = "<script>x</script>"
ACCURACY = Measure("accuracy", "Accuracy", 1, True, "explained")


def comparison(other: str = "top") -> Comparison:
    reference = ComparedCell("uniform", "cell", "", {"accuracy": Figure(0.3, 0.01, 3, 4)})
    gap = Difference(0.02, 0.01, 0.03, 12)
    cell = ComparedCell(other, "cell", f"map: {other}", {"accuracy": Figure(0.32, 0.01, 3, 4, gap)})
    students = [row for row in full_transfer() if row.role == "student"]
    moved = [replace(row, model=name, task=other) for name in ("uniform", other) for row in students]
    return Comparison("sweep", "uniform", [1, 2, 3], [ACCURACY], [reference, cell], moved)


@pytest.fixture
def html(tmp_path: Path) -> str:
    return write_comparison(comparison(), tmp_path).read_text(encoding="utf-8")


def test_every_link_is_a_file_too(html: str, tmp_path: Path) -> None:
    links = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', html))
    assert links.keys() == {path.name for path in (tmp_path / "data").iterdir()}
    assert links.keys() == {"table.csv", "difference-accuracy.csv", "transfer-top-en.csv"}
    for name, encoded in links.items():
        assert base64.b64decode(encoded) == (tmp_path / "data" / name).read_bytes()
    assert len(re.findall(r"<figure", html)) == len(re.findall(r"<figcaption", html)) == 1


def test_transfer_of_cells_stands_in_their_order(html: str) -> None:
    section = html[html.index("Transfer to other languages") :]
    assert 0 < section.index(">uniform<") < section.index(">top<")


@pytest.mark.parametrize(
    ("seeds", "languages", "warned"), [(1, 1, False), (3, 1, True), (9, 1, True), (10, 1, False), (3, 4, False)]
)
def test_few_seeds_in_one_language_are_warned_of(seeds: int, languages: int, warned: bool) -> None:
    cell = ComparedCell("uniform", "cell", "", {"accuracy": Figure(0.3, 0.01, seeds, languages)})
    words = legend(replace(comparison(), seeds=range(seeds), cells=[cell]))
    assert ("too narrow" in words) == warned


def test_nothing_comes_from_elsewhere_and_all_is_escaped(tmp_path: Path) -> None:
    html = write_comparison(comparison(NASTY), tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert all(link.startswith(("data:", "#")) for link in re.findall(r'(?:href|src)="([^"]*)"', html))
