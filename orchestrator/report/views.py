"""What became of masked words: verdicts on the students of a setup, and plots of their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Dot, dot_plot
from orchestrator.report.headline import AlignmentRow, Figures, HeadlineRow, group_of
from orchestrator.report.looks import SHAPES, Panel, PanelRow, mean, role_legend


@dataclass(frozen=True)
class Verdict:
    """What became of the students of one setup, in a few figures; None where there is nothing to compare with."""

    group: str
    num_students: int
    languages: tuple[str, ...]
    accuracy: float
    kept: float | None  # share of the teacher's accuracy
    gain: float | None  # accuracy above the same students without a teacher
    agreement: float | None
    csls: float | None
    teacher_csls: float | None
    chance: float | None

    @property
    def baseline_kept(self) -> float | None:
        """Share of the teacher's accuracy that the students without a teacher reach."""
        if self.kept is None or self.gain is None or self.accuracy == 0:
            return None
        return self.kept * (self.accuracy - self.gain) / self.accuracy


def verdicts(rows: Sequence[HeadlineRow], alignments: Sequence[AlignmentRow]) -> list[Verdict]:
    """One per setup that has students; teachers and baselines are those that met the same masked positions."""
    groups: dict[str, list[HeadlineRow]] = defaultdict(list)
    for row in rows:
        if row.role == "student" and row.figures.accuracy is not None:
            groups[group_of(row.model)].append(row)
    made = []
    for group, students in groups.items():
        own = [a for a in alignments if a.role == "student" and group_of(a.model) == group]
        teachers = [a for a in alignments if a.role == "teacher" and a.source in {o.source for o in own}]
        made.append(
            Verdict(
                group=group,
                num_students=len({row.model for row in students}),
                languages=tuple(dict.fromkeys(row.language for row in students)),
                accuracy=fmean(_accuracy(row) for row in students),
                kept=_against(students, [row for row in rows if row.role == "teacher"], ratio=True),
                gain=_against(
                    students, [r for r in rows if r.role == "baseline" and group_of(r.model) == group], ratio=False
                ),
                agreement=mean([row.figures.agreement for row in students]),
                csls=mean([a.csls for a in own]),
                teacher_csls=mean([a.csls for a in teachers]),
                chance=mean([a.chance for a in own]),
            )
        )
    return made


def accuracy_panels(rows: Sequence[HeadlineRow]) -> PanelRow | None:
    """A dot plot of accuracy and one of bits per character per setup; None without students and baselines."""
    panels = []
    groups = list(dict.fromkeys(group_of(row.model) for row in rows if row.role != "teacher"))
    for group in groups:
        for name, words in (
            ("accuracy", "masked words found"),
            ("bits_per_character", "bits per character, less is better"),
        ):
            shown = [row for row in _with_teachers(rows, group) if getattr(row.figures, name) is not None]
            if not shown:
                continue
            languages = list(dict.fromkeys(row.language for row in shown))
            dots = [
                Dot(languages.index(row.language), getattr(row.figures, name), row.role, SHAPES[row.role])
                for row in shown
            ]
            data = DataFile(
                f"{name} {group}",
                ["language", "model", "role", name],
                [[row.language, row.model, row.role, getattr(row.figures, name)] for row in shown],
            )
            told = (f"{row.language}, {row.model}: {getattr(row.figures, name):.3g}" for row in shown)
            svg = dot_plot(languages, dots, alt=f"{words}. {'; '.join(told)}.", x_percent=name == "accuracy")
            panels.append(Panel(f"{group}: {words}", svg, data))
    return PanelRow("", role_legend(row.role for row in rows), tuple(panels)) if panels else None


def headline_data(rows: Sequence[HeadlineRow]) -> DataFile:
    """The headline table as a file."""
    names = [field.name for field in fields(Figures)]
    return DataFile(
        "headline",
        ["language", "model", "role", *names, "masked_tokens"],
        [[row.language, row.model, row.role, *(getattr(row.figures, n) for n in names), row.tokens] for row in rows],
    )


def alignment_data(rows: Sequence[AlignmentRow]) -> DataFile:
    """The table of last layers as a file."""
    names = [field.name for field in fields(AlignmentRow)]
    return DataFile("alignment", names, [[getattr(row, name) for name in names] for row in rows])


def _accuracy(row: HeadlineRow) -> float:
    assert row.figures.accuracy is not None
    return row.figures.accuracy


def _against(students: Sequence[HeadlineRow], others: Sequence[HeadlineRow], *, ratio: bool) -> float | None:
    """Mean accuracy of the students over, or minus, that of others at the same masked positions, if any."""
    accuracy = {(o.language, o.tokens): o.figures.accuracy for o in reversed(others) if o.figures.accuracy is not None}
    pairs = [(_accuracy(s), accuracy[s.language, s.tokens]) for s in students if (s.language, s.tokens) in accuracy]
    if not pairs:
        return None
    own, other = fmean(a for a, _ in pairs), fmean(b for _, b in pairs)
    if not ratio:
        return own - other
    return own / other if other > 0 else None


def _with_teachers(rows: Sequence[HeadlineRow], group: str) -> list[HeadlineRow]:
    own = [row for row in rows if row.role != "teacher" and group_of(row.model) == group]
    met = {(row.language, row.tokens) for row in own}
    return [row for row in rows if row in own or (row.role == "teacher" and (row.language, row.tokens) in met)]
