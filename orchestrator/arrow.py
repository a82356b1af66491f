"""Arrow files as a stranger may have written them: nothing in them is used before all of it is found to be right."""

from __future__ import annotations

import struct

import pyarrow as pa

_MAGIC = b"ARROW1\0\0"
#: Fields of Arrow's flatbuffers: `header` of a Message, `compression` of a RecordBatch.
_HEADER, _COMPRESSION = 2, 3


def read_batches(file: pa.Buffer, schema: pa.Schema) -> list[pa.RecordBatch]:
    """The record batches of an Arrow IPC file in memory (or mapped there), as views of it.

    Asked for in this order: the frame, the very schema, no compressed buffer (a few bytes of one may become any number
    in memory), and of every batch offsets, lengths, nulls and text (`validate(full=True)`).

    Raises:
        ValueError: the file is something else, or damaged; the text says how.
    """
    if file.size < 2 * len(_MAGIC) or file.slice(0, len(_MAGIC)).to_pybytes() != _MAGIC:
        raise ValueError("it is no Arrow file")
    try:
        num_batches = pa.ipc.open_file(pa.BufferReader(file)).num_record_batches  # what its footer says
        batches = _read(file.slice(len(_MAGIC)), schema)
    except (pa.ArrowException, OSError, EOFError, StopIteration, struct.error) as error:
        raise ValueError(str(error).strip() or "it ends too early") from error
    if len(batches) != num_batches:
        raise ValueError(f"{len(batches)} record batches where its footer says {num_batches}")
    return batches


def _read(stream: pa.Buffer, schema: pa.Schema) -> list[pa.RecordBatch]:
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(stream))
    first = messages.read_next_message()
    if first.type != "schema" or not pa.ipc.read_schema(first).equals(schema, check_metadata=True):
        raise ValueError("its columns are not those that are asked for")
    batches = []
    for message in messages:
        if message.type != "record batch" or _is_compressed(message.metadata):
            raise ValueError("it is compressed, or holds more than record batches")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        batches.append(batch)
    return batches


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether the flatbuffer of a record batch, whose frame Arrow has checked, names a codec."""
    data = metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", data, table)
        (size,) = struct.unpack_from("<H", data, table - back)
        place = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", data, table - back + place) if place < size else (0,)
        return table + offset if offset else 0

    (root,) = struct.unpack_from("<I", data)
    header = field(root, _HEADER)
    (batch,) = struct.unpack_from("<I", data, header)
    return field(header + batch, _COMPRESSION) != 0
