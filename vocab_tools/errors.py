"""The one error that vocab_tools raises on purpose: a sentence that a person can act on."""

from __future__ import annotations


class VocabularyError(Exception):
    """A tokenizer, corpus or vocabulary folder cannot be used as asked; its text says what is wrong and what to do."""
