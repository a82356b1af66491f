"""A report in words and aligned columns, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vocab_tools.report import VocabularyReport


def describe_report(report: VocabularyReport) -> str:
    """The report as plain text."""
    several = len(report.sources) > 1
    blocks = [f"{report.size:,} tokens of {len(report.sources)} teacher{'s' * several}, {report.merge} form"]
    blocks.append(
        _columns(
            ["teacher", "family", "rows", "kept", "only here", "text outside"],
            (
                [s.name, s.family, f"{s.rows:,}", f"{s.kept:,}", f"{s.only_here:,}", _share(s.share_outside)]
                for s in report.sources
            ),
        )
    )
    notes = [f"note: {source.name}: {note}" for source in report.sources for note in source.notes]
    if notes:
        blocks.append("\n".join(notes))
    if report.pairs:
        rows = ([pair.first, pair.second, f"{pair.raw:,}", f"{pair.canonical:,}"] for pair in report.pairs)
        blocks.append(_columns(["overlap of", "and", "strings", "canonical"], rows))
        blocks.append(f"{report.shared:,} tokens are shared, {report.merged_by_form:,} of them only by canonical form")
    if report.texts:
        blocks.append(
            _columns(
                ["language", "teacher", "texts", "tokens", "outside", "teacher's mass", "merged differs"],
                (
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
                ),
            )
        )
    rows = ([f"{width:,}", f"{count:,}"] for width, count in report.embedding_parameters.items())
    blocks.append(_columns(["width", "parameters of the embedding"], rows))
    return "\n\n".join(blocks)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
