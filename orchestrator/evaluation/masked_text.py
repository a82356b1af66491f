"""Text under masks that never change, so that every model of a run fills the same positions.

Shape legend: R rows, N tokens of all rows, M masked positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from orchestrator.config.corpus import CorpusSection
from orchestrator.corpus.mask import mask_rows
from orchestrator.corpus.tokenise import Rows, tokenise
from orchestrator.errors import DataError
from orchestrator.evaluation.encode import TokenRows
from orchestrator.evaluation.fidelity import Labels
from orchestrator.models.tokenizers import special_ids
from orchestrator.records import Int32, Int64

#: The same in every run, whatever its seed: runs are compared on the same positions.
MASK_SEED = 20_240_229


@dataclass(frozen=True)
class MaskedText:
    """Texts of one language in the ids of one tokenizer, one text per row (a long one is several rows).

    A stretch of text that became [UNK] is never masked. It counts as a token of average price, and its bytes besides.
    """

    rows: TokenRows  # after masking
    masked: Int64  # [M] indices into rows.ids, ascending
    label_ids: Int32  # [M] before masking
    label_bytes: Int64  # [M] UTF-8 bytes of what each masked token stands for in its text
    vocab_size: int  # of the tokenizer
    num_tokens: int  # special ones not counted
    num_unknown: int  # [UNK] among them
    unknown_bytes: int  # UTF-8 bytes of the text behind those
    num_characters: int

    def carried_over(self, id_map: Int32, *, unk: int) -> tuple[TokenRows, Labels]:
        """Rows and labels in another vocabulary; `unk`, its [UNK], stands where `id_map` has -1."""
        ids = id_map[self.rows.ids]
        labels = id_map[self.label_ids].astype(np.int64)
        unknown = (labels < 0) | (labels == unk)
        return (
            TokenRows(np.where(ids < 0, np.int32(unk), ids), self.rows.first, self.rows.length),
            Labels(
                ids=torch.from_numpy(np.where(unknown, unk, labels)),
                unknown=torch.from_numpy(unknown),
                num_bytes=torch.from_numpy(self.label_bytes),
            ),
        )

    def bits_per_character(self, bits_per_token: float) -> float:
        """The price of the whole text when a token costs `bits_per_token` on average."""
        return (bits_per_token * self.num_tokens + 8 * self.unknown_bytes) / self.num_characters

    def unknown_share(self, masked_share: float) -> float:
        """Share of all tokens that a model does not know, from its share among the masked ones."""
        seen = self.num_unknown / self.num_tokens
        return seen + (1 - seen) * masked_share


def mask_texts(texts: list[str], *, tokenizer: PreTrainedTokenizerFast, section: CorpusSection) -> MaskedText:
    """Tokenise and mask `texts` as the training text is, but unpacked, in one copy, and with a seed of its own.

    Raises:
        DataError: nothing of the texts can be masked.
    """
    special = special_ids(tokenizer)
    rows = tokenise(texts, first_text=0, tokenizer=tokenizer, max_length=section.max_length, packing=False)
    masked = mask_rows(
        rows,
        language=0,
        special=special,
        vocab_ids=np.setdiff1d(np.arange(len(tokenizer), dtype=np.int32), tokenizer.all_special_ids),
        masking=section.masking,
        seed=MASK_SEED,
        copies=range(1),
    )
    if len(masked.masked_token) == 0:
        raise DataError(
            f"The tokenizer {tokenizer.name_or_path} finds no token to mask in {len(texts)} texts of the corpus, the "
            f"first of which is {texts[0][:40]!r}; choose a tokenizer that knows the language."
        )
    body, num_bytes = _surface_bytes(texts, tokenizer, rows)
    unknown = rows.ids[body] == special.unk
    return MaskedText(
        rows=TokenRows(masked.input_id, masked.first_token, masked.num_tokens.astype(np.int64)),
        masked=masked.masked_token,
        label_ids=masked.label_id,
        label_bytes=num_bytes[np.searchsorted(body, masked.masked_token)],
        vocab_size=len(tokenizer),
        num_tokens=len(body),
        num_unknown=int(unknown.sum()),
        unknown_bytes=int(num_bytes[unknown].sum()),
        num_characters=sum(map(len, texts)),
    )


def _surface_bytes(texts: list[str], tokenizer: PreTrainedTokenizerFast, rows: Rows) -> tuple[Int64, Int64]:
    """The tokens that stand for text, as indices into `rows.ids`, and the UTF-8 bytes that each stands for (≥ 1)."""
    is_body = np.ones(len(rows.ids), np.bool_)
    if tokenizer.cls_token_id is not None:
        is_body[rows.first_token] = False
    if tokenizer.sep_token_id is not None:
        is_body[rows.first_token + rows.num_tokens - 1] = False
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as `tokenise` does
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    sizes = [
        len(text[begin:end].encode())
        for text, encoding in zip(texts, encodings, strict=True)
        for begin, end in encoding.offsets
    ]
    body = np.flatnonzero(is_body)
    assert len(body) == len(sizes)
    return body, np.maximum(np.array(sizes, np.int64), 1)
