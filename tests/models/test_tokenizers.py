"""Fast tokenizers from whatever a folder holds, with special tokens by role."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from orchestrator.errors import DataError
from orchestrator.models.checkpoints import tokenizer_hash
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.records import SpecialIds

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "ä"]


def _write_vocabulary(folder: Path, pieces: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return str(folder)


def _roberta_like(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def test_a_wordpiece_vocabulary_alone(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(_write_vocabulary(tmp_path, BERT))
    assert tokenizer.is_fast
    assert special_ids(tokenizer) == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert tokenizer("A bc Ä")["input_ids"] == [2, 5, 6, 7, 8, 3]  # no capitals in the vocabulary, but accents


def test_a_vocabulary_without_accents_strips_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(_write_vocabulary(tmp_path, BERT[:-1]))
    assert tokenizer("Ä b", add_special_tokens=False)["input_ids"] == [5, 6]


def test_a_vocabulary_with_capitals_keeps_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(_write_vocabulary(tmp_path, [*BERT, "A"]))
    assert tokenizer("A a ä", add_special_tokens=False)["input_ids"] == [9, 5, 8]


def test_capitals_inside_words_are_noise(tmp_path: Path) -> None:
    assert load_tokenizer(_write_vocabulary(tmp_path, [*BERT, "##TM"]))("A", add_special_tokens=False)["input_ids"] == [
        5
    ]


def test_tokenizer_json_alone_names_its_special_tokens(tmp_path: Path) -> None:
    _roberta_like(["<s>", "</s>", "<pad>", "<unk>", "<mask>", "x"]).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert special_ids(tokenizer) == SpecialIds(pad=2, unk=3, cls=0, sep=1, mask=4)
    assert tokenizer("x y")["input_ids"] == [0, 5, 3, 1]
    assert {"<mask>", "<pad>"} <= set(tokenizer.all_special_tokens)


def test_a_saved_tokenizer_comes_back(tmp_path: Path) -> None:
    load_tokenizer(_write_vocabulary(tmp_path / "words", BERT)).save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again("a bc ä")["input_ids"] == [2, 5, 6, 7, 8, 3]
    assert special_ids(again) == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def test_begin_and_end_stand_in_for_cls_and_sep() -> None:
    backend = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<b>", "<e>", "<p>", "<u>", "<m>"])}, unk_token="<u>")
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<b>", eos_token="<e>", pad_token="<p>", unk_token="<u>", mask_token="<m>"
    )
    assert special_ids(tokenizer) == SpecialIds(pad=2, unk=3, mask=4, cls=0, sep=1)


@pytest.mark.parametrize(("missing", "role"), [("[MASK]", "mask"), ("[PAD]", "padding"), ("[UNK]", "unknown")])
def test_a_missing_role_is_named(missing: str, role: str) -> None:
    words = [word for word in BERT if word != missing]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in roles.items() if token != missing}
    )
    with pytest.raises(DataError, match=f"has no {role} token"):
        special_ids(tokenizer)


def test_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer is there; expected tokenizer.json or vocab.txt"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match="no tokenizer is there"):
        tokenizer_hash(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="the tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_the_hash_is_of_the_files_of_the_tokenizer(tmp_path: Path) -> None:
    path = _write_vocabulary(tmp_path, BERT)
    first = tokenizer_hash(path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert tokenizer_hash(path) == first
    _write_vocabulary(tmp_path, BERT[::-1])
    assert tokenizer_hash(path) != first


def test_tokenizers_and_descriptions_need_no_torch(tmp_path: Path) -> None:
    _roberta_like(["<s>", "</s>", "<pad>", "<unk>", "<mask>"]).save(str(tmp_path / "tokenizer.json"))
    code = (
        "import sys; import orchestrator.models.checkpoints, orchestrator.models.maps;"
        "from orchestrator.models.tokenizers import load_tokenizer; load_tokenizer(sys.argv[1]);"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False).returncode == 0


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the tokenizers are not beside the project")
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data/tokenizers/bert-base-multilingual-cased", "Hello Wörld", "Hello W ##ör ##ld"),
        ("data/tokenizers/bert-base-uncased", "Héllo World", "hello world"),
        ("data/tokenizers/bertino-italian", "Perché no", "perché no"),
        ("data/tokenizers/all-MiniLM-L6-v2", "Hello World", "hello world"),
        ("models/multilingual-mlm-12x384", "Hallo Welt", "▁Hallo ▁Welt"),
    ],
)
def test_real_tokenizers(name: str, text: str, expected: str) -> None:
    tokenizer = load_tokenizer(str(SHARED / name))
    special = special_ids(tokenizer)
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (special.cls, special.sep)
    assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == expected.split()
