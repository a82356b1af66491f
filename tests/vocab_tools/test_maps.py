"""Maps of unions and trims: one to one onto their support, the same in any order, closed under the parts of pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vocab_tools.tiny import FAMILIES, SENTENCES, count_ids, make_tokenizer
from vocab_tools import VocabularyError, VocabularySource, build_vocabulary, open_vocabulary, translate
from vocab_tools.canonical import ROLES
from vocab_tools.read import TeacherTokenizer, read_tokenizer
from vocab_tools.trim import drop_unsupported, measure_needs, spread


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {family: make_tokenizer(family, root / family) for family in FAMILIES}


@pytest.mark.parametrize("merge", ["canonical", "surface"])
def test_union_maps_are_one_to_one_onto_their_support(paths: dict[str, Path], tmp_path: Path, merge: str) -> None:
    sources = [VocabularySource(name, path) for name, path in paths.items()]
    build_vocabulary(sources, tmp_path / "one", merge=merge)
    vocabulary = open_vocabulary(tmp_path / "one")
    reached = np.zeros(vocabulary.size, dtype=bool)
    for name in vocabulary.names:
        table = vocabulary.map(name)
        student = table[table >= 0]
        assert len(set(student.tolist())) == len(student)
        assert vocabulary.support(name).sum() == len(student)
        reached |= vocabulary.support(name)
        for role, index in read_tokenizer(paths[name]).roles.items():
            assert table[index] == vocabulary.special[role]
    assert reached.all()
    assert len(set(vocabulary.tokens)) == vocabulary.size
    assert vocabulary.tokens[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@given(st.permutations(["wordpiece-cased", "unigram", "byte-bpe"]))
@settings(max_examples=6, deadline=None)
def test_order_of_arguments_changes_no_byte(tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
    root = tmp_path_factory.mktemp("order")
    sources = [VocabularySource(name, make_tokenizer(name, root / name)) for name in sorted(order)]
    build_vocabulary(sources, root / "a")
    build_vocabulary([next(one for one in sources if one.name == name) for name in order], root / "b")
    for file in (root / "a").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (root / "b" / file.relative_to(root / "a")).read_bytes()


def test_canonical_form_shares_more_than_strings_do(paths: dict[str, Path], tmp_path: Path) -> None:
    sources = [VocabularySource(name, paths[name]) for name in ("wordpiece-cased", "unigram", "byte-bpe")]
    canonical = build_vocabulary(sources, tmp_path / "a")
    surface = build_vocabulary(sources, tmp_path / "b", merge="surface")
    assert canonical.size < surface.size
    tables = [open_vocabulary(tmp_path / "a").map(name) for name in ("wordpiece-cased", "unigram", "byte-bpe")]
    the = [
        read_tokenizer(paths[n]).tokens.index(t)
        for n, t in (("wordpiece-cased", "the"), ("unigram", "▁the"), ("byte-bpe", "Ġthe"))
    ]
    assert len({int(table[index]) for table, index in zip(tables, the, strict=True)}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_trim_keeps_what_occurs_often_enough_and_its_parts(paths: dict[str, Path], tmp_path: Path, family: str) -> None:
    counts = count_ids(paths[family], SENTENCES[:3])
    build_vocabulary([VocabularySource(family, paths[family], counts, min_count=2)], tmp_path / "two")
    table = open_vocabulary(tmp_path / "two").map(family)
    teacher = read_tokenizer(paths[family])
    assert (table[(counts >= 2)] >= 0).all()
    needs = measure_needs(teacher, counts)
    assert ((table >= 0) == needs.kept(2)).all()
    assert not (needs.kept(2)[needs.wholes] & ~needs.kept(2)[needs.parts]).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("room", [10, 40])
def test_max_size_holds_and_the_kept_part_is_closed(
    paths: dict[str, Path], tmp_path: Path, family: str, room: int
) -> None:
    counts = count_ids(paths[family], SENTENCES)
    teacher = read_tokenizer(paths[family])
    needs = measure_needs(teacher, counts)
    limit = int(needs.always.sum()) + len(ROLES) + room
    report = build_vocabulary([VocabularySource(family, paths[family], counts)], tmp_path / "small", max_size=limit)
    kept = open_vocabulary(tmp_path / "small").map(family) >= 0
    assert limit - room < report.size <= limit
    assert not (kept[needs.wholes] & ~kept[needs.parts]).any()
    assert kept[needs.always].all()


def test_max_size_ranks_the_tokens_of_all_teachers_together(paths: dict[str, Path], tmp_path: Path) -> None:
    names = ("wordpiece-cased", "byte-bpe")
    sources = [VocabularySource(name, paths[name], count_ids(paths[name], SENTENCES)) for name in names]
    full = build_vocabulary(sources, tmp_path / "full").size
    report = build_vocabulary(sources, tmp_path / "small", max_size=full - 60)
    assert full - 80 < report.size <= full - 60


def test_counts_of_another_tokenizer_and_impossible_sizes_are_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    source = VocabularySource("unigram", paths["unigram"])
    with pytest.raises(VocabularyError, match="counts of a corpus"):
        build_vocabulary([source], tmp_path / "a", max_size=100)
    counts = count_ids(paths["byte-bpe"], SENTENCES)
    with pytest.raises(VocabularyError, match="too small"):
        build_vocabulary([VocabularySource("b", paths["byte-bpe"], counts)], tmp_path / "a", max_size=100)
    with pytest.raises(VocabularyError, match="another tokenizer"):
        build_vocabulary([VocabularySource("u", paths["unigram"], np.ones(9999, dtype=np.int64))], tmp_path / "a")
    with pytest.raises(VocabularyError, match="whole number"):
        build_vocabulary([VocabularySource("u", paths["unigram"], -np.ones(9, dtype=np.int64))], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_counts_may_cover_the_models_padded_rows(paths: dict[str, Path], tmp_path: Path) -> None:
    counts = count_ids(paths["unigram"], SENTENCES)
    padded = np.concatenate([counts, np.zeros(7, dtype=np.int64)])
    build_vocabulary([VocabularySource("u", paths["unigram"], padded)], tmp_path / "a")
    table = open_vocabulary(tmp_path / "a").map("u")
    assert len(table) == len(padded)
    assert (table[-7:] == -1).all()
    open_vocabulary(tmp_path / "a").require_teacher("u", paths["unigram"])


def test_translate_is_one_gather() -> None:
    table = np.array([4, -1, 2], dtype=np.int32)
    ids = np.array([[0, 1], [2, 2]])
    assert translate(ids, table).tolist() == [[4, -1], [2, 2]]
    assert translate(ids, table, missing=1).tolist() == [[4, 1], [2, 2]]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), max_size=20),
    st.lists(st.integers(0, 5), min_size=10, max_size=10),
)
def test_needs_spread_to_all_parts(pairs: list[tuple[int, int]], counts: list[int]) -> None:
    edges = [(whole, part % whole) for whole, part in pairs]  # parts have smaller numbers: no cycles
    wholes, parts = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    need = np.array(counts, dtype=np.int64)
    expected = counts[:]
    for whole, part in sorted(edges, reverse=True):
        expected[part] = max(expected[part], expected[whole])
    spread(need, wholes, parts)
    assert need.tolist() == expected
    kept = drop_unsupported(np.array(counts) > 2, wholes, parts)
    assert not (kept[wholes] & ~kept[parts]).any()
    assert not (kept & ~(np.array(counts) > 2)).any()


@pytest.mark.parametrize("family", ["bpe-metaspace", "byte-bpe", "spm-bpe"])
def test_last_merges_are_those_that_the_model_performs(paths: dict[str, Path], family: str) -> None:
    teacher: TeacherTokenizer = read_tokenizer(paths[family])
    counts = np.ones(len(teacher.tokens), dtype=np.int64)
    needs = measure_needs(teacher, counts)
    made: dict[int, list[int]] = {}
    for whole, part in zip(needs.wholes.tolist(), needs.parts.tolist(), strict=True):
        made.setdefault(whole, []).append(part)
    model = teacher.backend().model
    rank = {tuple(pair): place for place, pair in enumerate(teacher.spec["model"]["merges"])}
    checked = 0
    for whole, parts in made.items():
        token = teacher.tokens[whole] or ""
        if len(parts) != 2 or [piece.value for piece in model.tokenize(token)] != [token]:
            continue
        left, right = (teacher.tokens[part] or "" for part in parts)
        assert left + right == token
        assert (left, right) in rank
        for part in (left, right):
            assert [piece.value for piece in model.tokenize(part)] == [part]
        checked += 1
    assert checked > 50
