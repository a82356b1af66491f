"""The fingerprint of a store: stable, independent of the order of keys, and able to say what differs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.signals import Fingerprint

PARTS = {
    "teacher": {"weights": "ab12", "dtype": "bfloat16"},
    "corpus": {"max_length": 128, "packing": True, "masking": {"probability": 0.15, "copies": 1}},
    "plan": (4096, 1),
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
parts = st.dictionaries(st.text(min_size=1, max_size=3), json_values, max_size=4)


def test_the_digest_is_part_of_the_format() -> None:
    assert Fingerprint(PARTS).digest == "63684dc38d22137f"


@given(parts)
def test_json_and_back_and_other_orders_of_keys_keep_the_digest(found: dict[str, object]) -> None:
    fingerprint = Fingerprint(found)
    assert Fingerprint(json.loads(json.dumps(fingerprint.parts))).digest == fingerprint.digest
    assert Fingerprint(dict(reversed(found.items()))).digest == fingerprint.digest
    assert fingerprint.difference(Fingerprint(found)) == ""


@given(parts, parts)
def test_digests_are_equal_exactly_when_nothing_differs(left: dict[str, object], right: dict[str, object]) -> None:
    one, other = Fingerprint(left), Fingerprint(right)
    same = one.digest == other.digest
    assert same == (one.difference(other) == "") == (one.num_differences(other) == 0)
    assert one.num_differences(other) == other.num_differences(one)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"corpus": {**PARTS["corpus"], "max_length": 64}},
            "was made with corpus max_length 128, the configuration asks 64",
        ),
        (
            {"corpus": {"max_length": 128, "packing": True, "masking": {"probability": 0.3, "copies": 1}}},
            "was made with corpus masking probability 0.15, the configuration asks 0.3",
        ),
        ({"plan": (4096, 2)}, "was made with plan [4096,1], the configuration asks [4096,2]"),
        ({"seed": 3}, "was made without seed, the configuration asks 3"),
        (
            {"teacher": {"weights": "ab12"}},
            'was made with teacher dtype "bfloat16", the configuration asks no teacher dtype',
        ),
        (
            {"teacher": "x" * 100},
            'was made with teacher {"dtype":"bfloat16","weights":"ab12"}, the configuration asks "xxx',
        ),
    ],
)
def test_the_first_difference_as_a_sentence(changed: dict[str, object], sentence: str) -> None:
    found = Fingerprint(PARTS).difference(Fingerprint({**PARTS, **changed}))
    assert found.startswith(sentence)
    assert len(found) < 180


def test_numbers_that_no_json_has_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Fingerprint({"x": float("nan")})
