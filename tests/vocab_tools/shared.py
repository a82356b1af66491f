"""The real tokenizers and texts beside the project, where they are there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocab_tools.canonical import ROLES, role_name

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
LANGUAGES = ("ar", "de", "en", "es", "fi", "fr", "hi", "ru", "sw", "tr", "zh")
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the data beside the project is not here")


def tokenizer_folders() -> list[Path]:
    """The tokenizers and the checkpoints, in the order of their names."""
    if not SHARED.is_dir():
        return []
    folders = [*(SHARED / "data" / "tokenizers").iterdir(), *(SHARED / "models").iterdir()]
    return sorted((folder for folder in folders if folder.is_dir()), key=lambda folder: folder.name)


def texts_of(language: str, count: int | None = None) -> list[str]:
    """All texts of a language, or a sample of them that is always the same."""
    from vocab_tools.corpus import read_texts

    texts = read_texts(SHARED / "data" / "mono" / f"{language}.parquet")
    return texts if count is None or count >= len(texts) else random.Random(language).sample(texts, count)


def made_up_texts(count: int) -> list[str]:
    """Texts of any Unicode that hypothesis makes, always the same.

    Without those that are the name of a special token: hypothesis finds these in the source, and a teacher that lacks
    the role cuts them as text (a limit that docs/vocabularies.md states).
    """
    texts: list[str] = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(st.text(max_size=40))
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    return [text for text in texts if text not in {role_name(role) for role in ROLES}]
