"""Made-up shards for the tests of the store: small, of every table, and a pure function of their arguments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.records import Array, HiddenCodec, SignalRequest, StateKey, Unit
from orchestrator.signals import (
    SENTENCE_VECTORS,
    Fingerprint,
    Store,
    TeacherSizes,
    drawn_table,
    draws_table,
    encode_draws,
    encode_hidden,
    encode_topk,
    head_states_table,
    partition_table,
    state_table,
    store_folder,
    topk_table,
)


def hidden(*layers: int) -> tuple[StateKey, ...]:
    """Hidden states of these layers."""
    return tuple(StateKey("hidden", layer) for layer in layers)


LANGUAGES = ["de", "en"]
REQUEST = SignalRequest(top_k=4, temperatures=(2.0,), states=hidden(0, 3))
#: Every signal there is, at every token.
EVERYTHING = SignalRequest(
    top_k=4,
    temperatures=(1.5, 2.0),
    draws=7,
    head_states=True,
    at_all_tokens=True,
    states=(*hidden(0, 3), StateKey("key", 2), StateKey("query", 2), StateKey("value", 1)),
    sentence_vectors=True,
)
FINGERPRINT = Fingerprint({"weights": "ab" * 16, "corpus": {"max_length": 128, "hash": "cd" * 16}, "seed": 4})
VOCAB_SIZE = 1000
SIZES = TeacherSizes(width=96, head_width=40, vocab_size=VOCAB_SIZE)

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
    sizes: TeacherSizes = SIZES,
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
        "masked": {"token": token, "label_id": random.integers(0, 1000, len(token), dtype=np.int32)},
    }
    counts = {"masked": len(token), "token": int(ends[-1]), "text": rows}
    return tables | _signals(unit, request, codec, sizes, counts)


def _signals(
    unit: Unit, request: SignalRequest, codec: HiddenCodec, sizes: TeacherSizes, counts: dict[str, int]
) -> Shard:
    """Each of them a pure function of the unit and its own part of the request."""
    positions = counts["token" if request.at_all_tokens else "masked"]
    tables: Shard = {}

    def random(*seed: int) -> np.random.Generator:
        return np.random.default_rng([unit.index, *seed])

    def vectors(rows: int, width: int, *seed: int) -> np.ndarray:
        return random(*seed).normal(size=(rows, width)).astype(np.float32)

    if request.top_k:
        logprobs = np.sort(-random(1).exponential(3.0, (positions, request.top_k)))[:, ::-1]
        ids = random(2).integers(0, sizes.vocab_size, (positions, request.top_k), dtype=np.int32)
        tables[topk_table(request)] = encode_topk(ids, logprobs, vocab_size=sizes.vocab_size)
        for temperature in (1.0, *request.temperatures) if request.temperatures else ():
            values = random(3, round(8 * temperature)).normal(20, 5, positions).astype(np.float32)
            tables[partition_table(request, temperature)] = {"logsumexp": values}
    if request.draws:
        drawn = (random(4).random((positions, request.draws)) ** 3 * sizes.vocab_size).astype(np.int32)
        distinct, code = encode_draws(drawn, vocab_size=sizes.vocab_size)
        tables[draws_table(request)], tables[drawn_table(request)] = {"distinct": distinct}, {"code": code}
    if request.head_states:
        tables[head_states_table(request)] = encode_hidden(vectors(positions, sizes.head_width, 5), "fp16")
    for key in request.states:
        seed = (6, key.layer, ("hidden", "query", "key", "value").index(key.kind))
        tables[state_table(key)] = encode_hidden(vectors(counts["token"], sizes.width, *seed), codec)
    if request.sentence_vectors:
        tables[SENTENCE_VECTORS] = encode_hidden(vectors(counts["text"], sizes.width, 7), "fp16")
    return tables


def make_store(
    signals: Path,
    request: SignalRequest = REQUEST,
    codec: HiddenCodec = "int8",
    *,
    fingerprint: Fingerprint = FINGERPRINT,
    plan: list[Unit] | None = None,
    sizes: TeacherSizes | None = SIZES,
) -> Store:
    """An empty store of teacher `bert`, or the one that is there."""
    return Store.create(
        store_folder(signals, "bert", fingerprint),
        teacher="bert",
        fingerprint=fingerprint,
        request=request,
        codec=codec,
        sizes=sizes,
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
