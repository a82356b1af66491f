"""Hidden states through the codecs and back: error bounds, ragged widths, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from orchestrator.errors import StoreError
from orchestrator.signals import BLOCK, decode_hidden, encode_hidden
from orchestrator.signals.codecs import Float32

matrices = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=150),
    elements=st.floats(-8e6, 8e6, width=32),
    fill=st.sampled_from([0.0, 1e-7, -3.5, 6e4]),
)


def reference_int8(values: Float32) -> tuple[np.ndarray, np.ndarray]:
    """The codec value by value, as its description reads."""
    codes = np.zeros(values.shape, np.int8)
    scales = np.zeros((len(values), -(-values.shape[1] // BLOCK)), np.float16)
    for row, line in enumerate(values):
        for block in range(scales.shape[1]):
            part = line[block * BLOCK : (block + 1) * BLOCK]
            largest = np.abs(part).max()
            scale = np.float16(largest / np.float32(127))
            if np.float32(scale) * np.float32(127) < largest:
                scale = np.nextafter(scale, np.float16(np.inf))
            scales[row, block] = scale
            if scale > 0:
                codes[row, block * BLOCK : block * BLOCK + len(part)] = np.rint(part * (1 / np.float32(scale)))
    return codes, scales


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_int8_is_right_to_half_a_scale_and_never_clips(values: Float32) -> None:
    columns = encode_hidden(values, "int8")
    codes, scales = reference_int8(values)
    assert np.array_equal(columns["values"], codes)
    assert np.array_equal(columns["scales"], scales)
    decoded = decode_hidden(columns, "int8")
    bound = np.repeat(scales.astype(np.float64), BLOCK, axis=1)[:, : values.shape[1]] * 0.5001
    assert decoded.dtype == np.float32
    assert (np.abs(decoded.astype(np.float64) - values) <= bound).all()
    assert columns["values"].min() >= -127


@given(matrices.map(lambda values: values / np.float32(128)))  # below 65 504
@settings(max_examples=30, deadline=None)
def test_fp16_is_the_nearest_half(values: Float32) -> None:
    columns = encode_hidden(values, "fp16")
    assert np.array_equal(columns["values"], values.astype(np.float16))
    assert np.array_equal(decode_hidden(columns, "fp16"), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("width", "num_scales"), [(1, 1), (63, 1), (64, 1), (65, 2), (384, 6), (768, 12)])
def test_the_last_block_is_shorter_and_nothing_is_padded(width: int, num_scales: int) -> None:
    columns = encode_hidden(np.ones((3, width), np.float32), "int8")
    assert columns["values"].shape == (3, width)
    assert columns["scales"].shape == (3, num_scales)
    assert (columns["values"].dtype, columns["scales"].dtype) == (np.int8, np.float16)
    assert all(column.flags.c_contiguous for column in columns.values())


def test_rows_of_the_columns_decode_as_rows_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(1300, 100)).astype(np.float32)  # more than two chunks
    columns = encode_hidden(values, "int8")
    rows = np.array([1299, 3, 3, 512])
    some = {name: column[rows] for name, column in columns.items()}
    assert np.array_equal(decode_hidden(some, "int8"), decode_hidden(columns, "int8")[rows])
    assert np.array_equal(encode_hidden(values[rows], "int8")["values"], some["values"])


def test_outlier_dimensions_spoil_only_their_own_block() -> None:
    """Transformers have a few dimensions that are a hundred times larger than the others."""
    values = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)
    values[:, 70] *= 100
    decoded = decode_hidden(encode_hidden(values, "int8"), "int8")
    cosine = (decoded * values).sum(1) / np.linalg.norm(decoded, axis=1) / np.linalg.norm(values, axis=1)
    assert cosine.min() > 0.9995
    assert np.abs(decoded - values)[:, 128:].max() < 0.03


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_zero_and_no_rows(codec: str) -> None:
    for rows in (0, 2):
        values = np.zeros((rows, 70), np.float32)
        assert np.array_equal(decode_hidden(encode_hidden(values, codec), codec), values)


def test_float16_and_strided_input() -> None:
    values = np.random.default_rng(0).normal(size=(20, 140)).astype(np.float16)[::2, ::2]
    for codec in ("fp16", "int8"):
        exact = encode_hidden(np.ascontiguousarray(values, np.float32), codec)
        for name, column in encode_hidden(values, codec).items():
            assert np.array_equal(column, exact[name])
            assert column.flags.c_contiguous


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 9e6])
def test_what_cannot_be_stored_is_refused_by_token(codec: str, bad: float) -> None:
    values = np.zeros((1000, 70), np.float32)
    values[777, 69] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StoreError, match="hidden state of token 777 holds a value that is not finite or above"):
            encode_hidden(values, codec)


def test_values_beyond_float16_fit_the_int8_codec() -> None:
    values = np.full((1, 64), 1e6, np.float32)
    with pytest.raises(StoreError, match="above 65 504"):
        encode_hidden(values, "fp16")
    assert np.allclose(decode_hidden(encode_hidden(values, "int8"), "int8"), 1e6, rtol=1e-2)
