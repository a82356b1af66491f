"""The few figures that a reader wants first, as typed rows, and the Markdown tables made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Literal

from orchestrator.config.run import SETUPS
from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.records import MetricRow

Role = Literal["student", "teacher", "baseline"]

_SETUP_ORDER: dict[str, int] = {name: number for number, name in enumerate(SETUPS)}

#: What stands for the language in a row that is the mean over several.
MEAN = "mean"
ROLES: tuple[Role, ...] = ("teacher", "student", "baseline")
ROLE_WORDS = {"teacher": "teacher", "student": "student", "baseline": "no teacher"}


@dataclass(frozen=True)
class Figures:
    """Held-out masked-LM figures; None where they were not measured."""

    accuracy: float | None = None
    bits_per_character: float | None = None
    agreement: float | None = None
    kl: float | None = None
    kl_shared: float | None = None
    mass_outside: float | None = None
    unknown_share: float | None = None


#: Figure -> (metric of the rows, +1 when more is better and 0 when none is called the best, whether models that read
#: other tokens may be compared by it).
_FIGURES = {
    "accuracy": ("masked_lm_accuracy", 1, False),
    "bits_per_character": ("bits_per_character", -1, True),
    "agreement": ("teacher_agreement", 1, False),
    "kl": ("teacher_kl", -1, False),
    "kl_shared": ("teacher_kl_shared", 0, False),
    "mass_outside": ("teacher_mass_outside", 0, False),
    "unknown_share": ("unknown_share", 0, True),
}


@dataclass(frozen=True)
class HeadlineRow:
    """One model on one language. `tokens` counts the masked tokens: where it agrees, the positions are the same."""

    language: str
    model: str
    role: Role
    tokens: int
    figures: Figures
    best: frozenset[str] = frozenset()  # names of figures in which no other small model of the language is better

    @property
    def name(self) -> str:
        """The model without what its role says already."""
        return short_name(self.model)


@dataclass(frozen=True)
class AlignmentRow:
    """A system's last layer on one parallel source: means over pairs of languages and both directions."""

    model: str
    role: Role
    source: str
    layer: int
    directions: int
    cosine: float
    csls: float
    chance: float
    cka: float | None
    cka_shuffled: float | None

    @property
    def name(self) -> str:
        """The system without what its role says already."""
        return short_name(self.model)


def short_name(model: str) -> str:
    """The name of a model, or of its twin when it is one without a teacher."""
    return model.removesuffix(BASELINE_SUFFIX)


def group_of(model: str) -> str:
    """What a model belongs to: the setup in `setup/student`, else the model itself."""
    return short_name(model.rpartition("/")[0] or model)


def order(role: Role, model: str) -> tuple[int, int, str]:
    """Sorts teachers before students before baselines, and the setups as a person would tell of them."""
    return ROLES.index(role), _SETUP_ORDER.get(group_of(model), len(_SETUP_ORDER)), model


def headline(rows: Iterable[MetricRow], *, split: str = "held_out") -> list[HeadlineRow]:
    """One row per language and model, teachers before students before baselines, best values of small models named.

    Accuracy, agreement and KL are compared among models with the same masked positions; bits per character among all.
    """
    found: dict[tuple[str, str], dict[str, MetricRow]] = defaultdict(dict)
    for row in rows:
        if row.split == split and row.other_language is None and row.layer is None:
            found[row.language, row.model][row.metric] = row
    languages = list(dict.fromkeys(language for language, _ in found))
    made: list[HeadlineRow] = []
    for (language, model), metrics in found.items():
        values = {name: metrics[metric].value for name, (metric, _, _) in _FIGURES.items() if metric in metrics}
        if values:
            first = next(iter(metrics.values()))
            made.append(HeadlineRow(language, model, first.role, first.n, Figures(**values)))
    made.sort(key=lambda row: (languages.index(row.language), order(row.role, row.model)))
    return [replace(row, best=_best(row, made)) for row in made]


