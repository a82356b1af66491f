"""report.html: one self-contained page with the tables of a report and the overlaps as an inline SVG heat plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from vocab_tools.report import VocabularyReport

_WORDS = {"family", "second", "spelled", "teacher"}
_STYLE = """
:root{color-scheme:light dark;--ink:#1a1d21;--paper:#fff;--line:#d5d9de;--soft:#5c6570}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaee;--paper:#14171a;--line:#363c43;--soft:#9aa4af}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
 margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}p{max-width:42rem}.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child,.text{text-align:left}td.text{white-space:normal}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
"""
_SOME = "<p>Some of them; all are in <code>merged.tsv</code>.</p>"


def render(report: VocabularyReport) -> str:
    """The page; every text that comes from outside is escaped."""
    shared = (
        f"<p>{report.shared:,} tokens belong to two teachers or more; {report.merged_by_form:,} of them are spelled"
        " differently and met in their canonical form.</p>"
        if len(report.sources) > 1
        else ""
    )
    parts = [
        f"<h1>Vocabulary of {report.size:,} tokens</h1>",
        f"<p class=soft>{len(report.sources)} teacher{'s' * (len(report.sources) > 1)}, merged by"
        f" {escape(report.merge)} form.</p>{shared}",
        _section("Teachers", _sources(report)),
    ]
    if report.pairs:
        parts.append(_section("Overlap", _legend() + _heat(report)))
        rows = [[pair.first, pair.second, f"{pair.raw:,}", f"{pair.canonical:,}"] for pair in report.pairs]
        parts.append(_table(["first", "second", "same string", "same canonical token"], rows))
    if report.examples:
        rows = [
            [one.token, ", ".join(f"{name}: {token}" for name, token in one.spellings.items())]
            for one in report.examples
        ]
        parts.append(_section("Merged by canonical form", _SOME + _table(["token", "spelled"], rows)))
    if report.texts:
        parts.append(_section("On real text", _texts(report)))
    rows = [[f"{width:,}", f"{count:,}"] for width, count in report.embedding_parameters.items()]
    parts.append(_section("Parameters of the embedding", _table(["width", "parameters"], rows)))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Vocabulary report</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns named in _WORDS hold words and begin at the left, columns without a cell are left out."""
    lines = list(rows)
    shown = [place for place, _ in enumerate(head) if any(row[place] for row in lines)]
    kinds = {place: " class=text" * (head[place] in _WORDS) for place in shown}
    top = "".join(f"<th{kinds[place]}>{escape(head[place])}</th>" for place in shown)
    cells = ("".join(f"<td{kinds[place]}>{escape(row[place])}</td>" for place in shown) for row in lines)
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3f} %"


def _sources(report: VocabularyReport) -> str:
    rows = [
        [
            s.name,
            s.family,
            f"{s.rows:,}",
            f"{s.kept:,}",
            f"{s.only_here:,}",
            f"{s.counted:,}" if s.counted else "",
            _share(s.share_outside),
        ]
        for s in report.sources
    ]
    head = ["teacher", "family", "rows", "kept", "only here", "tokens of its corpus", "of these outside"]
    notes = "".join(f"<li>{escape(s.name)}: {escape(note)}</li>" for s in report.sources for note in s.notes)
    return _table(head, rows) + (f"<ul>{notes}</ul>" if notes else "")


def _texts(report: VocabularyReport) -> str:
    rows = [
        [
            t.language,
            t.teacher,
            f"{t.texts:,}",
            f"{t.tokens:,}",
            _share(t.outside_text),
            _share(t.outside_teacher),
            _share(t.merged_disagreement),
        ]
        for t in report.texts
    ]
    head = [
        "language",
        "teacher",
        "texts",
        "tokens",
        "tokens outside",
        "teacher's mass outside",
        "merged tokenizer differs",
    ]
    return _table(head, rows)


def _legend() -> str:
    return (
        "<p>Share of the smaller of two vocabularies that the other has too: as strings above the diagonal, as"
        " canonical tokens below it.</p>"
    )


def _heat(report: VocabularyReport) -> str:
    names = [source.name for source in report.sources]
    sizes = {source.name: source.tokens for source in report.sources}
    cell, left = 46, 8 + 7 * max(len(name) for name in names)
    top = 14 + 5 * max(len(name) for name in names)
    side = cell * len(names)
    marks: list[str] = []
    for place, name in enumerate(names):
        middle = place * cell + cell / 2
        marks.append(f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end">{escape(name)}</text>')
        marks.append(f'<text transform="translate({left + middle + 4},{top - 6}) rotate(-45)">{escape(name)}</text>')
    for pair in report.pairs:
        i, j = names.index(pair.first), names.index(pair.second)
        smaller = max(1, min(sizes[pair.first], sizes[pair.second]))
        for row, column, count, kind in (
            (i, j, pair.raw, "same string"),
            (j, i, pair.canonical, "same canonical token"),
        ):
            share = count / smaller
            x, y = left + column * cell, top + row * cell
            label = escape(f"{pair.first} and {pair.second}: {count:,} {kind}")
            marks.append(
                f'<g><title>{label}</title><rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" rx="3"'
                f' fill="#2f7ed8" fill-opacity="{0.06 + 0.94 * share:.3f}"/>'
                f'<text x="{x + cell / 2 - 1}" y="{y + cell / 2 + 4}" text-anchor="middle">{100 * share:.0f}</text></g>'
            )
    width, height = left + side + top, top + side
    return (
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="Overlap of each pair of vocabularies, in percent">{"".join(marks)}</svg></div>'
    )
