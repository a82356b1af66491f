"""Vocabularies for distillation: unions, trims, id maps, student tokenizers and embedding rows.

    build_vocabulary(sources, out)   one tokenizer trimmed, or several united, into a folder
    open_vocabulary(folder)          that folder again, checked against its hashes
    carry_embeddings(matrices, …)    the teachers' embedding rows in the student's vocabulary and width

It stands alone: numpy and tokenizers are enough for most files; sentencepiece reads `.model`, transformers opens names.
"""

from __future__ import annotations

from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.embeddings import carry_embeddings
from vocab_tools.errors import VocabularyError
from vocab_tools.mapping import Vocabulary, open_vocabulary, translate
from vocab_tools.report import VocabularyReport

__all__ = [
    "Vocabulary",
    "VocabularyError",
    "VocabularyReport",
    "VocabularySource",
    "build_vocabulary",
    "carry_embeddings",
    "open_vocabulary",
    "translate",
]
