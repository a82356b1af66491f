"""The page: whole without a network, escaped, the same twice, and never broken by what is missing."""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.records import MetricRow
from orchestrator.report.making import LayerMap, Link, Making, ModelSize, Stage, TeacherPass
from orchestrator.report.page import render, write_report
from orchestrator.report.reading import TrainingLog, read_training

from .samples import (
    CONFIG,
    full_run,
    full_transfer,
    making,
    masked_rows,
    parallel_rows,
    probe_rows,
    transfer_rows,
    write_full_run,
    write_log,
    write_metrics,
)

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
    write_report(root, making=making())
    return root


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


def show(rows: list[MetricRow], logs: Sequence[TrainingLog] = ()) -> str:
    page, _ = render("run", rows=rows, logs=logs, config=CONFIG, making=Making())
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
    # two setups of two dot plots, layers by four metrics, two setups of three objectives, transfer, two stages
    assert len(plots) == 4 + 4 + 6 + 1 + 2
    for plot in plots:
        ET.fromstring(plot.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
        assert "font-family" not in plot
        assert not re.search(r"#[0-9a-f]{6}\b", plot)  # all colours are the page's
        assert re.search(r'^<svg [^>]*role="img"><title>[^<]{20,}</title>', plot)


def test_every_figure_has_a_caption_and_its_numbers(html: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) == 17 + 7 + 3  # plots, heat maps, bars
    for figure in figures:
        assert re.search(r"<figcaption><span>.*[A-Za-z]{3}", figure, re.DOTALL)
        assert figure.count('href="data:text/csv;base64,') == 1


def numbers(html: str, name: str) -> list[dict[str, str]]:
    (encoded,) = re.findall(rf'download="{re.escape(name)}" href="data:text/csv;base64,([^"]+)"', html)
    return list(csv.DictReader(io.StringIO(base64.b64decode(encoded).decode())))


def test_the_files_hold_what_is_drawn(html: str) -> None:
    maps = numbers(html, "retrieval-ntrex-one-to-many.csv")
    expected = next(
        r for r in parallel_rows("", "student", 0.62, depth=4) if (r.metric, r.layer) == ("retrieval_csls", 4)
    )
    assert (maps[0]["query"], maps[0]["searched"], maps[0]["layer"]) == (
        expected.language,
        expected.other_language,
        "4",
    )
    assert float(maps[0]["retrieval_csls"]) == pytest.approx(expected.value)
    curve = numbers(html, "layers-ntrex-cka.csv")
    assert [row["layer"] for row in curve if row["system"] == "one-to-many"] == ["0", "1", "2", "3", "4"]
    swaps = [float(row["head_swap_accuracy"]) for row in numbers(html, "layers-topic-head-swap-accuracy.csv")]
    assert max(swaps) == pytest.approx(0.6)  # own heads would have 0.7
    lines = numbers(html, "layers-multilingual-en-de-1.csv")
    assert {"start", "hidden-states", "attention-probabilities"} == {row["objective"] for row in lines}
    assert {(row["teacher_part"], row["student_part"]) for row in lines} >= {("layer 2", "layer 1"), ("embedding",) * 2}
    assert sum(int(row["bytes"]) for row in numbers(html, "storage-multilingual.csv")) == 10_700


def test_transfer_is_mean_and_spread_with_the_best_of_the_small_models(html: str) -> None:
    rows = {(r["model"], r["mode"], r["target"]): r for r in numbers(html, "transfer-pos-en.csv")}
    others = rows["one-to-many", "sft", "others"]
    assert (float(others["mean"]), others["seeds"], others["trained"]) == (pytest.approx(0.655), "2", "12345")
    assert float(others["spread"]) == pytest.approx(0.01 / 2**0.5)
    section = html[html.index('id="transfer"') : html.index('id="layers"')]
    assert section.count("best") == 5 + 1  # sft of the students in every column, and the word
    assert '<td class="number best">65.5<span class="spread"> ± 0.7</span></td>' in section
    assert "85.5" in section  # the teacher, unmarked


def test_of_a_figure_measured_twice_the_later_counts() -> None:
    old = list(transfer_rows("a", "student", 0.2, seeds=1))
    new = [replace(row, value=row.value + 0.5, cell=f"{row.cell} again") for row in old]
    page, _ = render("run", rows=[], logs=[], config="", making=Making(), transfer=[*old, *new])
    assert ">75.0</td>" in page
    assert "one seed" in page


def test_phases_are_in_the_numbers_of_learning(html: str) -> None:
    rows = numbers(html, "learning-one-to-many-masked-lm.csv")
    assert {row["phase"] for row in rows} == {"up", "out"}
    assert "phases up, out" in html


def test_the_numbers_of_the_page_are_those_of_the_files(run: Path, html: str) -> None:
    links = re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', html)
    names = [name for name, _ in links]
    assert sorted(names) == sorted(path.name for path in (run / "report" / "data").iterdir())
    assert len(names) == len(set(names)) == 17 + 7 + 3 + 5  # plots, heat maps, bars, tables
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
    for expected in ("79", "32.2 %", "5 min 0", "mean over languages", "root: runs/sample", "one-to-many"):
        assert expected in words


def test_the_same_run_gives_the_same_page(run: Path, html: str) -> None:
    assert write_report(run, making=making()).read_text(encoding="utf-8") == html


def test_the_phone_may_scroll_tables_but_not_the_page(html: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert len(re.findall(r"<table", html)) == len(re.findall(r'class="scroll', html))


def test_everything_written_by_others_is_escaped() -> None:
    rows = [
        *masked_rows(NASTY, "teacher", NASTY, 0.4),
        *masked_rows(f"{NASTY}/student", "student", NASTY, 0.3),
        *parallel_rows(NASTY, "student", 0.5, depth=2, languages=(NASTY, "b", "c"), source=NASTY),
    ]
    rows += [
        replace(row, model=NASTY, split=f"probe:{NASTY}", language=NASTY)
        for row in probe_rows("", "student", 1, depth=2)
    ]
    moved = [replace(row, model=NASTY, language=NASTY, task=NASTY, mode=NASTY) for row in full_transfer()]
    stage = Stage((NASTY,), 1, 2, (Link(NASTY, 1, 1),))
    nasty = Making(
        [TeacherPass(NASTY, 1, 1.0, 1, {NASTY: 1})],
        [ModelSize(NASTY, "student", 1, 1, 1, 1)],
        [LayerMap(NASTY, (NASTY,), 2, 1, (), NASTY, (stage, stage))],
    )
    page, _ = render(NASTY, rows=rows, logs=[], config=NASTY, making=nasty, transfer=moved)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 30
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
