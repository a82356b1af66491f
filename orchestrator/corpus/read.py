"""Stream the texts of one source: text files, JSON lines, Parquet, or a data set of the Hugging Face hub.

A text is trimmed of white space and otherwise kept as it is; blank ones are skipped. Whatever is wrong with a source
is a DataError that names the key of the configuration and the file, with the line or row where there is one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from orchestrator.config.corpus import TextSource
from orchestrator.errors import DataError, OrchError

_BATCH_ROWS = 4096
_LONGEST_LINE = 64 << 20


def source_files(source: TextSource, *, key: str) -> list[Path]:
    """The files of `source` in the order they are read: as listed, each glob sorted; none for a data set of the hub.

    Raises DataError when a file is missing, a glob matches nothing, or the kind of a file is unknown.
    """
    paths: list[Path] = []
    for pattern in source.files:
        path = Path(pattern).expanduser()
        if path.exists() or not any(sign in pattern for sign in "*?["):
            paths.append(path)
            continue
        base = Path(path.anchor)
        found = sorted(match for match in base.glob(str(path.relative_to(base))) if match.is_file())
        if not found:
            raise DataError(f"{key}: no file matches '{pattern}' (looked from {Path.cwd()}); correct the pattern")
        paths += found
    for path in paths:
        if not path.is_file():
            what = "is a folder, name its files or a glob" if path.is_dir() else "does not exist, correct the path"
            raise DataError(f"{key}: {path} {what} (looked from {Path.cwd()})")
        _reader_of(path, key)
    return paths


def read_texts(source: TextSource, *, key: str) -> Iterator[str]:
    """Every text of `source` in order, at most `max_texts`; `key` is where the configuration names it, for messages."""
    if source.dataset is not None:
        texts = _hub_texts(source, key)
    else:
        texts = (text for path in source_files(source, key=key) for text in _file_texts(path, source, key))
    return islice(filter(None, map(str.strip, texts)), source.max_texts)


def _file_texts(path: Path, source: TextSource, key: str) -> Iterator[str]:
    try:
        yield from _reader_of(path, key)(path, source, key)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{key}: {path} cannot be read ({reason}); check the file and its rights") from error


_Reader = Callable[[Path, TextSource, str], Iterator[str]]


def _reader_of(path: Path, key: str) -> _Reader:
    readers: dict[str, _Reader] = {
        ".txt": _text_lines,
        ".json": _json_lines,
        ".jsonl": _json_lines,
        ".parquet": _parquet_texts,
    }
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    reader = readers.get(suffix)
    if reader is None or (reader is _parquet_texts and path.suffix.lower() == ".gz"):
        raise DataError(f"{key}: {path} is of an unknown kind; known are .txt, .jsonl, .json (also .gz) and .parquet")
    return reader


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
            if len(line) > _LONGEST_LINE:
                raise DataError(
                    f"{path}, line {number} is longer than {_LONGEST_LINE >> 20} MB; one text on each line is expected"
                )
            # a byte-order mark is an artefact of some editors, not text
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _text_lines(path: Path, source: TextSource, key: str) -> Iterator[str]:
    if source.where:
        raise DataError(f"{key}: {path} is plain text and has no columns for 'where'; use JSON lines or Parquet")
    for number, line in _lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{key}: {path}, line {number} is not UTF-8; convert the file to UTF-8") from None


def _json_lines(path: Path, source: TextSource, key: str) -> Iterator[str]:
    for number, line in _lines(path):
        if line.isspace():
            continue
        place = f"{key}: {path}, line {number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            raise DataError(f"{place} is not UTF-8; convert the file to UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON ({error}); one object per line is expected") from None
        if not isinstance(row, dict):
            raise DataError(f"{place} is a JSON {type(row).__name__}; one object per line is expected")
        yield from _row_text(row, source, place)


def _row_text(row: Mapping[str, object], source: TextSource, place: str) -> Iterator[str]:
    """The text of one row of a table, if it has one and `where` lets it through."""
    _require_columns(source, set(row), place)
    if any(str(row[column]) not in wanted for column, wanted in source.where.items()):
        return
    text = row[source.column]
    if text is None:
        return
    if not isinstance(text, str):
        raise DataError(f"{place}: column '{source.column}' holds {type(text).__name__}, text is expected")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: the text holds half of a surrogate pair, which is not Unicode text") from None
    yield text


def _require_columns(source: TextSource, there: set[str], place: str) -> None:
    for column in (source.column, *source.where):
        if column not in there:
            raise DataError(f"{place}: there is no column '{column}'; columns there: {', '.join(sorted(there))}")


def _parquet_texts(path: Path, source: TextSource, key: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = f"{key}: {path}"
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _require_columns(source, set(file.schema_arrow.names), place)
            kind = file.schema_arrow.field(source.column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise DataError(f"{place}: column '{source.column}' holds {kind}, text is expected")
            columns = list(dict.fromkeys((source.column, *source.where)))
            row = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                kept = batch
                for column, wanted in source.where.items():
                    kept = kept.filter(_is_wanted(kept.column(column), wanted))
                try:
                    texts = kept.column(source.column).to_pylist()
                except UnicodeDecodeError:
                    rows = f"rows {row} to {row + batch.num_rows - 1}"
                    raise DataError(f"{place}: {rows} hold text that is not UTF-8; write the file anew") from None
                yield from (text for text in texts if text is not None)
                row += batch.num_rows
    except pa.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{place} is not a whole Parquet file ({reason}); fetch or write it anew") from error


def _is_wanted(column: object, wanted: tuple[str, ...]) -> object:
    """Arrow booleans: which values of an Arrow array, written as Python writes them, are among `wanted`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(column, null_encoding="encode")
    among = pa.array([str(value) in wanted for value in encoded.dictionary.to_pylist()], pa.bool_())
    return among.take(encoded.indices)


def _hub_texts(source: TextSource, key: str) -> Iterator[str]:
    import datasets  # a second to import, and only needed here

    place = f"{key}: data set '{source.dataset}'"
    try:
        rows = datasets.load_dataset(
            source.dataset, source.dataset_config, split=source.dataset_split, revision=source.revision, streaming=True
        )
        if rows.column_names is not None:
            _require_columns(source, set(rows.column_names), place)
            rows = rows.select_columns(list(dict.fromkeys((source.column, *source.where))))
        for number, row in enumerate(rows):
            yield from _row_text(row, source, f"{place}, row {number}")
    except OrchError:
        raise
    except Exception as error:  # the library and the network below it raise nearly everything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{place} cannot be read ({reason}); check its name, configuration, split and the network"
        ) from error
