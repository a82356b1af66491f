"""The teacher's pass: against the machine's own matrix product, the bare forward pass, and a naive loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

from orchestrator.records import MaskedRows
from orchestrator.signals.codecs import decode_hidden, encode_hidden
from orchestrator.signals.topk import decode_topk, encode_topk
from orchestrator.teachers.batches import group_by_length, pad_rows
from orchestrator.teachers.head import ROWS, distribution
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios, seconds_of
from tests.benchmarks.scene import PLAN, TEACHER, Scene, scene

GEMM = 2048  # rows and columns of the product that stands for what the machine can do
XLM_R = 250_002


def bars(rounds: int) -> Iterator[Bar]:
    """Every figure of the pass."""
    with scene({"big": ["de"]}, texts=1500) as here:
        here.fill("a")
        rows = here.rows("a", here.units["big"][0])
        yield from forward(rows, rounds)
        yield from unit(here, rows, rounds)
        yield from padding(rows)
    yield from head(rounds)
    yield from precision()


def forward(rows: MaskedRows, rounds: int) -> Iterator[Bar]:
    """FLOP/s of a base-size encoder on rows of real lengths, over those of a large bfloat16 product."""
    base = BertModel(BertConfig(vocab_size=1000, attn_implementation="sdpa"), add_pooling_layer=False)
    base = base.to(torch.bfloat16).eval()
    few = list(group_by_length(rows.num_tokens, tokens_per_batch=PLAN.tokens_per_batch))[:3]
    batches = [pad_rows(rows, chosen, pad_id=1) for chosen in few]
    width, layers = base.config.hidden_size, base.config.num_hidden_layers
    flop = 0
    for chosen in few:
        lengths = rows.num_tokens[chosen].astype(np.int64)
        flop += layers * int((24 * width**2 * lengths + 4 * width * lengths**2).sum())  # of tokens, not of padding
    square = torch.randn(GEMM, GEMM, dtype=torch.bfloat16)
    times = max(1, round(flop / (2 * GEMM**3)))

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                base(batch.input_ids % 1000, attention_mask=batch.attention_mask)

    def product() -> None:
        for _ in range(times):
            torch.mm(square, square)

    ours, limit = seconds_of(run, product, rounds=rounds)
    shares = [share * flop / (times * 2 * GEMM**3) for share in ratios(limit, ours)]
    yield Bar("teacher forward, 12 × 768, real lengths, FLOP/s", f"bf16 GEMM of {GEMM}³", shares, "≥", 0.60)


def unit(here: Scene, rows: MaskedRows, rounds: int) -> Iterator[Bar]:
    """A whole unit against the same rows' bare forward pass, and against how public scripts do it."""
    worker = here.worker("a")
    store, (only,) = here.store("a", "big"), here.units["big"]
    naive = _naive(rows, here.root / "naive.pt")

    def whole() -> None:
        store.receipt_path(0).unlink()
        worker.run(only)

    encoder = worker._host("big").encoder
    assert encoder is not None

    def bare() -> None:
        with torch.inference_mode():
            for chosen in group_by_length(rows.num_tokens, tokens_per_batch=PLAN.tokens_per_batch):
                batch = pad_rows(rows, chosen, pad_id=1)
                last = encoder(batch.input_ids, batch.attention_mask, states=()).last.flatten(0, 1)
                states = encoder.head_states(last[batch.masked_positions])
                linear(states, encoder.decoder_weight, encoder.decoder_bias)

    ours, limit, public = seconds_of(whole, bare, naive, rounds=rounds)
    what = "precompute unit, read … fsync, top-64 and a layer"
    yield Bar(what, "bare forward and head of the same rows", ratios(limit, ours), "≥", 0.95)
    note = "bfloat16 both; corpus order, padded to the longest row, whole head, `torch.save`"
    yield Bar(what, "naive loop", ratios(public, ours), "≥", 3.0, note=note)
    rate = [float(rows.num_tokens.sum()) / seconds for seconds in ours]
    yield Bar("the same, tokens/s, one thread", "", rate, unit="")


def _naive(rows: MaskedRows, path: Path) -> Callable[[], None]:
    model = AutoModelForMaskedLM.from_pretrained(TEACHER, dtype=torch.bfloat16).eval()
    width, size = int(rows.num_tokens.max()), 32

    def loop() -> None:
        kept = []
        with torch.inference_mode():
            for first in range(0, len(rows), size):
                chosen = np.arange(first, min(first + size, len(rows)))
                batch = pad_rows(rows, chosen, pad_id=1)
                more = (0, width - batch.input_ids.shape[1])
                ids = torch.nn.functional.pad(batch.input_ids, more, value=1)
                mask = torch.nn.functional.pad(batch.attention_mask, more)
                output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
                best = output.logits.float().log_softmax(-1).topk(64)
                kept.append((best.indices, best.values.half(), output.hidden_states[-1].half()))
        torch.save(kept, path)

    return loop


