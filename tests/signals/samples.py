"""Made-up shards for the tests of the store: small, of every table, and a pure function of their arguments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.records import Array, HiddenCodec, SignalRequest, Unit
from orchestrator.signals import Fingerprint, Store, encode_hidden, hidden_table, logsumexp_column, store_folder

LANGUAGES = ["de", "en"]
REQUEST = SignalRequest(top_k=4, temperatures=(2.0,), hidden_layers=(0, 3))
FINGERPRINT = Fingerprint({"weights": "ab" * 16, "corpus": {"max_length": 128, "hash": "cd" * 16}, "top_k": 4})
WIDTH = 96

Shard = dict[str, dict[str, Array]]


def units(texts: int = 10, per_shard: int = 5, teacher: str = "bert") -> list[Unit]:
    """Consecutive units over `texts` texts of each language."""
    plan = [(language, first) for language in LANGUAGES for first in range(0, texts, per_shard)]
    return [Unit(teacher, index, language, first, per_shard) for index, (language, first) in enumerate(plan)]


def make_tables(
    unit: Unit,
    request: SignalRequest = REQUEST,
    codec: HiddenCodec = "int8",
    *,
    width: int = WIDTH,
    tokens_per_row: int = 12,
    copies: int = 2,
) -> Shard:
    """The shard of a unit: `copies` rows of each text, of random length, with random signals."""
    random = np.random.default_rng([unit.index, unit.first_text])
    rows = unit.num_texts * copies
    num_tokens = random.integers(2, 2 * tokens_per_row, rows).astype(np.int32)
    ends = np.cumsum(num_tokens, dtype=np.int64)
    is_masked = random.random(ends[-1]) < 0.3
    token = np.flatnonzero(is_masked).astype(np.int64)
    input_id = random.integers(0, 1000, ends[-1], dtype=np.int32)
    num_masked = np.add.reduceat(is_masked, ends - num_tokens).astype(np.int32)
    masked: dict[str, Array] = {"token": token, "label_id": random.integers(0, 1000, len(token), dtype=np.int32)}
    if request.top_k:
        logprobs = np.sort(-random.exponential(3.0, (len(token), request.top_k)))[:, ::-1]
        masked["topk_ids"] = random.integers(0, 1000, (len(token), request.top_k), dtype=np.int32)
        masked["topk_logprobs"] = logprobs.astype(np.float16)
        for temperature in (1.0, *request.temperatures):
            masked[logsumexp_column(temperature)] = random.normal(20, 5, len(token)).astype(np.float32)
    tables: Shard = {
        "texts": {
            "row_id": np.repeat(np.arange(unit.num_texts, dtype=np.int64) + unit.first_text, copies) << 16,
            "copy": np.tile(np.arange(copies, dtype=np.int16), unit.num_texts),
            "language": np.full(rows, LANGUAGES.index(unit.language), np.int16),
            "first_token": ends - num_tokens,
            "num_tokens": num_tokens,
            "first_masked": np.cumsum(num_masked, dtype=np.int64) - num_masked,
            "num_masked": num_masked,
        },
        "tokens": {"input_id": input_id},
        "masked": masked,
    }
    for layer in request.hidden_layers:
        values = np.random.default_rng([unit.index, layer]).normal(size=(ends[-1], width)).astype(np.float32)
        tables[hidden_table(layer)] = encode_hidden(values, codec)
    return tables


def make_store(
    signals: Path,
    request: SignalRequest = REQUEST,
    codec: HiddenCodec = "int8",
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    plan: list[Unit] | None = None,
    width: int | None = WIDTH,
) -> Store:
    """An empty store of teacher `bert`, or the one that is there."""
    return Store.create(
        store_folder(signals, "bert", fingerprint),
        teacher="bert",
        fingerprint=fingerprint,
        request=request,
        codec=codec,
        width=width,
        languages=LANGUAGES,
        units=units() if plan is None else plan,
    )


def full_store(signals: Path, request: SignalRequest = REQUEST, codec: HiddenCodec = "int8") -> Store:
    """A finished store."""
    store = make_store(signals, request, codec)
    for unit in store.missing():
        store.write(unit, make_tables(unit, store.request, codec))
    store.finish()
    return store


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
