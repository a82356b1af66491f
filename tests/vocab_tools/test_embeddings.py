"""Carried embedding rows, by hand and against numpy and scipy on the same matrices."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from tests.vocab_tools.tiny import make_tokenizer
from vocab_tools import VocabularyError, carry_embeddings
from vocab_tools.embeddings import carry_bias, mean_over_pieces
from vocab_tools.pieces import cut_tokens
from vocab_tools.read import read_tokenizer

RANDOM = np.random.default_rng(7)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_whatever_runs_before() -> None:
    RANDOM.bit_generator.state = START


def rows(count: int, width: int, *, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    spectrum = np.linspace(2.0, 0.1, width)
    return (RANDOM.standard_normal((count, width)) * spectrum * scale + offset).astype(np.float32)


def int32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_one_teacher_of_the_same_width_is_copied() -> None:
    matrix = rows(4, 3)
    carried = carry_embeddings({"t": matrix}, {"t": int32(2, -1, 0, 1)}, size=3, width=3, seed=0, priority=["t"])
    assert carried.dtype == np.float32
    np.testing.assert_array_equal(carried, matrix[[2, 3, 0]])


def test_half_precision_and_read_only_matrices_are_taken() -> None:
    matrix = rows(4, 3).astype(np.float16)
    matrix.setflags(write=False)
    carried = carry_embeddings({"t": matrix}, {"t": int32(0, 1, 2, 3)}, size=4, width=3, seed=0, priority=["t"])
    np.testing.assert_array_equal(carried, matrix.astype(np.float32))


def test_narrower_keeps_the_leading_singular_directions() -> None:
    matrix = rows(200, 12, offset=0.3)
    table = np.arange(200, dtype=np.int32)
    carried = carry_embeddings({"t": matrix}, {"t": table}, size=200, width=5, seed=0, priority=["t"])
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    expected = left[:, :5] * values[:5]
    np.testing.assert_allclose(carried @ carried.T, expected @ expected.T, atol=1e-3)
    np.testing.assert_allclose(np.abs(carried), np.abs(expected), atol=1e-3)


def test_wider_keeps_every_inner_product() -> None:
    matrix = rows(50, 6)
    table = np.arange(50, dtype=np.int32)
    carried = carry_embeddings({"t": matrix}, {"t": table}, size=50, width=16, seed=3, priority=["t"])
    np.testing.assert_allclose(carried @ carried.T, matrix @ matrix.T, atol=1e-4)


@pytest.mark.parametrize("width", [8, 5])
def test_a_rotated_scaled_and_shifted_teacher_comes_back_into_the_space_of_the_first(width: int) -> None:
    first = rows(300, 8)
    rotation, _ = np.linalg.qr(RANDOM.standard_normal((8, 8)))
    second = (first @ rotation * 3.0 + 2.0).astype(np.float32)
    maps = {"a": np.where(np.arange(300) < 200, np.arange(300), -1).astype(np.int32)}
    maps["b"] = np.where(np.arange(300) >= 100, np.arange(300), -1).astype(np.int32)
    both = carry_embeddings({"a": first, "b": second}, maps, size=300, width=width, seed=0, priority=["a", "b"])
    if width == 8:
        np.testing.assert_allclose(both, first, atol=1e-4)
    else:
        alone = carry_embeddings(
            {"a": first}, {"a": np.arange(300, dtype=np.int32)}, size=300, width=5, seed=0, priority=["a"]
        )
        kept = np.sum(both[200:] * alone[200:]) / np.sqrt(np.sum(both[200:] ** 2) * np.sum(alone[200:] ** 2))
        assert kept > 0.9


def test_the_rotation_is_the_orthogonal_procrustes_solution_of_scipy() -> None:
    first, second = rows(60, 4), rows(60, 4, offset=1.0)
    maps = {"a": np.where(np.arange(60) < 40, np.arange(60), -1).astype(np.int32), "b": np.arange(60, dtype=np.int32)}
    carried = carry_embeddings({"a": first, "b": second}, maps, size=60, width=4, seed=0, priority=["a", "b"])
    x, y = second[:40] - second[:40].mean(0), first[:40] - first[:40].mean(0)
    rotation, _ = orthogonal_procrustes(x, y)
    scale = np.linalg.norm(y) / np.linalg.norm(x)
    expected = (second[40:] - second[:40].mean(0)) @ rotation * scale + first[:40].mean(0)
    np.testing.assert_allclose(carried[40:], expected, atol=1e-4)
    np.testing.assert_array_equal(carried[:40], first[:40])


@pytest.mark.parametrize(("width_b", "width"), [(6, 6), (12, 6), (3, 6), (6, 4), (12, 16)])
def test_teachers_of_other_widths_fit_better_than_unaligned(width_b: int, width: int) -> None:
    meaning = rows(400, 3, scale=2.0)
    first = (meaning @ RANDOM.standard_normal((3, 6)) + 0.05 * rows(400, 6)).astype(np.float32)
    second = (meaning @ RANDOM.standard_normal((3, width_b)) + 0.05 * rows(400, width_b)).astype(np.float32)
    everywhere = np.arange(400, dtype=np.int32)
    only = np.where(everywhere < 300, everywhere, -1).astype(np.int32)
    true = carry_embeddings({"a": first}, {"a": everywhere}, size=400, width=width, seed=0, priority=["a"])
    both = carry_embeddings(
        {"a": first, "b": second}, {"a": only, "b": everywhere}, size=400, width=width, seed=0, priority=["a", "b"]
    )
    unaligned = carry_embeddings({"b": second}, {"b": everywhere}, size=400, width=width, seed=1, priority=["b"])

    def likeness(guess: np.ndarray) -> float:
        return float(np.sum(guess[300:] * true[300:]) / np.linalg.norm(guess[300:]) / np.linalg.norm(true[300:]))

    assert likeness(both) > max(0.75, likeness(unaligned))


def test_without_shared_tokens_the_clouds_have_one_centre_and_one_width() -> None:
    first, second = rows(500, 4), rows(500, 4, scale=5.0, offset=9.0)
    maps = {"a": np.arange(500, dtype=np.int32), "b": np.arange(500, 1000, dtype=np.int32)}
    carried = carry_embeddings({"a": first, "b": second}, maps, size=1000, width=4, seed=0, priority=["a", "b"])
    np.testing.assert_allclose(carried[500:].mean(0), first.mean(0), atol=1e-3)
    assert carried[500:].std() == pytest.approx(first.std(), rel=1e-3)


def test_unknown_rows_look_like_known_ones_and_depend_on_the_seed_alone() -> None:
    matrix = rows(3000, 4, offset=1.0) @ np.array(
        [[1, 0.8, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32
    )
    table = np.arange(3000, dtype=np.int32)
    drawn = [
        carry_embeddings({"t": matrix}, {"t": table}, size=9000, width=4, seed=seed, priority=["t"])
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0][3000:], drawn[2][3000:])
    np.testing.assert_allclose(drawn[0][3000:].mean(0), matrix.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn[0][3000:].T), np.cov(matrix.T), atol=0.4)


def test_nothing_known_at_all_starts_small() -> None:
    carried = carry_embeddings({"t": rows(3, 4)}, {"t": int32(-1, -1, -1)}, size=2000, width=4, seed=0, priority=["t"])
    assert carried.std() == pytest.approx(0.02, rel=0.05)


@given(st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_maps_and_matrices_may_differ_in_length(map_rows: int, matrix_rows: int) -> None:
    table = np.arange(map_rows, dtype=np.int32)
    matrix = rows(matrix_rows, 3)
    carried = carry_embeddings({"t": matrix}, {"t": table}, size=30, width=3, seed=0, priority=["t"])
    known = min(map_rows, matrix_rows)
    np.testing.assert_array_equal(carried[:known], matrix[:known])
    assert np.isfinite(carried).all()


def test_tokens_that_nobody_has_get_the_mean_of_their_pieces_moved_like_the_rest() -> None:
    matrix = rows(50, 6)
    table = np.arange(50, dtype=np.int32)
    pieces = {"t": {50: [3, 4], 51: [], 7: [1, 2]}}
    carried = carry_embeddings({"t": matrix}, {"t": table}, size=52, width=4, seed=0, priority=["t"], pieces=pieces)
    alone = carry_embeddings({"t": matrix}, {"t": table}, size=52, width=4, seed=0, priority=["t"])
    np.testing.assert_allclose(carried[50], carried[[3, 4]].mean(0), atol=1e-5)
    np.testing.assert_array_equal(carried[:50], alone[:50])


@pytest.mark.parametrize("family", ["wordpiece-cased", "unigram", "byte-bpe"])
def test_tokens_are_cut_as_their_teacher_cuts_text(tmp_path: Path, family: str) -> None:
    teacher = read_tokenizer(make_tokenizer(family, tmp_path / "t"))
    tokens = ["[MASK]", "▁lightning", "heaven", "<0xE4><0xB8>", "▁"]
    cut = cut_tokens(tokens, teacher)
    surfaces = ["".join(teacher.tokens[i] or "" for i in cut[place]).replace("##", "") for place in (1, 2)]
    assert [surface.lstrip("▁") for surface in surfaces] == ["lightning", "heaven"]
    assert not {0, 3} & set(cut)


def test_memory_stays_near_the_matrices() -> None:
    first, second = rows(40_000, 64), rows(40_000, 96)
    maps = {"a": np.arange(40_000, dtype=np.int32), "b": np.arange(20_000, 60_000, dtype=np.int32)}
    tracemalloc.start()
    carry_embeddings({"a": first, "b": second}, maps, size=70_000, width=64, seed=0, priority=["a", "b"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70_000 * 64 * 4 + 6 * 8192 * 96 * 8 + 70_000 * 60  # the result, a few blocks, a few index arrays


def test_mean_over_pieces() -> None:
    matrix = rows(5, 3)
    means = mean_over_pieces(matrix, [[0, 2], [4], [1, 1, 3]])
    np.testing.assert_allclose(means[0], matrix[[0, 2]].mean(0), atol=1e-6)
    np.testing.assert_allclose(means[1], matrix[4], atol=1e-6)
    np.testing.assert_allclose(means[2], matrix[[1, 1, 3]].mean(0), atol=1e-6)
    assert mean_over_pieces(matrix, []).shape == (0, 3)
    with pytest.raises(VocabularyError, match="token 1 has no piece"):
        mean_over_pieces(matrix, [[0], []])


def test_what_does_not_fit_is_said() -> None:
    matrix, table = rows(3, 2), int32(0, 1, 2)
    with pytest.raises(VocabularyError, match="priority must name each teacher once"):
        carry_embeddings({"t": matrix}, {"t": table}, size=3, width=2, seed=0, priority=[])
    with pytest.raises(VocabularyError, match="points to id 2, but size is 2"):
        carry_embeddings({"t": matrix}, {"t": table}, size=2, width=2, seed=0, priority=["t"])
    with pytest.raises(VocabularyError, match="1 axes"):
        carry_embeddings({"t": matrix[0]}, {"t": table}, size=3, width=2, seed=0, priority=["t"])
    with pytest.raises(VocabularyError, match="cannot be made"):
        carry_embeddings({"t": matrix}, {"t": table}, size=3, width=0, seed=0, priority=["t"])
    matrix[1, 0] = np.nan
    with pytest.raises(VocabularyError, match=r"row 1 .* not finite"):
        carry_embeddings({"t": matrix}, {"t": table}, size=3, width=2, seed=0, priority=["t"])


def test_the_bias_goes_where_its_row_went() -> None:
    bias = np.array([0.5, -1.0, 2.0, 7.0], dtype=np.float16)
    carried = carry_bias({"t": bias}, {"t": int32(2, -1, 0, 1)}, size=4, priority=["t"])
    assert carried.dtype == np.float32
    np.testing.assert_allclose(carried, [2.0, 7.0, 0.5, (2.0 + 7.0 + 0.5) / 3])  # nobody has the last token


def test_biases_of_several_teachers_agree_on_average_where_both_have_a_token() -> None:
    biases = {"a": np.array([1.0, 3.0]), "b": np.array([10.0, 12.0, 20.0])}
    maps = {"a": int32(0, 1), "b": int32(0, 1, 2)}
    carried = carry_bias(biases, maps, size=3, priority=["a", "b"])
    np.testing.assert_allclose(carried, [1.0, 3.0, 20.0 - 9.0])  # means 2 and 11 on the shared two
    apart = carry_bias(biases, {"a": int32(0, -1), "b": int32(-1, 1, 2)}, size=3, priority=["a", "b"])
    np.testing.assert_allclose(apart, [1.0, 1.0 - 4.0, 1.0 + 4.0])  # nothing shared: mean to mean


def test_a_token_that_is_cut_gets_the_mean_bias_of_its_pieces() -> None:
    pieces = {"t": {2: [0, 1], 0: [1, 1]}}
    carried = carry_bias({"t": np.array([1.0, 3.0])}, {"t": int32(0, 1)}, size=3, priority=["t"], pieces=pieces)
    np.testing.assert_allclose(carried, [1.0, 3.0, 2.0])
    nothing = carry_bias({"t": np.array([1.0])}, {"t": int32(-1)}, size=2, priority=["t"])
    np.testing.assert_array_equal(nothing, [0.0, 0.0])
