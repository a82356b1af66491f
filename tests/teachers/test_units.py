"""Units cover every training text once, whatever the sizes, and are a pure function of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.models import TeacherSection
from orchestrator.corpus.store import Corpus, SplitInfo
from orchestrator.records import Unit
from orchestrator.teachers.units import plan_units


@dataclass(frozen=True)
class FakeCorpus:
    sizes: dict[str, tuple[int, int]]  # texts, characters

    def info(self, language: str, split: str) -> SplitInfo:
        assert split == "train"
        texts, characters = self.sizes[language]
        return SplitInfo(num_texts=texts, num_characters=characters)


def _plan(
    sizes: dict[str, tuple[int, int]], *, shard_bytes: int = 1_000_000, copies: int = 1, tokens_per_batch: int = 100
) -> list[Unit]:
    section = TeacherSection(languages=tuple(sizes), model="teacher", tokens_per_batch=tokens_per_batch)
    return plan_units(
        cast(Corpus, FakeCorpus(sizes)),
        "teacher",
        section,
        tokens_per_character=dict.fromkeys(sizes, 0.25),
        bytes_per_token=100.0,
        shard_bytes=shard_bytes,
        copies=copies,
    )


SIZES = st.dictionaries(
    st.sampled_from(["en", "de", "sw", "zh"]),
    st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 200 * n))),
    min_size=1,
)


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, shard_bytes=st.integers(10_000, 10_000_000), copies=st.integers(1, 4))
def test_every_text_is_in_one_unit(sizes: dict[str, tuple[int, int]], shard_bytes: int, copies: int) -> None:
    units = _plan(sizes, shard_bytes=shard_bytes, copies=copies)
    assert units == _plan(sizes, shard_bytes=shard_bytes, copies=copies)
    assert [unit.index for unit in units] == list(range(len(units)))
    for language, (num_texts, characters) in sizes.items():
        own = [unit for unit in units if unit.language == language]
        ends = [unit.first_text + unit.num_texts for unit in own]
        assert [unit.first_text for unit in own] == [0, *ends[:-1]]
        assert ends[-1] == num_texts
        lengths = [unit.num_texts for unit in own]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1
        total_bytes = characters * 0.25 * copies * 100
        assert len(own) >= min(num_texts, total_bytes / shard_bytes)


def test_large_corpora_are_cut_by_bytes() -> None:
    # 8 million characters are 2 million tokens are 200 MB, in shards of 10 MB
    assert len(_plan({"en": (100_000, 8_000_000)}, shard_bytes=10_000_000)) == 20
    assert len(_plan({"en": (100_000, 8_000_000)}, shard_bytes=10_000_000, copies=2)) == 40


def test_small_corpora_still_make_eight_units() -> None:
    assert len(_plan({"en": (1000, 80_000)})) == 8
    shared = _plan({"en": (1000, 60_000), "sw": (300, 20_000)})
    assert [sum(unit.language == language for unit in shared) for language in ("en", "sw")] == [6, 2]


def test_tiny_corpora_are_not_cut_below_a_few_batches() -> None:
    assert len(_plan({"en": (1000, 80_000)}, tokens_per_batch=2500)) == 2
    assert len(_plan({"en": (2, 80)})) == 1
