"""A student tokenizer is its teacher's with other ids: same cuts, same offsets, for every family and any text."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.vocab_tools.tiny import FAMILIES, SENTENCES, count_ids, make_tokenizer, teacher_backend
from vocab_tools import Vocabulary, VocabularySource, build_vocabulary, open_vocabulary

PIECES = st.sampled_from(
    [
        " ",
        "  ",
        "\n",
        "light",
        "the",
        "créa",
        "e\u0301",
        "光",
        "Ｌｉｇｈｔ",
        "▁",
        "Ġ",
        "##",
        "[MASK]",
        "<mask>",
        "</s>",
        "😀",
        "１",
        "\u200d",
        "\x00",
        "ﬁ",
        "İ",
        "%",
    ]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=12).map("".join))


class Case:
    """One vocabulary folder with the teachers' and students' running tokenizers."""

    def __init__(self, vocabulary: Vocabulary, teachers: dict[str, tokenizers.Tokenizer]) -> None:
        self.vocabulary = vocabulary
        self.teachers = teachers
        self.maps = {name: vocabulary.map(name) for name in teachers}
        self.students = {name: AutoTokenizer.from_pretrained(vocabulary.tokenizer_folder(name)) for name in teachers}

    def assert_equal(self, name: str, text: str) -> bool:
        """Compare on one text; False where the teacher used a piece that the student lacks."""
        expected = self.teachers[name].encode(text)
        ids = self.maps[name][np.array(expected.ids, dtype=np.int64)]
        if (ids < 0).any():
            return False
        student = self.students[name](text, return_offsets_mapping=True)
        assert student.input_ids == ids.tolist()
        assert [tuple(offset) for offset in student.offset_mapping] == expected.offsets
        return True


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {family: make_tokenizer(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def union(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("union") / "all"
    build_vocabulary([VocabularySource(name, path) for name, path in paths.items()], folder)
    return Case(open_vocabulary(folder), {name: teacher_backend(path) for name, path in paths.items()})


@pytest.fixture(scope="module")
def trims(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("trims")
    cases = {}
    for name, path in paths.items():
        counts = count_ids(path, SENTENCES[::2])
        build_vocabulary([VocabularySource(name, path, counts=counts)], root / name)
        cases[name] = Case(open_vocabulary(root / name), {name: teacher_backend(path)})
    return cases


@pytest.mark.parametrize("family", FAMILIES)
def test_union_segments_any_text_as_the_teacher(union: Case, family: str) -> None:
    for text in SENTENCES:
        assert union.assert_equal(family, text)
    check = functools.partial(union.assert_equal, family)

    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def holds(text: str) -> None:
        if "[MASK]" not in text or "wordpiece" in family:  # a name of a special token that this teacher lacks
            assert check(text)

    holds()


@pytest.mark.parametrize("family", FAMILIES)
def test_trim_segments_words_of_kept_pieces_as_the_teacher(trims: dict[str, Case], family: str) -> None:
    case = trims[family]
    assert case.vocabulary.size < len(case.maps[family])
    assert all(case.assert_equal(family, text) for text in SENTENCES[::2])
    words = st.lists(st.sampled_from(" ".join(SENTENCES).split()), max_size=8).map(" ".join)

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(words, TEXTS))
    def holds(text: str) -> None:
        if "[MASK]" not in text or "wordpiece" in family:
            case.assert_equal(family, text)

    holds()


@pytest.mark.parametrize("family", FAMILIES)
def test_words_beside_a_dropped_piece_are_cut_as_before(trims: dict[str, Case], family: str) -> None:
    case = trims[family]
    teacher, student = case.teachers[family], case.students[family].backend_tokenizer
    student.no_padding()
    words = st.lists(st.sampled_from(" ".join(SENTENCES).split()), min_size=2, max_size=8).map(" ".join)

    @settings(max_examples=100, deadline=None)
    @given(words)
    def holds(text: str) -> None:
        before, after = teacher.encode(text), student.encode(text)
        mapped = case.maps[family][np.array(before.ids, dtype=np.int64)].tolist()
        cut: dict[int | None, list[int]] = {}
        for word, index in zip(after.word_ids, after.ids, strict=True):
            cut.setdefault(word, []).append(index)
        for word in {one for one in before.word_ids if one is not None}:
            expected = [index for index, of_word in zip(mapped, before.word_ids, strict=True) if of_word == word]
            if -1 not in expected:
                assert cut[word] == expected

    holds()


@pytest.mark.parametrize("family", FAMILIES)
def test_new_words_of_known_characters_are_cut_finer_and_not_unknown(trims: dict[str, Case], family: str) -> None:
    case = trims[family]
    unknown = case.vocabulary.special["unk"]
    ids = case.students[family]("dog bed hated dim theme").input_ids
    assert unknown not in ids
    assert max(ids) < case.vocabulary.size


@pytest.mark.parametrize("family", FAMILIES)
def test_student_survives_saving_and_pickling(union: Case, family: str, tmp_path: Path) -> None:
    student = union.students[family]
    assert len(student) == union.vocabulary.size
    assert [getattr(student, f"{role}_token_id") for role in ("pad", "unk", "cls", "sep", "mask")] == [0, 1, 2, 3, 4]
    student.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in SENTENCES:
        assert again(text).input_ids == student(text).input_ids
        assert pickle.loads(pickle.dumps(student))(text).input_ids == student(text).input_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_keep_their_template_and_type_ids(union: Case, family: str) -> None:
    expected = union.teachers[family].encode(SENTENCES[0], SENTENCES[1])
    student = union.students[family](SENTENCES[0], SENTENCES[1], return_token_type_ids=True)
    assert student.input_ids == union.maps[family][np.array(expected.ids)].tolist()
    assert student.token_type_ids == expected.type_ids


def test_padding_in_the_file_points_to_the_students_pad(union: Case) -> None:
    document = json.loads((union.vocabulary.tokenizer_folder("wordpiece-cased") / "tokenizer.json").read_text())
    assert document["padding"]["pad_id"] == 0
    assert document["padding"]["pad_token"] == "[PAD]"
