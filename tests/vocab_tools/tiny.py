"""Tiny tokenizers of every family, trained in a moment on a few sentences, and what the tests ask of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from vocab_tools.read import read_tokenizer

SENTENCES = (
    "In the beginning God created the heaven and the earth.",
    "And God said, Let there be light: and there was light.",
    "Am Anfang schuf Gott die Himmel und die Erde; und Gott sprach: Es werde Licht!",
    "Au commencement, Dieu créa les cieux et la terre. Dieu dit: «Que la lumière soit!»",
    "В начале сотворил Бог небо и землю. И сказал Бог: да будет свет.",
    "起初，神创造天地。神说：“要有光”，就有了光。",
    "शुरू में परमेश्वर ने आकाश और पृथ्वी को बनाया।",
    "Numbers 1 2 3, 1998 and 2024; lightning lights the lighted night 100% 😀 naïve café",
)
FAMILIES = (
    "wordpiece-cased",
    "wordpiece-uncased",
    "unigram",
    "unigram-bytes",
    "bpe-metaspace",
    "byte-bpe",
    "spm-unigram",
    "spm-bpe",
    "spm-unigram-bytes",
    "spm-bpe-bytes",
)


def make_tokenizer(family: str, folder: Path, *, keep_spaces: bool = False) -> Path:
    """Train the tokenizer of one family on SENTENCES and save it as people have it on disk.

    `keep_spaces`, for SentencePiece alone: runs of spaces and those at the ends stay, as in Llama's model.
    """
    folder.mkdir(parents=True)
    if family.startswith("spm"):
        _, kind, *bytes_too = family.split("-")
        stream = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=stream,
            vocab_size=(220 if kind == "bpe" else 190) + 256 * len(bytes_too),
            model_type=kind,
            byte_fallback=bool(bytes_too),
            remove_extra_whitespaces=not keep_spaces,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / "sentencepiece.model").write_bytes(stream.getvalue())
        return folder
    tokenizer = _BUILDERS[family.partition("-")[0]](family)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _wordpiece(family: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=family.endswith("uncased"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=260, special_tokens=special, show_progress=False)
    )
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.enable_padding(length=4, pad_id=0, pad_token="[PAD]")
    return tokenizer


def _unigram(family: str) -> tokenizers.Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=240, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if family.endswith("bytes"):
        document = json.loads(tokenizer.to_str())
        document["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
        document["model"]["byte_fallback"] = True
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _bpe(family: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=["<unk>", "<s>", "</s>", "<mask>"], show_progress=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _byte(family: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


_BUILDERS = {"wordpiece": _wordpiece, "unigram": _unigram, "bpe": _bpe, "byte": _byte}


def teacher_backend(path: Path) -> tokenizers.Tokenizer:
    """The teacher's own tokenizer, without padding."""
    tokenizer = read_tokenizer(path).backend()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def count_ids(path: Path, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """How often each id of a tokenizer occurs in texts, int64 [V_teacher]."""
    ids = [index for encoding in teacher_backend(path).encode_batch(list(texts)) for index in encoding.ids]
    return np.bincount(ids, minlength=len(read_tokenizer(path).tokens)).astype(np.int64)
