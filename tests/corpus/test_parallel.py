"""Wide tables of every kind, filtered, cleaned and cut, and what is said when they cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.corpus import ParallelSource
from orchestrator.corpus.parallel import read_parallel
from orchestrator.errors import DataError

ROWS = [
    {"id": 1, "en": 'a "quoted" one', "german": "eins", "split": "test"},
    {"id": 2, "en": "two", "german": "zwei", "split": "train"},
    {"id": 3, "en": "three", "german": "", "split": "test"},
    {"id": 4, "en": "four", "german": "vier", "split": "test"},
    {"id": 5, "en": None, "german": "fünf", "split": "test"},
    {"id": 6, "en": "six", "german": "sechs", "split": "dev"},
]


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        lines = ["\t".join(ROWS[0]), *("\t".join(str(v) if v is not None else "" for v in r.values()) for r in ROWS)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def source(path: Path, **options: object) -> ParallelSource:
    return ParallelSource.model_validate(
        {"name": "ours", "files": str(path), "columns": {"en": "en", "de": "german"}, **options}
    )


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".tsv"])
def test_rows_that_pass_and_have_text_on_both_sides(tmp_path: Path, suffix: str) -> None:
    found = read_parallel(source(write(tmp_path / f"table{suffix}"), where={"split": ["test", "dev"]}))
    assert found.name == "ours"
    assert found.texts == {"en": ['a "quoted" one', "four", "six"], "de": ["eins", "vier", "sechs"]}
    assert len(found) == 3


def test_a_filter_on_a_number(tmp_path: Path) -> None:
    assert read_parallel(source(write(tmp_path / "t.parquet"), where={"id": 4})).texts["en"] == ["four"]


def test_the_most_pairs_are_spread_over_the_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"en": [f"e{i}" for i in range(100)], "german": [f"d{i}" for i in range(100)]}), path)
    assert read_parallel(source(path, max_pairs=4)).texts["de"] == ["d0", "d25", "d50", "d75"]


def test_globs_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        pq.write_table(pa.table({"en": [name], "german": [name.upper()]}), tmp_path / f"{name}.parquet")
    assert read_parallel(source(tmp_path / "*.parquet")).texts["en"] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": {"en": "en", "de": "germn"}}, "no column 'germn'; did you mean 'german'?"),
        ({"where": {"split": "tst"}}, "no row of"),
        ({"files": "nowhere.parquet"}, "there is no file nowhere.parquet"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=r"parallel text 'ours'") as raised:
        read_parallel(source(write(tmp_path / "t.parquet"), **options))
    assert said in str(raised.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.docx"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01 not a table")
    with pytest.raises(DataError, match=name):
        read_parallel(source(tmp_path / name))


def by_key(folder: Path, files: dict[str, dict[str, list[object]]], **options: object) -> ParallelSource:
    """A source whose files have the columns `id` and what `files` says."""
    for name, columns in files.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return ParallelSource.model_validate(
        {
            "name": "ours",
            "files": [str(folder / f"{name}.parquet") for name in files],
            "key": "id",
            "columns": {"en": "en", "de": "de", "fi": "fi"},
            **options,
        }
    )


PIVOTED: dict[str, dict[str, list[object]]] = {
    "de": {
        "id": [3, 1, 2, 5, 6],
        "split": ["a", "a", "a", "a", "b"],
        "en": ["e3", "e1", "e2", "e5", "e6"],
        "de": ["d3", "d1", "d2", "d5", "d6"],
    },
    "fi": {"id": ["1", "2", "3", "4", "6"], "en": ["x1", "x2", "x3", "x4", "x6"], "fi": ["f1", "", "f3", "f4", "f6"]},
}


def test_files_are_joined_on_a_key_and_the_first_decides(tmp_path: Path) -> None:
    """A number joins the same number written as a word; row 2 has no Finnish, 5 no Finnish row, 6 another split."""
    found = read_parallel(by_key(tmp_path, PIVOTED, where={"split": "a"}))
    assert found.texts == {"en": ["e3", "e1"], "de": ["d3", "d1"], "fi": ["f3", "f1"]}


def test_a_join_keeps_few_rows_evenly_spread(tmp_path: Path) -> None:
    ids: list[object] = [*range(50)]
    files = {name: {"id": ids, name: [f"{name}{i}" for i in ids]} for name in ("en", "de", "fi")}
    assert read_parallel(by_key(tmp_path, files, max_pairs=5)).texts["fi"] == ["fi0", "fi10", "fi20", "fi30", "fi40"]


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"id": [1, 1], "fi": ["a", "b"]}, {}, "fi.parquet has 2 rows whose 'id' is 1; a key names one row"),
        ({"idd": [1], "fi": ["a"]}, {}, "fi.parquet has no column 'id'; did you mean 'idd'?"),
        ({"id": [1], "fin": ["a"]}, {}, "none of its files has a column 'fi'; did you mean 'fin'?"),
        ({"id": [1], "fi": ["a"]}, {"where": {"splitt": "a"}}, "none of its files has a column 'splitt'"),
        ({"id": [9], "fi": ["a"]}, {}, "no row of"),
    ],
)
def test_what_cannot_be_joined_is_said(
    tmp_path: Path, columns: dict[str, list[object]], options: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=r"parallel text 'ours'") as raised:
        read_parallel(by_key(tmp_path, PIVOTED | {"fi": columns}, **options))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
