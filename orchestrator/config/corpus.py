"""Where text comes from, how it becomes rows, and how rows are masked."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Language, Name, Positive, Section, Share


class TextSource(Section):
    """Files (text, JSON lines, Parquet; globs and lists allowed) or one Hugging Face data set; streamed."""

    files: tuple[str, ...] = ()
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    revision: str | None = None
    column: str = "text"
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    max_texts: Positive | None = None

    @field_validator("files", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("where", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: (str(v),) if not isinstance(v, list | tuple) else tuple(map(str, v)) for key, v in value.items()}

    @model_validator(mode="after")
    def _files_or_dataset(self) -> TextSource:
        if bool(self.files) == (self.dataset is not None):
            raise ValueError("give either 'files' or 'dataset'")
        return self


class LanguageSection(Section):
    """Training text of one language, and held-out text that no student sees (else a share is set aside)."""

    train: TextSource
    held_out: TextSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: object) -> object:
        """`en: text/en.txt` is short for `en: {train: {files: text/en.txt}}`."""
        if isinstance(data, str | list | tuple):
            return {"train": {"files": data}}
        return data


class MaskingSection(Section):
    """BERT's masking (Devlin et al. 2019): of the chosen positions 80 % [MASK], 10 % another token, 10 % kept."""

    probability: float = Field(default=0.15, gt=0.0, lt=1.0)
    whole_word: bool = False
    copies: Positive = 1


class SamplingSection(Section):
    """Language sampling q ∝ n^alpha (n tokens), no language read more than `max_epochs` times."""

    alpha: Share = 0.7
    max_epochs: float = Field(default=100.0, gt=0.0)


class ParallelText(Section):
    """A table whose rows are translations: one column per language (`columns` maps language to column name).

    With `key`, a column that all files have, files are joined on it rather than put one after another: each may then
    lack some of the columns.
    """

    name: Name
    files: tuple[str, ...]
    columns: dict[Language, str]
    key: str | None = None
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    max_pairs: Positive | None = None

    _files = field_validator("files", mode="before")(TextSource._one_file_is_a_list.__func__)  # type: ignore[attr-defined]
    _where = field_validator("where", mode="before")(TextSource._one_value_is_a_list.__func__)  # type: ignore[attr-defined]


class ParallelSource(ParallelText):
    """Translations to measure alignment on; few will do."""

    max_pairs: Positive | None = 500


class CorpusSection(Section):
    """Text of every language, and what makes rows of it; `parallel`: translations, for sentence-vectors."""

    languages: dict[Language, LanguageSection] = Field(min_length=1)
    held_out_share: float = Field(default=0.02, gt=0.0, le=0.5)
    held_out_max_texts: Positive = 2000
    max_length: int = Field(default=128, ge=8)
    packing: bool = True
    masking: MaskingSection = MaskingSection()
    sampling: SamplingSection = SamplingSection()
    parallel: tuple[ParallelText, ...] = ()
