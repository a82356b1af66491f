"""The page: whole without a network, escaped, the same twice, and never broken by what is missing."""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.records import MetricRow
from orchestrator.report.page import render, write_report
from orchestrator.report.reading import read_training

from .samples import CONFIG, full_run, masked_rows, parallel_rows, write_full_run, write_log, write_metrics

VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = '<script>alert("x")</script> & `$x_1$` |'


class Page(HTMLParser):
    """Tags that balance, and every address, id and word of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("href", "src", "xlink:href", "action") and v is not None]
        self.ids += [v for k, v in attributes if k == "id" and v is not None]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "sample"
    root.mkdir()
    write_full_run(root)
    write_report(root, facts={"Teacher pass": "6 min 41 s"})
    return root


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


def show(rows: list[MetricRow], **options: object) -> str:
    page, _ = render("run", rows=rows, logs=options.get("logs", []), config=CONFIG, facts=options.get("facts", {}))  # type: ignore[arg-type]
    return page


def test_nothing_comes_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "script" not in page.tags
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]{1,2})", html)) <= {"#f"}


def test_ids_are_unique_and_their_users_find_them(html: str) -> None:
    ids = Page(html).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'xlink:href="#([^"]+)"', html)) <= set(ids)


def test_every_plot_is_a_figure_with_well_formed_svg(html: str) -> None:
    plots = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert len(plots) == 4 + 1 + 6  # two setups of two dot plots, one of layers, two setups of three objectives
    for plot in plots:
        ET.fromstring(plot.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
        assert "font-family" not in plot
        assert not re.search(r"#[0-9a-f]{6}\b", plot)  # all colours are the page's


def test_the_numbers_of_the_page_are_those_of_the_files(run: Path, html: str) -> None:
    links = re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', html)
    names = [name for name, _ in links]
    assert sorted(names) == sorted(path.name for path in (run / "report" / "data").iterdir())
    assert len(names) == len(set(names)) == 11 + 5 + 1  # plots, heat maps, the headline
    for name, encoded in links:
        data = base64.b64decode(encoded)
        assert data == (run / "report" / "data" / name).read_bytes()
        header, *rows = csv.reader(io.StringIO(data.decode()))
        assert rows
        assert {len(row) for row in rows} == {len(header)}


def test_the_page_says_what_was_measured(html: str) -> None:
    words = " ".join(" ".join(Page(html).words).split())
    assert "5 students of 1 teacher" in words
    assert "6.0 points above the same students without a teacher" in words
    for expected in ("79", "32.2 %", "6 min 41 s", "mean over languages", "root: runs/sample", "one-to-many"):
        assert expected in words


def test_the_same_run_gives_the_same_page(run: Path, html: str) -> None:
    assert write_report(run, facts={"Teacher pass": "6 min 41 s"}).read_text(encoding="utf-8") == html


def test_the_phone_may_scroll_tables_but_not_the_page(html: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert len(re.findall(r"<table", html)) == len(re.findall(r'class="scroll', html))


def test_everything_written_by_others_is_escaped() -> None:
    rows = [
        *masked_rows(NASTY, "teacher", NASTY, 0.4),
        *masked_rows(f"{NASTY}/student", "student", NASTY, 0.3),
        *parallel_rows(NASTY, "student", 0.5, depth=2, languages=(NASTY, "b", "c"), source=NASTY),
    ]
    page, _ = render(NASTY, rows=rows, logs=[], config=NASTY, facts={NASTY: NASTY})
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    Page(page)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        list(masked_rows("big", "teacher", "en", 0.4)),
        list(masked_rows("one-to-one/student", "student", "en", 0.3)),
        [*masked_rows("big", "teacher", "en", 0.4), *masked_rows("one-to-one/student", "student", "en", 0.3)],
        list(parallel_rows("one-to-many", "student", 0.5, depth=4)),
        list(parallel_rows("one-to-many", "student", 0.5, depth=4, languages=("de", "en"))),
        [row for row in full_run() if row.role != "baseline"],
        [row for row in full_run() if row.metric == "cka"],
        [row for row in full_run() if row.layer in (None, 4)],
        list(masked_rows("one-to-one/student", "student", "en", 0.0)),
    ],
)
def test_whatever_is_missing_the_page_is_whole(rows: list[MetricRow]) -> None:
    assert Page(show(rows)).tags[0] == "html"


def test_an_empty_run_says_what_to_do_next(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "run <code>orch evaluate</code>" in html
    Page(html)


def test_curves_can_be_looked_at_before_anything_is_evaluated(tmp_path: Path) -> None:
    write_log(tmp_path, "one-to-many", "de")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert html.count("<svg ") == 3
    assert "5 min" in html  # 1.6 million tokens at about 5 200 a second


def test_a_single_logged_step_is_a_plot(tmp_path: Path) -> None:
    write_log(tmp_path, "one-to-one", "student", steps=10)
    assert show([], logs=read_training(tmp_path)).count("<svg ") == 3


def test_students_beyond_the_palette_still_have_a_colour() -> None:
    rows = [row for number in range(12) for row in parallel_rows(f"s{number}", "student", 0.5, depth=2)]
    assert "var(--series-7)" in show(rows)


def test_rows_of_an_older_measurement_are_replaced(tmp_path: Path) -> None:
    write_metrics(tmp_path, [*masked_rows("a", "student", "en", 0.1), *masked_rows("a", "student", "en", 0.3)])
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "30.0 %" in html
    assert "10.0 %" not in html