def means(rows: Sequence[HeadlineRow]) -> list[HeadlineRow]:
    """The plain mean over languages of every setup and role that has several.

    Where several students of a setup serve a language, their mean counts once, so that rows with the same languages can
    be compared.
    """
    groups: dict[tuple[Role, str], dict[str, list[HeadlineRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.role, group_of(row.model)][row.language].append(row)
    made = [
        HeadlineRow(
            MEAN,
            group,
            role,
            sum(row.tokens for members in languages.values() for row in members),
            _mean([_mean([row.figures for row in members]) for members in languages.values()]),
        )
        for (role, group), languages in sorted(groups.items(), key=lambda item: order(*item[0]))
        if len(languages) > 1
    ]
    return [replace(row, best=_best(row, made)) for row in made]


def alignment(rows: Iterable[MetricRow]) -> list[AlignmentRow]:
    """One row per system and parallel source, teachers first; systems without retrieval figures are left out."""
    found: dict[tuple[str, str], list[MetricRow]] = defaultdict(list)
    for row in rows:
        if row.split.startswith("parallel:"):
            found[row.model, row.split.removeprefix("parallel:")].append(row)
    made: list[AlignmentRow] = []
    for (model, source), measured in found.items():
        layers = [row.layer for row in measured if row.metric == "retrieval_csls" and row.layer is not None]
        if not layers:
            continue
        last = max(layers)
        csls = _values(measured, "retrieval_csls", last)
        cka, shuffled = _values(measured, "cka", last), _values(measured, "cka_shuffled", last)
        made.append(
            AlignmentRow(
                model=model,
                role=measured[0].role,
                source=source,
                layer=last,
                directions=len(csls),
                cosine=fmean(_values(measured, "retrieval_cosine", last)),
                csls=fmean(csls),
                chance=fmean(_values(measured, "retrieval_chance") or [float("nan")]),
                cka=fmean(cka) if cka else None,
                cka_shuffled=fmean(shuffled) if shuffled else None,
            )
        )
    return sorted(made, key=lambda row: (row.source, order(row.role, row.model)))


def markdown_table(rows: Sequence[HeadlineRow]) -> str:
    """The rows as a Markdown table, best values in bold; ends with a newline."""
    head = ["language", "model", "role", "accuracy", "bits/character", "agreement", "KL, nats", "masked tokens"]
    body = [
        [
            row.language,
            row.model,
            ROLE_WORDS[row.role],
            _bold(row, "accuracy", percent(row.figures.accuracy)),
            _bold(row, "bits_per_character", decimal(row.figures.bits_per_character)),
            _bold(row, "agreement", percent(row.figures.agreement)),
            _bold(row, "kl", decimal(row.figures.kl)),
            f"{row.tokens}",
        ]
        for row in rows
    ]
    return _markdown(head, body, text_columns=3)


def alignment_table(rows: Sequence[AlignmentRow]) -> str:
    """Retrieval and CKA as a Markdown table; ends with a newline."""
    head = ["parallel text", "system", "role", "layer", "cosine", "CSLS", "chance", "CKA", "CKA shuffled"]
    body = [
        [
            row.source,
            row.model,
            ROLE_WORDS[row.role],
            f"{row.layer}",
            percent(row.cosine),
            percent(row.csls),
            percent(row.chance),
            decimal(row.cka),
            decimal(row.cka_shuffled),
        ]
        for row in rows
    ]
    return _markdown(head, body, text_columns=3)


def percent(value: float | None) -> str:
    """0.1234 as `12.3 %`, None as a dash."""
    return "–" if value is None else f"{100 * value:z.1f} %".replace("-", "−")


def decimal(value: float | None) -> str:
    """1.2345 as `1.23`, None as a dash."""
    return "–" if value is None else f"{value:z.2f}".replace("-", "−")


def _best(row: HeadlineRow, rows: Sequence[HeadlineRow]) -> frozenset[str]:
    if row.role == "teacher":
        return frozenset()
    names: set[str] = set()
    for name, (_, better, across_tokens) in _FIGURES.items():
        own = getattr(row.figures, name)
        rivals = [
            getattr(other.figures, name)
            for other in rows
            if other.language == row.language
            and other.role != "teacher"
            and (across_tokens or other.tokens == row.tokens)
        ]
        values = [value for value in rivals if value is not None]
        if better and own is not None and len(values) > 1 and own * better == max(value * better for value in values):
            names.add(name)
    return frozenset(names)


def _mean(members: Sequence[Figures]) -> Figures:
    means: dict[str, float] = {}
    for field in fields(Figures):
        values = [value for member in members if (value := getattr(member, field.name)) is not None]
        if values:
            means[field.name] = fmean(values)
    return Figures(**means)


def _values(rows: Iterable[MetricRow], metric: str, layer: int | None = None) -> list[float]:
    return [row.value for row in rows if row.metric == metric and (layer is None or row.layer == layer)]


def _bold(row: HeadlineRow, name: str, text: str) -> str:
    return f"**{text}**" if name in row.best else text


def _markdown(head: list[str], body: list[list[str]], *, text_columns: int) -> str:
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in [head, rule, *body]]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
