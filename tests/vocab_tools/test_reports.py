"""Reports say what happened, in JSON, in words and on a page that is safe to open anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.vocab_tools.tiny import SENTENCES, count_ids, make_tokenizer
from vocab_tools import VocabularySource, build_vocabulary, open_vocabulary
from vocab_tools.build import identify
from vocab_tools.read import read_tokenizer
from vocab_tools.report import VocabularyReport, read_report
from vocab_tools.report_html import render
from vocab_tools.report_text import describe_report


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[VocabularyReport, Path, list[VocabularySource]]:
    root = tmp_path_factory.mktemp("report")
    sources = []
    for family in ("wordpiece-cased", "unigram", "byte-bpe"):
        path = make_tokenizer(family, root / family)
        sources.append(VocabularySource(family, path, count_ids(path, SENTENCES), min_count=2))
    return build_vocabulary(sources, root / "out"), root / "out", sources


def test_figures_are_those_of_the_maps(built: tuple[VocabularyReport, Path, list[VocabularySource]]) -> None:
    report, folder, sources = built
    vocabulary = open_vocabulary(folder)
    assert report.size == vocabulary.size
    assert report.embedding_parameters[384] == 384 * vocabulary.size
    supports = {name: vocabulary.support(name) for name in vocabulary.names}
    together = sum(support.astype(int) for support in supports.values())
    for one, source in zip(report.sources, sorted(sources, key=lambda one: one.name), strict=True):
        assert source.counts is not None
        table = vocabulary.map(one.name)
        assert one.kept == (table >= 0).sum()
        assert one.only_here == (supports[one.name] & (together == 1)).sum()
        assert one.counted == source.counts.sum()
        assert one.share_outside == source.counts[table < 0].sum() / one.counted
    assert report.shared == (together[5:] > 1).sum()


def test_all_that_merged_by_form_is_in_a_table(built: tuple[VocabularyReport, Path, list[VocabularySource]]) -> None:
    report, folder, sources = built
    vocabulary = open_vocabulary(folder)
    head, *rows = [line.split("\t") for line in (folder / "merged.tsv").read_text("utf-8").split("\n")[:-1]]
    assert head == ["id", "token", *vocabulary.names]
    assert len(rows) == report.merged_by_form
    tokens = {source.name: read_tokenizer(source.tokenizer).tokens for source in sources}
    for identity, token, *spelled in rows:
        assert vocabulary.tokens[int(identity)] == token
        assert len({one for one in spelled if one}) > 1
        for name, one in zip(vocabulary.names, spelled, strict=True):
            found = vocabulary.map(name) == int(identity)
            assert one == ("" if not found.any() else tokens[name][int(found.argmax())])
    assert {one.token for one in report.examples} <= {row[1] for row in rows}


def test_a_surface_union_reports_both_overlaps(
    built: tuple[VocabularyReport, Path, list[VocabularySource]], tmp_path: Path
) -> None:
    report, _, sources = built
    surface = build_vocabulary(sources, tmp_path / "out", merge="surface", widths=(7, 300))
    assert surface.pairs == report.pairs
    assert surface.merged_by_form == 0
    assert surface.embedding_parameters == {7: 7 * surface.size, 300: 300 * surface.size}


def test_overlaps_are_of_the_whole_vocabularies(built: tuple[VocabularyReport, Path, list[VocabularySource]]) -> None:
    report, _, sources = built
    teachers = {source.name: read_tokenizer(source.tokenizer, name=source.name) for source in sources}
    for pair in report.pairs:
        first, second = teachers[pair.first], teachers[pair.second]
        strings = [
            {t for i, t in enumerate(one.tokens) if t and i not in one.roles.values()} for one in (first, second)
        ]
        meant = [{t for t in identify(one, merge="canonical") if t and t.owner != "role"} for one in (first, second)]
        assert (pair.raw, pair.canonical) == (len(strings[0] & strings[1]), len(meant[0] & meant[1]))
        assert pair.canonical > pair.raw


def test_json_round_trip_and_text(built: tuple[VocabularyReport, Path, list[VocabularySource]]) -> None:
    report, folder, _ = built
    assert json.loads(read_report(folder).to_json()) == json.loads(report.to_json())
    text = describe_report(read_report(folder))
    assert f"{report.size:,} tokens of 3 teachers" in text
    assert all(source.name in text for source in report.sources)


class Page(HTMLParser):
    """Collects tags and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attributes if key in ("src", "href")]


def test_page_is_self_contained_and_made_for_phones(
    built: tuple[VocabularyReport, Path, list[VocabularySource]],
) -> None:
    _, folder, _ = built
    content = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(content)
    assert not page.loads
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1
    assert page.tags.count("rect") == 6
    assert 'name="viewport"' in content


def test_page_escapes_every_text(built: tuple[VocabularyReport, Path, list[VocabularySource]]) -> None:
    report, _, _ = built
    evil = "<img src=x onerror=alert(1)>\"'&"
    source = replace(report.sources[0], name=evil, notes=(evil,))
    pair = replace(report.pairs[0], first=evil)
    other = replace(report.sources[1], name=report.pairs[0].second)
    example = replace(report.examples[0], token=evil, spellings={evil: evil})
    page = Page()
    page.feed(render(replace(report, merge=evil, sources=(source, other), pairs=(pair,), examples=(example,))))
    assert "img" not in page.tags
    assert not page.loads
