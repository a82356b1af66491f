"""Tokenizers of teachers and students: load a fast one from what a folder holds, and its special tokens by role."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from orchestrator.errors import DataError
from orchestrator.models.checkpoints import tokenizer_folder
from orchestrator.models.quiet import quiet_transformers
from orchestrator.records import SpecialIds

#: Spellings of each role, for a tokenizer.json without a tokenizer_config.json that names them.
_SPELLINGS: Final = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
}


def load_tokenizer(path: str, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer; torch is not imported for one that has a tokenizer.json.

    Args:
        path: a name on the hub, or a folder with a tokenizer as `save_pretrained` leaves it, with tokenizer.json alone,
            or with a WordPiece vocab.txt alone.
        revision: branch, tag or commit on the hub.

    Raises:
        DataError: no fast tokenizer can be made of what is there.
    """
    folder = tokenizer_folder(path, revision=revision)
    try:
        with quiet_transformers():
            tokenizer = _from_folder(folder)
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(f"{path}: the tokenizer cannot be loaded: {reason}") from error
    if tokenizer is None:
        raise DataError(f"{path}: a vocabulary without tokenizer_config.json; add that, or save it as tokenizer.json")
    if not tokenizer.is_fast:
        raise DataError(f"{path}: the tokenizer has no fast version; save it as tokenizer.json first")
    _name_special_tokens(tokenizer)
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerFast) -> SpecialIds:
    """Ids of the special tokens by role; where [CLS] or [SEP] is not named, the begin or end of a sequence serves.

    Raises:
        DataError: the tokenizer has no mask, padding or unknown token.
    """
    pad, unk, mask = tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id
    for role, identity in (("mask", mask), ("padding", pad), ("unknown", unk)):
        if identity is None:
            raise DataError(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no {role} token; masked language modelling needs one,"
                f" so name it in tokenizer_config.json or choose another tokenizer"
            )
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    return SpecialIds(
        pad=pad,
        unk=unk,
        mask=mask,
        cls=cls if cls is not None else tokenizer.bos_token_id,
        sep=sep if sep is not None else tokenizer.eos_token_id,
    )


def _from_folder(folder: Path) -> PreTrainedTokenizerFast | None:
    name, has = str(folder), {file.name for file in folder.iterdir()}
    if "tokenizer.json" in has:
        return PreTrainedTokenizerFast.from_pretrained(name, local_files_only=True)
    if has & {"tokenizer_config.json", "config.json"}:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False, local_files_only=True)
    return _from_wordpieces(folder / "vocab.txt") if "vocab.txt" in has else None


def _name_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    for role, spellings in _SPELLINGS.items():
        known = next((spelling for spelling in spellings if spelling in vocabulary), None)
        if getattr(tokenizer, role) is None and known is not None:
            setattr(tokenizer, role, known)


def _from_wordpieces(vocabulary: Path) -> PreTrainedTokenizerFast:
    """BERT's tokenizer; whether it lower-cases and strips accents shows in the pieces that begin a word."""
    from transformers import BertTokenizerFast

    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    beginnings = [piece for piece in pieces if not piece.startswith(("[", "##"))]
    lower_case = all(piece == piece.lower() for piece in beginnings)
    return BertTokenizerFast(
        vocab=str(vocabulary),
        do_lower_case=lower_case,
        strip_accents=lower_case and not any(map(_has_accent, beginnings)),
        name_or_path=str(vocabulary.parent),
    )


def _has_accent(piece: str) -> bool:
    return any(unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", piece))
