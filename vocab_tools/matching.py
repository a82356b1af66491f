"""Tokens of a finished vocabulary in another tokenizer, one that had no part in building it.

V student ids, V_t ids of that tokenizer.
"""

from __future__ import annotations

import numpy as np

from vocab_tools.build import Merge, identify
from vocab_tools.canonical import display
from vocab_tools.mapping import Vocabulary
from vocab_tools.read import TeacherTokenizer
from vocab_tools.union import Int32


def match_tokens(tokenizer: TeacherTokenizer, vocabulary: Vocabulary) -> Int32:
    """Student id of each id of `tokenizer`, int32 [V_t], -1 where the vocabulary has no such token.

    Tokens are the same by the rules of canonical.py, and special ones by role.
    """
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    table = np.full(len(tokenizer.tokens), -1, dtype=np.int32)
    merge: Merge = "surface" if vocabulary.merge == "surface" else "canonical"
    for index, identity in enumerate(identify(tokenizer, merge=merge)):
        if identity is not None and identity.owner in ("", "role"):
            table[index] = ids.get(display(identity), -1)
    return table
