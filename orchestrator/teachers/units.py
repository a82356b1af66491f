"""Cut a teacher's work into units: slices of each language's training texts, one shard each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import ceil

from orchestrator.config.models import TeacherSection
from orchestrator.corpus.store import Corpus
from orchestrator.records import Unit

#: Small corpora still make this many units where they can, so that there is progress to see and work to share.
_MIN_UNITS = 8
#: A unit fills at least this many batches; with fewer, rows of one length are too rare to fill any.
_MIN_BATCHES = 4


def plan_units(
    corpus: Corpus,
    teacher: str,
    section: TeacherSection,
    *,
    tokens_per_character: Mapping[str, float],
    bytes_per_token: float,
    shard_bytes: int,
    copies: int,
) -> list[Unit]:
    """Units over all languages of a teacher, numbered from 0: the same arguments give the same units.

    Slices of a language are equally long (in texts, up to one), shards at most about `shard_bytes` large.

    Args:
        corpus: the texts.
        teacher: its name in the run.
        section: its languages and its batch size.
        tokens_per_character: of each language in this teacher's tokenizer, special tokens included or not.
        bytes_per_token: of all tables of the store together.
        shard_bytes: how large a shard may be.
        copies: masked copies of each text; all copies of a text are in one shard.
    """
    sizes = {language: corpus.info(language, "train") for language in section.languages}
    tokens = {
        language: size.num_characters * tokens_per_character[language] * copies for language, size in sizes.items()
    }
    by_size = {language: ceil(n * bytes_per_token / shard_bytes) for language, n in tokens.items()}
    total = sum(tokens.values())
    units: list[Unit] = []
    for language, size in sizes.items():
        share = ceil(_MIN_UNITS * tokens[language] / total) if total else 0
        most = int(tokens[language] // (_MIN_BATCHES * section.tokens_per_batch))
        count = min(max(by_size[language], min(share, most), 1), size.num_texts)
        bounds = [i * size.num_texts // count for i in range(count + 1)] if count else []
        for first, end in pairwise(bounds):
            units.append(Unit(teacher, len(units), language, first_text=first, num_texts=end - first))
    return units
