"""Every kind of source gives the same texts, and everything wrong with one is a sentence that names the place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.corpus import TextSource
from orchestrator.corpus.read import read_texts, source_files
from orchestrator.errors import DataError

TEXTS = ["Alle Menschen sind frei.", "زبان  فارسی", "神 创造", "e\u0301 stays as it is", "one\u2028line"]
ROWS = [{"text": f" {text}\t", "lang": "xx" if number % 2 else "yy", "n": number} for number, text in enumerate(TEXTS)]
KEY = "corpus.languages.xx.train"


def texts_of(**options: object) -> list[str]:
    return list(read_texts(TextSource(**options), key=KEY))


def write(folder: Path, name: str) -> Path:
    path = folder / name
    lines = {
        ".txt": "".join(f"{row['text']}\r\n\n" for row in ROWS),
        ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS),
        ".json": "".join(json.dumps(row) + "\n" for row in ROWS),
    }
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([*ROWS, {"text": None, "lang": "xx", "n": 9}]), path, row_group_size=2)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines[Path(path.stem).suffix].encode()))
    else:
        path.write_bytes(lines[path.suffix].encode())
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_kind_gives_trimmed_texts_without_blanks(tmp_path: Path, name: str) -> None:
    path = str(write(tmp_path, name))
    assert texts_of(files=path) == TEXTS
    assert texts_of(files=path, max_texts=2) == TEXTS[:2]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffeins\nzwei".encode())
    assert texts_of(files=str(tmp_path / "a.txt")) == ["eins", "zwei"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_where_compares_values_as_they_are_written(tmp_path: Path, name: str) -> None:
    path = str(write(tmp_path, name))
    assert texts_of(files=path, where={"lang": "yy"}) == TEXTS[::2]
    assert texts_of(files=path, where={"lang": ["yy"], "n": [0, 1, 4]}) == [TEXTS[0], TEXTS[4]]
    assert texts_of(files=path, column="lang", where={"n": 3}) == ["xx"]
    assert texts_of(files=path, where={"lang": "zz"}) == []


def test_parquet_columns_may_be_dictionaries_or_large(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(TEXTS).dictionary_encode(),
            "large": pa.array(TEXTS, pa.large_string()),
            "good": [True, None, False, True, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert texts_of(files=path) == texts_of(files=path, column="large") == TEXTS
    assert texts_of(files=path, where={"good": True}) == [TEXTS[0], TEXTS[3]]


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "[x].txt").write_text("brackets")
    monkeypatch.chdir(tmp_path)
    assert texts_of(files=["*/*.txt", "[ab].txt"]) == ["sub/c", "a", "b"]
    assert sorted(texts_of(files=f"{tmp_path}/**/*.txt")) == ["a", "b", "brackets", "sub/c"]
    assert texts_of(files="[x].txt") == ["brackets"]
    assert source_files(TextSource(files="b.txt"), key=KEY) == [Path("b.txt")]


def test_a_data_set_is_streamed_like_a_file(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl")
    options = {"dataset": str(tmp_path), "where": {"lang": "yy"}}
    assert texts_of(**options) == TEXTS[::2]
    assert texts_of(**options, max_texts=1) == TEXTS[:1]
    with pytest.raises(DataError, match=r"no column 'body'; columns there: lang, n, text"):
        texts_of(dataset=str(tmp_path), column="body")
    with pytest.raises(DataError, match=rf"{KEY}: data set '{tmp_path}' cannot be read \(.*\); check its name"):
        texts_of(dataset=str(tmp_path), dataset_split="test")


def broken(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"fine\nM\xfcnchen\n", {}, r"a\.txt, line 2 is not UTF-8; convert the file"),
        ("a.jsonl", b'{"text": "M\xfcnchen"}\n', {}, r"a\.jsonl, line 1 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', {}, r"a\.jsonl, line 2 is not JSON \(.*\); one object per line"),
        ("a.json", b'[\n{"text": "a"}]', {}, r"a\.json, line 1 is not JSON"),
        ("a.jsonl", b'["text"]\n', {}, r"a\.jsonl, line 1 is a JSON list; one object per line"),
        ("a.jsonl", b'{"b": 1, "a": 2}\n', {}, r"line 1: there is no column 'text'; columns there: a, b"),
        ("a.jsonl", b'{"text": "a"}\n', {"where": {"lang": "x"}}, r"no column 'lang'; columns there: text"),
        ("a.jsonl", b'{"text": 7}\n', {}, r"line 1: column 'text' holds int, text is expected"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, r"line 1: the text holds half of a surrogate pair"),
        ("a.txt", b"text", {"where": {"lang": "x"}}, r"a\.txt is plain text and has no columns for 'where'"),
        ("a.txt.gz", b"not gzip", {}, r"a\.txt\.gz cannot be read \(.*\); check the file"),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], {}, r"a\.txt\.gz cannot be read \(.*\); check the file"),
        ("a.parquet", b"PAR1 is not enough PAR1", {}, r"a\.parquet is not a whole Parquet file \(.*\); fetch"),
        ("a.parquet", b"", {}, r"a\.parquet is not a whole Parquet file \(.*\); fetch"),
        ("a.csv", b"text\n", {}, r"a\.csv is of an unknown kind; known are \.txt, \.jsonl, \.json"),
        ("a.parquet.gz", b"", {}, r"a\.parquet\.gz is of an unknown kind"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, name: str, content: bytes, options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        texts_of(files=broken(tmp_path, name, content), **options)
    assert str(raised.value).startswith(f"{KEY}: {tmp_path}")
    assert "\n" not in str(raised.value)


def test_wrong_parquet_columns_are_named(tmp_path: Path) -> None:
    path = str(write(tmp_path, "a.parquet"))
    with pytest.raises(DataError, match=r"no column 'body'; columns there: lang, n, text"):
        texts_of(files=path, column="body")
    with pytest.raises(DataError, match=r"column 'n' holds int64, text is expected"):
        texts_of(files=path, column="n")
    latin = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xfc"))
    pq.write_table(pa.table({"text": latin}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: rows 0 to 0 hold text that is not UTF-8"):
        texts_of(files=str(tmp_path / "b.parquet"))


def test_a_cut_parquet_page_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{KEY}: {path}"):
        texts_of(files=str(path))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt does not exist, correct the path"):
        texts_of(files=str(tmp_path / "gone.txt"))
    with pytest.raises(DataError, match=r"no file matches '.*\*\.txt' \(looked from .*\)"):
        texts_of(files=str(tmp_path / "*.txt"))
    with pytest.raises(DataError, match=r"is a folder, name its files or a glob"):
        texts_of(files=str(tmp_path))
