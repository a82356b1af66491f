"""How a teacher cuts the tokens of a vocabulary that is not its own, for the mean of its embedding rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vocab_tools.canonical import ROLES, role_name
from vocab_tools.read import TeacherTokenizer
from vocab_tools.specs import METASPACE

_NO_TEXT = re.compile(r"(<0x[0-9A-F]{2}>)+|" + "|".join(re.escape(role_name(role)) for role in ROLES))


def cut_tokens(tokens: Sequence[str], teacher: TeacherTokenizer) -> dict[int, list[int]]:
    """Teacher ids by student id, for tokens as vocab.json calls them (`▁the`, `ing`).

    A token is cut as a text of its own, so one that continues a word is cut as if it began one, but without a lone
    word mark before it. Special tokens, bytes, and tokens that the teacher does not know wholly are left out.
    """
    backend = teacher.backend()
    backend.no_padding()
    backend.no_truncation()
    special = {*teacher.roles.values(), *teacher.reserved}
    texts = [token.removeprefix(METASPACE) for token in tokens]
    cut: dict[int, list[int]] = {}
    for index, encoding in enumerate(backend.encode_batch(texts, add_special_tokens=False)):
        ids = encoding.ids
        if len(ids) > 1 and teacher.tokens[ids[0]] == METASPACE:
            ids = ids[1:]
        if ids and special.isdisjoint(ids) and not _NO_TEXT.fullmatch(texts[index]):
            cut[index] = ids
    return cut
