"""Layer maps as drawings: parts of the teacher on the left, of the student on the right, lines where they meet."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterator, Sequence

from orchestrator.report.data import DataFile
from orchestrator.report.drawing import with_title
from orchestrator.report.looks import LegendEntry, Panel, PanelRow, series
from orchestrator.report.making import EMBEDDING, HEAD, LayerMap, Link, Stage

_WIDTH, _BOX_WIDTH, _LEFT, _RIGHT, _TOP = 360, 100, 2, 226, 26
_PITCH, _LEAST_PITCH, _MOST_HEIGHT = 25.0, 13.0, 480.0
_GAP = 4.5  # between lines of the same two parts
_START = LegendEntry("starts as a copy", "muted", "dashed")


def layer_diagrams(maps: Sequence[LayerMap]) -> list[PanelRow]:
    """A row for each teacher and the students that learn alike from it, a drawing for each stage of their training."""
    colours: dict[str, str] = {}
    for link in (link for one in maps for stage in one.stages for link in stage.links):
        colours.setdefault(link.objective, series(len(colours)))
    return [
        PanelRow(
            f"{one.teacher} → {', '.join(one.students)}",
            tuple(_legend(one, colours)),
            tuple(_panel(one, number, colours) for number in range(len(one.stages))),
        )
        for one in maps
    ]


def _legend(one: LayerMap, colours: dict[str, str]) -> Iterator[LegendEntry]:
    for name in dict.fromkeys(link.objective for stage in one.stages for link in stage.links):
        yield LegendEntry(name, colours[name], "solid")
    if one.starts:
        yield _START


def _panel(one: LayerMap, number: int, colours: dict[str, str]) -> Panel:
    stage = one.stages[number]
    starts = one.starts if number == 0 else ()
    steps = f"{stage.first_step:,} to {stage.last_step:,}"
    title = f"Steps {steps}" if len(one.stages) == 1 else f"{', '.join(stage.phases)}: steps {steps}"
    words = (f"{link.objective}: {_word(link.teacher)} to {_word(link.student)}" for link in (*starts, *stage.links))
    svg = with_title(_drawing(one, stage, starts, colours), f"Teacher's part to student's part. {'; '.join(words)}.")
    students = " ".join(one.students)
    rows = [(stage.first_step, stage.last_step, link.objective, *_words(one, link)) for link in (*starts, *stage.links)]
    header = ("first_step", "last_step", "objective", "teacher", "teacher_part", "students", "student_part")
    data = DataFile(f"layers {one.teacher} {students} {number + 1}", header, rows)
    return Panel(title, svg, data, note=one.start_words if number == 0 else "")


def _words(one: LayerMap, link: Link) -> tuple[str, str, str, str]:
    return one.teacher, _word(link.teacher), " ".join(one.students), _word(link.student)


def _word(part: int | None) -> str:
    match part:
        case None:
            return "text"
        case _:
            return {EMBEDDING: "embedding", HEAD: "head"}.get(part, f"layer {part}")


def _drawing(one: LayerMap, stage: Stage, starts: Sequence[Link], colours: dict[str, str]) -> str:
    depth = max(one.teacher_layers, one.student_layers)
    pitch = max(_LEAST_PITCH, min(_PITCH, _MOST_HEIGHT / (depth + 2)))
    height = _TOP + pitch * (depth + 2)
    left = _heights(one.teacher_layers, depth, pitch)
    right = _heights(one.student_layers, depth, pitch)
    ends: dict[tuple[int | None, int], list[LegendEntry]] = defaultdict(list)
    for link in starts:
        ends[link.teacher, link.student].append(_START)
    for link in stage.links:
        ends[link.teacher, link.student].append(LegendEntry(link.objective, colours[link.objective], "solid"))
    parts = []
    for (teacher, student), looks in ends.items():
        gap = min(_GAP, (pitch - 7) / len(looks))
        for number, look in enumerate(looks):
            shift = gap * (number - (len(looks) - 1) / 2)
            parts.append(_line(None if teacher is None else left[teacher] + shift, right[student] + shift, look))
    if any(link.teacher is None for link in stage.links):
        parts.append(_text(_WIDTH, right[HEAD] - pitch / 2 - 4, "text", "muted", anchor="end"))
    parts += _column(_LEFT, "teacher", left, pitch, frozenset())
    parts += _column(_RIGHT, "student", right, pitch, stage.frozen)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _heights(layers: int, depth: int, pitch: float) -> dict[int, float]:
    """Part -> where its middle is; a shallow student's layers are spread as high as those that a uniform map names."""
    levels = {EMBEDDING: 0.0, **{layer: layer * depth / layers for layer in range(1, layers + 1)}, HEAD: depth + 1.0}
    return {part: _TOP + pitch * (depth + 1.5 - level) for part, level in levels.items()}


def _line(left: float | None, right: float, look: LegendEntry) -> str:
    """From the teacher's box to the student's, or, without a teacher, from the right into the student's."""
    begin, end, middle = _LEFT + _BOX_WIDTH, _RIGHT, (_LEFT + _BOX_WIDTH + _RIGHT) / 2
    path = (
        f"M{_WIDTH} {right:.1f}H{_RIGHT + _BOX_WIDTH}"
        if left is None
        else f"M{begin} {left:.1f}C{middle} {left:.1f} {middle} {right:.1f} {end} {right:.1f}"
    )
    dashes = ' stroke-dasharray="4 3"' if look.style == "dashed" else ""
    return f'<path d="{path}" fill="none" stroke="var(--{look.colour})" stroke-width="2"{dashes}/>'


def _column(x: float, title: str, heights: dict[int, float], pitch: float, frozen: frozenset[int]) -> Iterator[str]:
    yield _text(x + _BOX_WIDTH / 2, 12, title, title, weight=650)
    for part, middle in heights.items():
        is_frozen = part in frozen
        look = 'fill="var(--ground)" stroke-dasharray="3 2.5"' if is_frozen else 'fill="var(--paper)"'
        yield (
            f'<rect x="{x}" y="{middle - pitch / 2 + 2:.1f}" width="{_BOX_WIDTH}" height="{pitch - 4:.1f}" rx="4" '
            f'stroke="var(--{title})" stroke-opacity=".6" {look}/>'
        )
        words = f"{_word(part)}, frozen" if is_frozen else _word(part)
        yield _text(
            x + _BOX_WIDTH / 2, middle + 3.5, words, "muted" if is_frozen else "ink", size=min(11.0, pitch - 3.5)
        )


def _text(
    x: float, y: float, words: str, colour: str, *, size: float = 11.0, weight: int = 400, anchor: str = "middle"
) -> str:
    look = f'font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}" fill="var(--{colour})"'
    return f'<text x="{x:g}" y="{y:.1f}" {look}>{html.escape(words)}</text>'
