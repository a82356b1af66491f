"""A full check of a signal store: every byte against its receipt, every shard against the manifest and the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.errors import OrchError
from orchestrator.records import Array, Unit
from orchestrator.signals.manifest import SHARDS, is_table
from orchestrator.signals.rows import check_rows, repeats
from orchestrator.signals.tables import read_table
from orchestrator.storage import Place, matching

if TYPE_CHECKING:
    from orchestrator.signals.store import Store


def verify(store: Store, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Every problem as one sentence that names the file; `on_progress` gets (shards done, shards)."""
    problems: list[str] = []
    identities: dict[str, list[tuple[Array, Array]]] = {language: [] for language in store.languages}
    listed = store.listed_receipts
    for done, unit in enumerate(store.units, start=1):
        problems += _problems_of_shard(store, unit, listed, identities[unit.language])
        if on_progress is not None:
            on_progress(done, len(store.units))
    for language, found in identities.items():
        if found and repeats(*(np.concatenate(columns) for columns in zip(*found, strict=True))):
            problems.append(f"{store.folder} holds the same row of language '{language}' in two shards")
    return [*problems, *_strangers(store)]


def _problems_of_shard(
    store: Store, unit: Unit, listed: Mapping[int, str], identities: list[tuple[Array, Array]]
) -> Iterator[str]:
    """Problems of one shard; (row_id, copy) of a sound one are added to `identities`."""
    try:
        receipt = store.receipt(unit.index)
    except OrchError as error:
        yield str(error)
        return
    path = store.receipt_path(unit.index)
    if receipt is None:
        yield f"{path} is missing; run `orch precompute-teacher` again"
        return
    if listed.get(unit.index, receipt.checksum) != receipt.checksum:
        yield f"{path} is not the receipt that the manifest lists; run `orch precompute-teacher` again"
    tables: dict[str, Mapping[str, Array]] = {}
    for table, schema in store.schema.items():
        if table not in receipt.tables:
            yield f"{path} lists no table '{table}'; run `orch precompute-teacher` again"
            continue
        try:
            tables[table] = read_table(store.table_path(unit.index, table), schema, receipt.tables[table], anew=True)
        except OrchError as error:
            yield str(error)
    if len(tables) < len(store.schema):
        return
    try:
        counts = check_rows(tables, language=store.languages.index(unit.language), sizes=store.sizes)
    except OrchError as error:
        yield f"{path}: {error}"
        return
    if counts != (receipt.num_rows, receipt.num_tokens, receipt.num_masked):
        yield f"{path} does not count what its tables hold, which is {counts}"
    identities.append((tables["texts"]["row_id"].copy(), tables["texts"]["copy"].copy()))


def _strangers(store: Store) -> Iterator[str]:
    """Whatever lies among the shards and is neither a receipt nor a table of a unit.

    Until all shards of a widened store are there, it keeps the tables that larger ones replace.
    """
    known: set[Place] = set()
    for unit in store.units:
        receipt_path = store.receipt_path(unit.index)
        known |= {receipt_path, receipt_path.with_suffix("")}
        known |= {store.table_path(unit.index, table) for table in store.schema}
    for path in matching(store.folder / SHARDS, "**/*"):
        is_replaced = not store.finished and path.suffix == ".arrow" and path.parent in known and is_table(path.stem)
        if path not in known and not is_replaced:
            yield f"{path} belongs to no shard of this store; remove it"
