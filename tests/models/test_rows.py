"""Whether rows of one width can start a model of another."""

from __future__ import annotations

import pytest

from orchestrator.errors import ConfigError
from orchestrator.models.rows import check_row_widths


@pytest.mark.parametrize("how", ["random", "teacher", "mean"])
def test_most_ways_take_any_width(how: str) -> None:
    check_row_widths(how, own=16, widths={"a": 8, "b": 16, "c": 32})


def test_copies_need_the_same_and_svd_more() -> None:
    check_row_widths("copy", own=16, widths={"a": 16})
    check_row_widths("svd", own=16, widths={"a": 17, "b": 32})
    with pytest.raises(ConfigError, match=r"rows of 32 values of 'b' cannot be copied .* hidden_size 16; .* teacher"):
        check_row_widths("copy", own=16, widths={"a": 16, "b": 32})
    for width in (8, 16):
        with pytest.raises(ConfigError, match=rf"svd cuts rows down, but those of 'a' have {width} values"):
            check_row_widths("svd", own=16, widths={"a": width})
