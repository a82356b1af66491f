"""Bare vocabulary files of each family as specs: `vocab.txt`, SentencePiece's `.model`, `vocab.json` + `merges.txt`."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from vocab_tools.errors import VocabularyError
from vocab_tools.files import parse_json, read_bytes
from vocab_tools.specs import METASPACE, AddedToken, Component, Model, Spec, added_token, byte_alphabet, template

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5  # SentencePiece.Type


def read_wordpiece(vocab_file: Path, *, lowercase: bool | None) -> Spec:
    """A `vocab.txt` as BERT reads it; `lowercase` None: decided by the tokens themselves."""
    lines = read_bytes(vocab_file).decode("utf-8").split("\n")
    tokens = lines[:-1] if lines and not lines[-1] else lines
    vocab = {token.removesuffix("\r"): index for index, token in enumerate(tokens)}
    special = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token in vocab]
    if "[UNK]" not in vocab:
        raise VocabularyError(f"{vocab_file} has no line [UNK]; is it a WordPiece vocabulary?")
    if lowercase is None:
        lowercase = _is_lower_case(vocab)
    normalizer: Component = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": lowercase,
    }
    model = Model(
        type="WordPiece",
        vocab=vocab,
        unk_token="[UNK]",
        continuing_subword_prefix="##",
        max_input_chars_per_word=100,
    )
    return _spec(
        model,
        added=[added_token(vocab[token], token) for token in special],
        normalizer=normalizer,
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template(vocab, "[CLS]", "[SEP]", second_type=1),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def read_byte_level(vocab_file: Path, merges_file: Path) -> Spec:
    """`vocab.json` and `merges.txt` as GPT-2 writes them; and RoBERTa's special tokens and template if there."""
    vocab = cast(dict[str, int], parse_json(read_bytes(vocab_file)))  # ids are checked where tokens are placed
    lines = read_bytes(merges_file).decode("utf-8").split("\n")
    merges = [
        (left, right) for left, _, right in (line.partition(" ") for line in lines[_first_merge(lines) :]) if right
    ]
    if not all(character in vocab for character in byte_alphabet()):
        raise VocabularyError(f"{vocab_file} is no byte-level vocabulary (some of the 256 bytes are missing in it)")
    roberta = "<s>" in vocab and "</s>" in vocab
    special = [token for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>") if token in vocab]
    byte_level: Component = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = Model(type="BPE", vocab=vocab, merges=merges, unk_token=None, fuse_unk=False, byte_fallback=False)
    return _spec(
        model,
        added=[added_token(vocab[token], token, lstrip=token == "<mask>") for token in special],
        normalizer=None,
        pre_tokenizer=byte_level,
        post_processor={
            "type": "RobertaProcessing",
            "sep": ["</s>", vocab["</s>"]],
            "cls": ["<s>", vocab["<s>"]],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
        if roberta
        else byte_level,
        decoder=byte_level,
    )


def read_sentencepiece(model_file: Path) -> Spec:
    """A SentencePiece `.model`, unigram or BPE, normalising and splitting as the SentencePiece library does.

    Ids are the piece's places, except in `sentencepiece.bpe.model`, the name under which XLM-R's is published: there
    ids are those of the model (`<s> <pad> </s> <unk>`, the pieces from the fourth on, `<mask>` at the end).
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(read_bytes(model_file))
    except DecodeError as error:
        raise VocabularyError(f"{model_file} is no SentencePiece model") from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, float(piece.score), int(piece.type)) for piece in proto.pieces]
    if trainer.model_type == 1:
        pieces = _with_user_characters(pieces)
    if not pieces or trainer.model_type not in (1, 2):
        raise VocabularyError(f"{model_file} is neither a unigram nor a BPE model of SentencePiece")
    if trainer.treat_whitespace_as_suffix:
        raise VocabularyError(f"{model_file} marks the ends of words, not their beginnings; it cannot be used")
    xlm_roberta = model_file.name == "sentencepiece.bpe.model"
    if xlm_roberta:
        first = [("<s>", 0.0, _CONTROL), ("<pad>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL), ("<unk>", 0.0, _UNKNOWN)]
        pieces = [*first, *pieces[3:], ("<mask>", 0.0, _CONTROL)]
    vocab = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    unknown = next((index for index, (_, _, kind) in enumerate(pieces) if kind == _UNKNOWN), 0)
    cut_out = [
        added_token(index, piece, special=kind != _USER_DEFINED, lstrip=xlm_roberta and piece == "<mask>")
        for index, (piece, _, kind) in enumerate(pieces)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    steps: list[Component] = []
    if normalizer.precompiled_charsmap:
        charsmap = base64.b64encode(normalizer.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if normalizer.remove_extra_whitespaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    elif normalizer.add_dummy_prefix:  # also before a space, where Metaspace would put none
        steps.append({"type": "Prepend", "prepend": METASPACE})
    metaspace: Component = {
        "type": "Metaspace",
        "replacement": METASPACE,
        "prepend_scheme": "always" if normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces else "never",
        "split": not any(METASPACE in piece.lstrip(METASPACE) or piece.startswith(METASPACE * 2) for piece in vocab),
    }
    cls = next((token for token in ("<cls>", "[CLS]", "<s>") if token in vocab), None)
    sep = next((token for token in ("<sep>", "[SEP]", "</s>") if token in vocab), None)
    return _spec(
        _sentencepiece_model(pieces, unknown, bpe=trainer.model_type == 2, byte_fallback=trainer.byte_fallback),
        added=cut_out,
        normalizer={"type": "Sequence", "normalizers": steps} if steps else None,
        pre_tokenizer=metaspace,
        post_processor=template(vocab, cls, sep, second_type=0, twice=xlm_roberta),
        decoder=metaspace,
    )


def _with_user_characters(pieces: Sequence[tuple[str, float, int]]) -> list[tuple[str, float, int]]:
    """User-defined single characters as ordinary pieces with the score that SentencePiece itself gives them.

    It is so high that no other path avoids them. Cut out as added tokens they would take the word mark before them.
    """
    highest = max((score for _, score, kind in pieces if kind == _NORMAL), default=0.0)
    return [
        (piece, highest - 0.1, _NORMAL) if kind == _USER_DEFINED and len(piece) == 1 else (piece, score, kind)
        for piece, score, kind in pieces
    ]


def _sentencepiece_model(
    pieces: Sequence[tuple[str, float, int]], unknown: int, *, bpe: bool, byte_fallback: bool
) -> Model:
    if not bpe:
        scores = [(piece, score) for piece, score, _ in pieces]
        return Model(type="Unigram", unk_id=unknown, vocab=scores, byte_fallback=byte_fallback)
    return Model(
        type="BPE",
        vocab={piece: index for index, (piece, _, _) in enumerate(pieces)},
        merges=_merges_of_scores({piece: score for piece, score, kind in pieces if kind == _NORMAL}),
        unk_token=pieces[unknown][0],
        fuse_unk=True,
        byte_fallback=byte_fallback,
    )


def _merges_of_scores(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best score of the result first: SentencePiece's order of merging."""
    by_score: dict[float, list[tuple[str, str]]] = defaultdict(list)
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                by_score[score].append((left, right))
    return [pair for score in sorted(by_score, reverse=True) for pair in by_score[score]]


def _is_lower_case(tokens: Iterable[str]) -> bool:
    """Whether fewer than 1 % of the tokens with letters that have case hold an upper-case one."""
    cased = [token for token in tokens if token.lower() != token.upper() and not token.startswith("[")]
    return sum(token != token.lower() for token in cased) < 0.01 * len(cased)


def _first_merge(lines: Sequence[str]) -> int:
    return 1 if lines and lines[0].startswith("#version") else 0


def _spec(
    model: Model,
    *,
    added: list[AddedToken],
    normalizer: Component | None,
    pre_tokenizer: Component,
    post_processor: Component,
    decoder: Component,
) -> Spec:
    return Spec(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=added,
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        post_processor=post_processor,
        decoder=decoder,
        model=model,
    )
