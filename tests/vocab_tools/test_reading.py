"""Every file that holds a tokenizer, against the library that defines it; and tokenizers not as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer

from tests.vocab_tools.tiny import FAMILIES, SENTENCES, count_ids, make_tokenizer, teacher_backend
from vocab_tools import VocabularyError, VocabularySource, build_vocabulary, open_vocabulary
from vocab_tools.check import compare
from vocab_tools.read import read_tokenizer

ODD_TEXTS = (
    *SENTENCES,
    "",
    " ",
    "  two  spaces ",
    "tab\tand\nline",
    "½ ﬁ Ⅷ",
    "e\u0301 \u200b",
    "x" * 150,
    "don't -- stop...",
)


def wordpiece_lines(folder: Path) -> list[str]:
    return sorted(vocab := read_tokenizer(folder).backend().get_vocab(), key=vocab.__getitem__)


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt_reads_as_in_tokenizers(tmp_path: Path, lowercase: bool) -> None:
    family = "wordpiece-uncased" if lowercase else "wordpiece-cased"
    lines = wordpiece_lines(make_tokenizer(family, tmp_path / "trained"))
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reference = tokenizers.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=lowercase)
    for where in (tmp_path / "vocab.txt", tmp_path):
        backend = teacher_backend(where)
        for text in ODD_TEXTS:
            assert backend.encode(text).ids == reference.encode(text).ids
            assert backend.encode(text, "b").type_ids == reference.encode(text, "b").type_ids


@pytest.mark.parametrize("keep_spaces", [False, True])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("spm")])
def test_sentencepiece_model_reads_as_in_sentencepiece(tmp_path: Path, family: str, keep_spaces: bool) -> None:
    folder = make_tokenizer(family, tmp_path / "m", keep_spaces=keep_spaces)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    backend = teacher_backend(folder)
    for text in ODD_TEXTS:
        assert backend.encode(text, add_special_tokens=False).ids == reference.encode(text)
    assert backend.encode("light").ids == [1, *reference.encode("light"), 2]


def test_xlm_roberta_file_name_has_the_models_ids(tmp_path: Path) -> None:
    folder = make_tokenizer("spm-unigram", tmp_path / "m")
    file = (folder / "sentencepiece.model").rename(folder / "sentencepiece.bpe.model")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    expected = [3 if index == 0 else index + 1 for index in reference.encode(SENTENCES[1])]
    assert teacher_backend(folder).encode(SENTENCES[1]).ids == [0, *expected, 2]
    teacher = read_tokenizer(folder)
    assert teacher.roles == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": len(teacher.tokens) - 1}


def test_vocab_json_and_merges_read_as_in_tokenizers(tmp_path: Path) -> None:
    trained = read_tokenizer(make_tokenizer("byte-bpe", tmp_path / "t")).backend()
    folder = tmp_path / "gpt"
    folder.mkdir()
    trained.model.save(str(folder))
    reference = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = teacher_backend(folder)
    for text in ODD_TEXTS:
        assert backend.encode(text, add_special_tokens=False).ids == reference.encode(text).ids
    assert backend.encode("a").tokens == ["<s>", "a", "</s>"]
    assert backend.encode("a  <mask>.").ids[2:3] == [reference.token_to_id("<mask>")]  # it takes the spaces before it


def test_old_tokenizer_json_without_type_and_with_merges_as_strings(tmp_path: Path) -> None:
    for family in ("byte-bpe", "unigram", "wordpiece-cased"):
        folder = make_tokenizer(family, tmp_path / family)
        before = teacher_backend(folder).encode(SENTENCES[0]).ids
        document = json.loads((folder / "tokenizer.json").read_text())
        del document["model"]["type"]
        if "merges" in document["model"]:
            document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
        (folder / "tokenizer.json").write_text(json.dumps(document))
        assert teacher_backend(folder).encode(SENTENCES[0]).ids == before


def test_a_declared_mask_that_is_not_in_the_file_is_appended_as_transformers_does(tmp_path: Path) -> None:
    folder = make_tokenizer("bpe-metaspace", tmp_path / "t")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<blank>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    teacher = read_tokenizer(folder)
    assert teacher.roles["mask"] == AutoTokenizer.from_pretrained(folder).mask_token_id
    assert "pad" not in teacher.roles  # </s> is the separator before it is padding
    build_vocabulary([VocabularySource("t", folder)], tmp_path / "out")
    vocabulary = open_vocabulary(tmp_path / "out")
    student = AutoTokenizer.from_pretrained(vocabulary.tokenizer_folder("t"))
    assert (student.mask_token, student.mask_token_id, student.pad_token_id) == ("<blank>", 4, 0)
    assert student("light <blank>").input_ids[-1] == 4


def test_a_class_that_rebuilds_its_tokenizer_is_opened_by_transformers(tmp_path: Path) -> None:
    lines = wordpiece_lines(make_tokenizer("wordpiece-uncased", tmp_path / "trained"))
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    reference = AutoTokenizer.from_pretrained(folder)
    teacher = read_tokenizer(folder)
    assert [teacher.backend().encode(text).ids for text in ODD_TEXTS] == reference(list(ODD_TEXTS)).input_ids
    assert teacher.settings["model_max_length"] == 64


def test_more_rows_than_tokens_and_fewer(tmp_path: Path) -> None:
    folder = make_tokenizer("unigram", tmp_path / "t")
    size = len(read_tokenizer(folder).tokens)
    (folder / "config.json").write_text(json.dumps({"vocab_size": size + 5}))
    report = build_vocabulary([VocabularySource("t", folder)], tmp_path / "out")
    table = open_vocabulary(tmp_path / "out").map("t")
    assert len(table) == size + 5
    assert (table[size:] == -1).all()
    assert "other rows have no token" in report.sources[0].notes[0]
    (folder / "config.json").write_text(json.dumps({"vocab_size": size - 5}))
    assert "no embedding" in read_tokenizer(folder).notes[0]


def test_holes_in_the_ids_and_duplicate_lines_get_no_student_id(tmp_path: Path) -> None:
    folder = make_tokenizer("wordpiece-cased", tmp_path / "holes")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["zebra"] = len(document["model"]["vocab"]) + 30
    (folder / "tokenizer.json").write_text(json.dumps(document))
    lines = wordpiece_lines(make_tokenizer("wordpiece-cased", tmp_path / "t"))
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "vocab.txt").write_text("\n".join([*lines, "the"]) + "\n", encoding="utf-8")
    for where, lost in ((folder, 30), (tmp_path / "twice", 1)):
        build_vocabulary([VocabularySource("t", where)], tmp_path / "out")
        vocabulary = open_vocabulary(tmp_path / "out")
        assert (vocabulary.map("t") < 0).sum() == lost
        found = compare(read_tokenizer(where), vocabulary.tokenizer_folder("t"), vocabulary.map("t"), SENTENCES)
        assert (found.wrong, found.finer) == (0, 0)
    assert vocabulary.map("t")[lines.index("the")] == -1


def test_a_template_token_without_a_role_survives_a_trim(tmp_path: Path) -> None:
    folder = make_tokenizer("unigram", tmp_path / "t")
    document = json.loads((folder / "tokenizer.json").read_text())
    language = 60
    piece = document["model"]["vocab"][language][0]
    document["post_processor"]["single"].insert(0, {"SpecialToken": {"id": piece, "type_id": 0}})
    document["post_processor"]["special_tokens"][piece] = {"id": piece, "ids": [language], "tokens": [piece]}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    counts = np.zeros(len(read_tokenizer(folder).tokens), dtype=np.int64)
    build_vocabulary([VocabularySource("t", folder, counts)], tmp_path / "out")
    vocabulary = open_vocabulary(tmp_path / "out")
    assert (
        AutoTokenizer.from_pretrained(vocabulary.tokenizer_folder("t"))("").input_ids[0]
        == vocabulary.map("t")[language]
    )


def test_a_trimmed_unigram_charges_what_it_did_for_unknown_characters(tmp_path: Path) -> None:
    folder = make_tokenizer("unigram", tmp_path / "t")
    counts = count_ids(folder, SENTENCES[:1])
    build_vocabulary([VocabularySource("t", folder, counts)], tmp_path / "out")
    written = json.loads((open_vocabulary(tmp_path / "out").tokenizer_folder("t") / "tokenizer.json").read_text())
    before = min(score for _, score in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert min(score for _, score in written["model"]["vocab"]) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": "{"}, "is the file whole"),
        ({"tokenizer.json": "{}"}, "is the file whole"),
        ({"vocab.txt": "a\nb\n"}, r"no line \[UNK\]"),
        ({"a.model": "x", "b.model": "y"}, "give the path of one"),
        ({"a.model": "no protobuf"}, "no SentencePiece model"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "no byte-level vocabulary"),
        ({"vocab.json": '{"a": 0}'}, "holds no tokenizer"),
        ({"vocab.txt": "[UNK]\n", "tokenizer_config.json": "["}, "not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(VocabularyError, match=message) as caught:
        build_vocabulary([VocabularySource("t", folder)], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_fast_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(VocabularyError, match="no fast version"):
        read_tokenizer(tmp_path)


def test_added_runs_of_spaces_in_two_teachers_do_not_meet_the_fillers(tmp_path: Path) -> None:
    sources = []
    for name in ("one", "two"):
        folder = make_tokenizer("byte-bpe", tmp_path / name)
        tokenizer = read_tokenizer(folder).backend()
        tokenizer.add_tokens([" " * count for count in range(2, 7)])
        tokenizer.save(str(folder / "tokenizer.json"))
        sources.append(VocabularySource(name, folder))
    build_vocabulary(sources, tmp_path / "out")
    vocabulary = open_vocabulary(tmp_path / "out")
    texts = [*ODD_TEXTS, "a    b  c", "      x", " ", "       "]
    for source in sources:
        student = vocabulary.tokenizer_folder(source.name)
        found = compare(read_tokenizer(source.tokenizer), student, vocabulary.map(source.name), texts)
        assert (found.wrong, found.finer) == (0, 0)
        assert len(AutoTokenizer.from_pretrained(student)) == vocabulary.size


def test_the_name_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tokenizer("unigram", tmp_path / "some.thing-1.5")
    monkeypatch.chdir(folder)
    for where in (folder, folder / "tokenizer.json", Path("tokenizer.json"), "."):
        assert read_tokenizer(where).name == "some.thing-1.5"


def test_unknown_models_missing_paths_and_bad_names(tmp_path: Path) -> None:
    word_level = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    word_level.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(VocabularyError, match="WordLevel"):
        read_tokenizer(tmp_path)
    with pytest.raises(VocabularyError, match="does not exist"):
        read_tokenizer(tmp_path / "nowhere" / "at" / "all")
    folder = make_tokenizer("unigram", tmp_path / "t")
    for name in ("", "..", "a/b", "merged"):
        with pytest.raises(VocabularyError, match="name"):
            build_vocabulary([VocabularySource(name, folder)], tmp_path / "out")
    with pytest.raises(VocabularyError, match="taken"):
        build_vocabulary(
            [VocabularySource("a", folder, tokenizer_names=("de",)), VocabularySource("de", folder)], tmp_path / "out"
        )
    with pytest.raises(VocabularyError, match="at least one"):
        build_vocabulary([], tmp_path / "out")


def test_a_model_that_may_see_spaces_can_be_trimmed_but_not_united(tmp_path: Path) -> None:
    folder = make_tokenizer("unigram", tmp_path / "t")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["pre_tokenizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(document))
    build_vocabulary([VocabularySource("t", folder)], tmp_path / "out")
    other = make_tokenizer("wordpiece-cased", tmp_path / "w")
    with pytest.raises(VocabularyError, match="hand spaces to its model"):
        build_vocabulary([VocabularySource("t", folder), VocabularySource("w", other)], tmp_path / "both")
