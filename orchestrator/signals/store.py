"""A signal store: one folder of immutable shards of what one teacher said, each complete once its receipt is there.

    <teacher>-<digest>/manifest.json          what it was made from, what it holds, its units; at the end the receipts
                       shards/NNNNNN.json     the receipt of a shard, written last
                       shards/NNNNNN/*.arrow  its tables

A unit of work makes one shard. Running it twice gives the same bytes, so every row is there exactly once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Self, cast

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from orchestrator import __version__
from orchestrator.errors import OrchError, StoreError
from orchestrator.records import Array, HiddenCodec, SignalRequest, Tables, Unit
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.manifest import (
    MANIFEST,
    SHARDS,
    FileEntry,
    Manifest,
    Receipt,
    is_table,
    naming,
    read_receipt,
    widened,
    with_request,
)
from orchestrator.signals.rows import Counts, check_rows
from orchestrator.signals.schema import ROW_TABLES, Schema, TeacherSizes, table_columns
from orchestrator.signals.tables import check_columns, read_table, write_table
from orchestrator.signals.verify import verify
from orchestrator.storage import (
    FileState,
    Place,
    RemotePath,
    at_once,
    file_state,
    listed,
    make_folder,
    remove_temporaries,
)

_PRECOMPUTE = "run `orch precompute-teacher`"
_READ_AHEAD = 1024  # receipts, fewer than are kept
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{16})$")
_VERSIONS = {"orch": __version__, "pyarrow": pa.__version__}

_log = logging.getLogger(__name__)


class Store:
    """An open store. Any number of processes may read it, or write different units of it, at the same time."""

    def __init__(self, folder: Place, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._checked: dict[str, set[str]] = {}  # checksum of a receipt -> tables that belong together
        self._units = {unit.index: unit for unit in manifest.units}
        #: Receipts of an object store that were read: their tables stay, so that reading them again asks for nothing.
        self._seen: dict[int, Receipt] = {}
        #: table -> column -> (dtype, list size) of every shard
        self.schema: Schema = table_columns(manifest.request, manifest.codec, manifest.sizes)

    @classmethod
    def create(
        cls,
        folder: Place,
        *,
        teacher: str,
        fingerprint: Fingerprint,
        request: SignalRequest,
        codec: HiddenCodec,
        sizes: TeacherSizes | None,
        languages: list[str],
        units: list[Unit],
    ) -> Self:
        """Make the store in `folder`, or open it and widen its request by signals that it does not hold yet.

        `sizes`: of the teacher's model, None for a tokenizer alone. A store that is there keeps its own units, which
        must cover the same texts. What killed writers left behind is removed, so nobody may be writing. Raises
        StoreError when the store was made from something else.
        """
        with naming(folder / MANIFEST, problem="cannot be made", cure="this is a fault of the plan"):
            asked = Manifest(
                teacher=teacher,
                digest=fingerprint.digest,
                fingerprint=cast(dict[str, JsonValue], fingerprint.parts),  # plain since it was made
                request=SignalRequest() | request,
                codec=codec,
                sizes=sizes,
                languages=tuple(languages),
                units=tuple(units),
            )
        make_folder(folder / SHARDS)
        remove_temporaries(folder)
        if not (folder / MANIFEST).exists():
            return cls(folder, _saved(folder, asked))
        stored = cls.open(folder)._manifest
        wide = widened(stored, asked, folder)
        return cls(folder, stored if wide == stored else _saved(folder, wide))

    @classmethod
    def open(cls, folder: Place) -> Self:
        """The store in `folder`; StoreError when there is none, or when its manifest was damaged or altered."""
        path = folder / MANIFEST
        if not path.exists():
            raise StoreError(f"there is no signal store in {folder} ({MANIFEST} is missing); {_PRECOMPUTE}")
        manifest = Manifest.read(path)
        named = _DIGEST_IN_NAME.search(folder.name)
        if named is not None and named[1] != manifest.digest:
            raise StoreError(
                f"{path} was altered or is of another store: its fingerprint is {manifest.digest}, its folder"
                f" {folder.name}; move the folder away and {_PRECOMPUTE} again"
            )
        return cls(folder, manifest)

    @property
    def teacher(self) -> str:
        """The name of the teacher whose signals these are."""
        return self._manifest.teacher

    @property
    def fingerprint(self) -> Fingerprint:
        """What the signals were made from."""
        return Fingerprint(self._manifest.fingerprint)

    @property
    def request(self) -> SignalRequest:
        """What every complete shard holds."""
        return self._manifest.request

    @property
    def codec(self) -> HiddenCodec:
        """How hidden states are stored."""
        return self._manifest.codec

    @property
    def sizes(self) -> TeacherSizes | None:
        """Of the teacher's model; None where it is a tokenizer alone."""
        return self._manifest.sizes

    @property
    def languages(self) -> list[str]:
        """The names behind the numbers in column `language`."""
        return list(self._manifest.languages)

    @property
    def units(self) -> list[Unit]:
        """Every unit of work, one a shard."""
        return list(self._manifest.units)

    @property
    def finished(self) -> bool:
        """Whether `finish` was called with every shard there."""
        return self._manifest.receipts.keys() == self._units.keys()

    @property
    def listed_receipts(self) -> dict[int, str]:
        """The checksums of the receipts when `finish` was called last; empty before."""
        return dict(self._manifest.receipts)

    def widened(self, request: SignalRequest) -> Self:
        """This store as it would be if it held `request` too; nothing is written. To see what would be missing."""
        return type(self)(self.folder, with_request(self._manifest, request))

    def missing(self) -> list[Unit]:
        """The units whose shard is not there, lacks a table, or has a receipt or file that cannot be right."""
        lacking = self.lacking_by_shard()
        return [unit for unit in self._manifest.units if unit.index in lacking]

    def lacking_by_shard(self) -> dict[int, list[str]]:
        """What is `lacking` of every shard that is not complete, by its index."""
        with listed(self.folder / SHARDS):
            found = {unit.index: self.lacking(unit) for unit in self._read_ahead()}
        return {index: tables for index, tables in found.items() if tables}

    def lacking(self, unit: Unit) -> list[str]:
        """The tables of the unit's shard that are yet to be written, in the order of the schema."""
        there = self._intact(unit)
        return [table for table in self.schema if table not in there]

    def write(self, unit: Unit, tables: Tables, *, only: Collection[str] | None = None) -> Receipt:
        """Write those tables of the unit's shard that are not there, then its receipt, which is returned.

        `tables` holds `texts`, `tokens`, `masked` and whatever is `lacking`, as `schema` says; of what is there already
        only those three are looked at. `only`: which of those that are lacking to write; None is all. Raises StoreError
        when the tables do not fit format 1, each other, or the rows that are there; StorageError when the disk refuses.
        """
        if self._units.get(unit.index) != unit:
            raise StoreError(f"{unit} is not a unit of the store {self.folder}; plan again")
        entries = {table: entry for table, entry in self._intact(unit).items() if table in self.schema}
        wanted = [table for table in self.schema if table not in entries and (only is None or table in only)]
        self._check_tables(unit, tables, wanted, entries)
        counts = check_rows(tables, language=self.languages.index(unit.language), sizes=self.sizes)
        for table in wanted:
            entries[table] = write_table(self.table_path(unit.index, table), tables[table], self.schema[table])
        receipt = self.receipt(unit.index) if not wanted else None
        if receipt is None:
            receipt = Receipt(
                digest=self._manifest.digest,
                unit=unit,
                num_rows=counts.rows,
                num_tokens=counts.tokens,
                num_masked=counts.masked,
                tables=dict(sorted(entries.items())),
                versions=_VERSIONS,
            ).sealed()
            receipt.write(self.receipt_path(unit.index))
        return receipt

    def finish(self) -> None:
        """List every receipt in the manifest, and remove tables that larger ones of the same signal replaced.

        Raises StoreError when a shard is missing.
        """
        missing = self.missing()
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(self._units)} shards of {self.folder} are missing, the first is shard"
                f" {missing[0].index}; {_PRECOMPUTE} again"
            )
        with listed(self.folder / SHARDS):
            replaced = [
                path
                for index in self._units
                for path in self.receipt_path(index).with_suffix("").glob("*.arrow")
                if path.stem not in self.schema and is_table(path.stem)
            ]
        for path in replaced:
            path.unlink()
        checksums = {index: receipt.checksum for index, receipt in self.receipts().items()}
        self._manifest = _saved(self.folder, self._manifest.model_copy(update={"receipts": checksums}))

    def receipt(self, index: int) -> Receipt | None:
        """The receipt of shard `index`, None where there is none; StoreError when it is damaged or of another unit."""
        unit = self._units.get(index)
        if unit is None:
            raise StoreError(f"the store {self.folder} has no shard {index}")
        state = file_state(self.receipt_path(index))
        if state is None:
            return None
        receipt = read_receipt(state)
        with naming(state.path):
            if receipt.digest != self._manifest.digest or receipt.unit != unit:
                raise ValueError(f"it is of {receipt.unit} in store {receipt.digest}")
        return receipt

    def receipts(self) -> dict[int, Receipt]:
        """Every receipt that is there, by the index of its shard; StoreError names one that is damaged."""
        with listed(self.folder / SHARDS):
            found = {unit.index: self.receipt(unit.index) for unit in self._read_ahead()}
        return {index: receipt for index, receipt in found.items() if receipt is not None}

    def counts(self) -> dict[str, Counts]:
        """Rows, tokens and masked positions of each language, over the shards that are there."""
        totals = dict.fromkeys(self.languages, Counts(0, 0, 0))
        for receipt in self.receipts().values():
            rows, tokens, masked = totals[receipt.unit.language]
            totals[receipt.unit.language] = Counts(
                rows + receipt.num_rows, tokens + receipt.num_tokens, masked + receipt.num_masked
            )
        return totals

    def shard(self, index: int, tables: Iterable[str] | None = None) -> Tables:
        """The tables of shard `index`, or only those named: read-only numpy views of memory-mapped files.

        Sizes and schemas are checked each time, hashes and whether the tables belong together at the first use in a
        process. Raises StoreError that names the file which is missing, damaged or does not fit.
        """
        names = list(self.schema if tables is None else tables)
        receipt = self._seen.get(index)
        if receipt is None or not set(names) <= receipt.tables.keys():
            receipt = self.receipt(index)
        if receipt is None:
            raise StoreError(f"shard {index} of {self.folder} is not there; {_PRECOMPUTE} again")
        if isinstance(self.folder, RemotePath):
            self._seen[index] = receipt
        for table in names:
            if table not in self.schema or table not in receipt.tables:
                raise StoreError(f"shard {index} of {self.folder} does not hold '{table}'; {_PRECOMPUTE} again")
        self._check_once(receipt, names)
        return self._tables(receipt, names)

    def _tables(self, receipt: Receipt, names: Iterable[str]) -> dict[str, Mapping[str, Array]]:
        index = receipt.unit.index
        return {
            name: read_table(self.table_path(index, name), self.schema[name], receipt.tables[name]) for name in names
        }

    def _check_once(self, receipt: Receipt, names: Iterable[str]) -> None:
        """`check_rows` for tables of this version of a shard that were not looked at yet."""
        seen = self._checked.setdefault(receipt.checksum, set())
        if seen.issuperset(names):
            return
        path = self.receipt_path(receipt.unit.index)
        wanted = [*ROW_TABLES, *(name for name in names if name not in ROW_TABLES and name not in seen)]
        for name in wanted:
            if name not in receipt.tables:
                raise StoreError(f"{path} lists no table '{name}'; remove it and {_PRECOMPUTE} again")
        tables = self._tables(receipt, wanted)
        try:
            counts = check_rows(tables, language=self.languages.index(receipt.unit.language), sizes=self.sizes)
        except StoreError as error:
            raise StoreError(f"{path}: {error}; remove it and {_PRECOMPUTE} again") from error
        if counts != (receipt.num_rows, receipt.num_tokens, receipt.num_masked):
            raise StoreError(f"{path} does not count what its tables hold; remove it and {_PRECOMPUTE} again")
        seen.update(wanted)

    def verify(self, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Every problem of the store as one sentence; reads all of it. `on_progress` gets (shards done, shards)."""
        return verify(self, on_progress)

    def receipt_path(self, index: int) -> Place:
        """Where the receipt of shard `index` lies."""
        return self.folder / SHARDS / f"{index:06d}.json"

    def table_path(self, index: int, table: str) -> Place:
        """Where a table of shard `index` lies."""
        return self.folder / SHARDS / f"{index:06d}" / f"{table}.arrow"

    def _read_ahead(self) -> Iterator[Unit]:
        """All units, in a block of `listed`; of an object store, many receipts are read at once before their units."""
        units = self._manifest.units
        for first in range(0, len(units), _READ_AHEAD):
            ahead = units[first : first + _READ_AHEAD]
            if isinstance(self.folder, RemotePath):
                states = [file_state(self.receipt_path(unit.index)) for unit in ahead]
                at_once(_try_receipt, [state for state in states if state is not None])
            yield from ahead

    def _intact(self, unit: Unit) -> dict[str, FileEntry]:
        """What the unit's receipt lists, without files that are missing or of another size."""
        try:
            receipt = self.receipt(unit.index)
        except StoreError as error:
            _log.warning("shard %d is made anew: %s", unit.index, error)
            return {}
        entries = receipt.tables if receipt is not None else {}
        states = {table: file_state(self.table_path(unit.index, table)) for table in entries}
        return {
            table: entries[table]
            for table, state in states.items()
            if state is not None and state.num_bytes == entries[table].num_bytes
        }

    def _check_tables(self, unit: Unit, tables: Tables, wanted: list[str], entries: dict[str, FileEntry]) -> None:
        """What is to be written has the columns of format 1, and belongs to the very rows that are stored."""
        for table in dict.fromkeys([*ROW_TABLES, *wanted]):
            if table not in tables:
                raise StoreError(f"unit {unit.index} of {self.folder} was handed over without table '{table}'")
        for table in wanted:
            check_columns(tables[table], self.schema[table], table=table)
        for table in ROW_TABLES.keys() & entries.keys():
            path = self.table_path(unit.index, table)
            stored = read_table(path, self.schema[table], entries[table])
            if any(not np.array_equal(stored[name], tables[table][name]) for name in ROW_TABLES[table]):
                raise StoreError(f"the rows of unit {unit.index} are not those in {path}; was the corpus changed?")


def _try_receipt(state: FileState) -> None:
    with suppress(OrchError):  # is raised when it is wanted
        read_receipt(state)


def _saved(folder: Place, manifest: Manifest) -> Manifest:
    sealed = manifest.sealed()
    sealed.write(folder / MANIFEST)
    return sealed