def padding(rows: MaskedRows) -> Iterator[Bar]:
    """Share of the computed tokens that are text."""
    lengths = rows.num_tokens.astype(np.int64)
    chosen = group_by_length(rows.num_tokens, tokens_per_batch=PLAN.tokens_per_batch)
    computed = sum(len(batch) * int(lengths[batch].max()) for batch in chosen)
    yield Bar(
        "useful over computed tokens",
        "1",
        [float(lengths.sum()) / computed],
        "≥",
        0.90,
        unit="",
        note=f"padding to the maximum: {lengths.sum() / (len(lengths) * lengths.max()):.2f}",
    )


def head(rounds: int) -> Iterator[Bar]:
    """Head, log-partition and top-64 of 250 002 ids against the head's product alone."""
    states = torch.randn(ROWS, 768, dtype=torch.bfloat16)
    weight = torch.randn(XLM_R, 768, dtype=torch.bfloat16) / 16

    def ours() -> None:
        with torch.inference_mode():
            distribution(states, weight, None, k=64, temperatures=[])

    def product() -> None:
        with torch.inference_mode():
            linear(states, weight)

    def naive() -> None:
        with torch.inference_mode():
            z = linear(states, weight)
            z.float().logsumexp(-1)
            z.topk(64)

    own, limit, public = seconds_of(ours, product, naive, rounds=rounds)
    note = f"all at once: {np.median(ratios(public, limit)):.2f} ×"
    yield Bar("head + log-partition + top-64, V = 250 002", "the head's GEMM", ratios(own, limit), "≤", 1.4, note=note)


def precision() -> Iterator[Bar]:
    """What the stored forms lose, on the real teacher's own distributions and states, and what they take."""
    with scene({"big": ["fi"]}, texts=150) as here:
        here.fill("a")
        rows = here.rows("a", here.units["big"][0])
        encoder = here.worker("a")._host("big").encoder
        assert encoder is not None
        logprobs, states = [], []
        with torch.inference_mode():
            for chosen in group_by_length(rows.num_tokens, tokens_per_batch=PLAN.tokens_per_batch):
                batch = pad_rows(rows, chosen, pad_id=1)
                last = encoder(batch.input_ids, batch.attention_mask, states=()).last.flatten(0, 1)
                head_states = encoder.head_states(last[batch.masked_positions])
                z = linear(head_states, encoder.decoder_weight, encoder.decoder_bias).float()
                logprobs.append(z.log_softmax(-1))
                states.append(last[batch.token_positions].float())
    exact = torch.cat(logprobs).double()
    best = exact.topk(64)
    ids, log_probs = best.indices.numpy(), best.values.float().numpy()
    stored = torch.from_numpy(decode_topk(encode_topk(ids, log_probs, vocab_size=XLM_R))[1]).double()
    rest_exact, rest = (torch.log1p(-v.exp().sum(-1).clamp(max=1 - 1e-9)) for v in (best.values, stored))
    divergence = (stored.exp() * (stored - best.values)).sum(-1) + rest.exp() * (rest - rest_exact)
    yield Bar(
        "KL(stored ‖ exact), top-64 and the rest, nats",
        "",
        [float(divergence.mean())],
        "≤",
        1e-3,
        unit="",
        note=f"{len(exact)} positions; most {float(divergence.max()):.1e}",
    )
    taken = encode_topk(ids[:1], log_probs[:1], vocab_size=XLM_R)
    size = sum(column.nbytes for column in taken.values())
    yield Bar("logits, bytes per stored position, k = 64, V = 250 002", "DistillKit ~300", [size], "≤", 220, unit="")
    yield Bar("the same per text token, 15 % masked", "", [0.15 * size], "≤", 33, unit="")
    values = torch.cat(states).numpy()
    again = torch.from_numpy(decode_hidden(encode_hidden(values, "int8"), "int8"))
    cosine = torch.cosine_similarity(torch.from_numpy(values), again)
    yield Bar("hidden state, cosine of int8 to exact", "", [float(cosine.mean())], "≥", 0.9995, unit="")
    wide = encode_hidden(np.zeros((1, 768), np.float32), "int8")
    size = sum(column.nbytes for column in wide.values())
    yield Bar("hidden state, bytes per token and layer, d = 768", "fp16 1 536", [size], "≤", 800, unit="")
    drawn = exact.exp().multinomial(50, replacement=True, generator=torch.Generator().manual_seed(0))
    distinct = torch.tensor([len(row.unique()) for row in drawn]).double()
    few = [3 * len(row.unique()) + 1 for row in exact.exp().multinomial(12, replacement=True)]
    yield Bar(
        "sampled targets, bytes per position",
        "RS-KD ~36",
        [float(np.mean(few))],
        "≤",
        36,
        unit="",
        note=f"12 draws; 50 take {3 * float(distinct.mean()) + 1:.0f} with this teacher, which is seldom sure",
    )
