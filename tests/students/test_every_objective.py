"""Every objective against the same distance written out with the Hugging Face models of teacher and student, live."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import Objective
from orchestrator.errors import ConfigError
from orchestrator.models.maps import layer_map
from orchestrator.students.batch import Batch
from orchestrator.students.requests import requested_signals
from tests.students.bench import Bench, make_bench, step
from tests.students.tiny import STUDENT, World

PARSE: TypeAdapter[Objective] = TypeAdapter(Objective)
STORED = {"rel": 5e-3, "abs": 1e-5}  # the store's float16 is between the two

EVERY = [
    {"type": "masked-lm"},
    {"type": "hard-labels"},
    {"type": "hard-labels", "positions": "all"},
    {"type": "logit-matching"},
    {"type": "logit-matching", "centre": True, "positions": "all"},
    {"type": "soft-targets", "signal": "exact"},
    {"type": "soft-targets", "signal": "exact", "temperature": 3.0, "positions": "all"},
    {"type": "softmax-regression"},
    {"type": "softmax-regression", "distance": "mse", "positions": "all"},
    {"type": "softmax-regression", "transform": False},
    {"type": "hidden-states"},
    {"type": "hidden-states", "projection": "gelu", "map": "top", "embeddings": True},
    {"type": "hidden-states", "normalise": "l2", "tokens": "cls", "map": "skip"},
    {"type": "hidden-states", "normalise": "layer-norm", "map": {1: 3}},
    {"type": "hidden-states", "distance": "kl", "per_layer": False},
    {"type": "hidden-states", "distance": "cosine", "tokens": "cls"},
    {"type": "attention-scores", "map": "bottom"},
    {"type": "attention-probabilities", "map": "last"},
    {"type": "relations"},
    {"type": "relations", "of": ["value"], "heads": 4, "map": "uniform"},
    {"type": "embeddings"},
    {"type": "embeddings", "distance": "cosine"},
    {"type": "anchors"},
]


@dataclass
class Live:
    """Both models run by transformers on the same rows, without orch."""

    bench: Bench
    batch: Batch
    teacher: AutoModelForMaskedLM
    options: dict[str, object]
    mine: object = field(init=False)
    theirs: object = field(init=False)

    def __post_init__(self) -> None:
        student = self.bench.built.module.encoder("s").model
        student.set_attn_implementation("eager")
        told = {"attention_mask": self.batch.attention_mask, "output_hidden_states": True, "output_attentions": True}
        ids = torch.zeros_like(self.batch.input_ids).flatten()
        ids = ids.index_copy(0, self.batch.token_positions, self.batch.teacher_ids).view_as(self.batch.input_ids)
        self.mine = student(input_ids=self.batch.input_ids, **told)
        with torch.no_grad():
            self.theirs = self.teacher(input_ids=ids, **told)

    @property
    def student_ids(self) -> Tensor:
        """Teacher id -> student id."""
        return torch.tensor(self.bench.built.vocabularies["s"].map("mixed")).long()

    @property
    def positions(self) -> Tensor:
        wanted = self.options.get("positions", "masked")
        return self.batch.token_positions if wanted == "all" else self.batch.masked_positions

    def tokens(self, states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        return states.flatten(0, 1)[self.batch.token_positions if positions is None else positions]

    def projection(self, states: Tensor, index: int) -> Tensor:
        projection = self.bench.terms[0].projections[index]
        assert projection is not None
        return self.bench.built.module.projections[projection.key](states)

    def pairs(self, default: str = "uniform") -> list[tuple[int, int]]:
        pairs = layer_map(self.options.get("map", default), student_layers=2, teacher_layers=4, option="map")
        return ([(0, 0)] if self.options.get("embeddings") else []) + sorted(pairs.items())

    def qkv(self, model: object, states: Tensor, layer: int, kind: str) -> Tensor:
        return getattr(model.bert.encoder.layer[layer - 1].attention.self, kind)(states)


def expected(live: Live) -> Tensor:
    """The mean of one objective over its valid elements, by its formula."""
    options, batch = live.options, live.batch
    mine, theirs = live.mine, live.theirs
    z_s, z_t = (live.tokens(output.logits, positions=live.positions) for output in (mine, theirs))
    to_student = live.student_ids
    match options["type"]:
        case "masked-lm":
            return F.cross_entropy(z_s, batch.labels, ignore_index=-1)
        case "hard-labels":
            return F.cross_entropy(z_s, to_student[z_t.argmax(-1)], ignore_index=-1)
        case "logit-matching":
            known = to_student >= 0
            a, b = z_s[:, to_student[known]], z_t[:, known]
            if options.get("centre"):
                a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
            return 0.5 * (a - b).square().sum(-1).mean()
        case "soft-targets":
            t = float(options.get("temperature", 1.0))
            known = to_student >= 0
            probs = torch.zeros_like(z_s).index_add(1, to_student[known], (z_t / t).softmax(-1)[:, known])
            probs = probs / probs.sum(-1, keepdim=True)
            return t * t * F.kl_div((z_s / t).log_softmax(-1), probs, reduction="batchmean")
        case "softmax-regression":
            states = live.projection(live.tokens(mine.hidden_states[-1], positions=live.positions), 0)
            head = live.teacher.cls.predictions
            logits = head.decoder(head.transform(states) if options.get("transform", True) else states)
            if options.get("distance") == "mse":
                return F.mse_loss(logits, z_t)
            return F.cross_entropy(logits, z_t.softmax(-1))
        case "hidden-states":
            return torch.stack([hidden(live, pair, index) for index, pair in enumerate(live.pairs())]).mean()
        case "embeddings":
            known = to_student[batch.teacher_ids] >= 0
            own = live.bench.built.module.encoder("s").word_embeddings(to_student[batch.teacher_ids[known]])
            goal = live.teacher.bert.embeddings.word_embeddings(batch.teacher_ids[known])
            own = live.projection(own, 0)
            if options.get("distance") == "cosine":
                return (1 - F.cosine_similarity(own, goal)).mean()
            return F.mse_loss(own, goal)
        case "anchors":  # the other student has the same vocabulary
            own, other = (live.bench.built.module.encoder(n).word_embeddings.weight[5:] for n in ("s", "other"))
            return 0.5 * (own - (own + other).detach() / 2).square().sum(-1).mean()
        case _:
            default = "last" if options["type"] == "relations" else "uniform"
            return torch.cat([attention(live, pair) for pair in live.pairs(default)]).mean()


def hidden(live: Live, pair: tuple[int, int], index: int) -> Tensor:
    own, goal = live.mine.hidden_states[pair[0]], live.theirs.hidden_states[pair[1]]
    own, goal = (s[:, 0] if live.options.get("tokens") == "cls" else live.tokens(s) for s in (own, goal))
    own = live.projection(own, index)
    match live.options.get("distance", "mse"), live.options.get("normalise"):
        case "cosine", _:
            return (1 - F.cosine_similarity(own, goal)).mean()
        case "kl", _:
            return F.kl_div(own.log_softmax(-1), goal.softmax(-1), reduction="batchmean")
        case _, "l2":
            return (F.normalize(own, dim=-1) - F.normalize(goal, dim=-1)).square().sum(-1).mean()
        case _, "layer-norm":
            return F.mse_loss(F.layer_norm(own, own.shape[-1:]), F.layer_norm(goal, goal.shape[-1:]))
        case _:
            return F.mse_loss(own, goal)


def attention(live: Live, pair: tuple[int, int]) -> Tensor:
    """One value per valid element, row by row of the batch, so that no padding is ever looked at."""
    values = []
    student = live.bench.built.module.encoder("s").model
    inputs = [live.mine.hidden_states[pair[0] - 1], live.theirs.hidden_states[pair[1] - 1]]
    for row, length in enumerate(live.batch.attention_mask.sum(1).tolist()):
        if live.options["type"] == "attention-probabilities":
            own, goal = live.mine.attentions[pair[0] - 1], live.theirs.attentions[pair[1] - 1]
            own, goal = (probs[row, :, :length, :length] for probs in (own, goal))
            values.append((goal * (goal.log() - own.log())).sum(-1).flatten())
            continue
        models = list(zip((student, live.teacher), inputs, pair, strict=True))
        if live.options["type"] == "attention-scores":
            own, goal = (scores(live, model, h[row, :length], n, "query", "key", 2) for model, h, n in models)
            values.append((own - goal).square().flatten())
            continue
        for kind in live.options.get("of", ("query", "key", "value")):
            heads = int(live.options.get("heads", 2))
            own, goal = (scores(live, model, h[row, :length], n, kind, kind, heads) for model, h, n in models)
            values.append((goal.softmax(-1) * (goal.log_softmax(-1) - own.log_softmax(-1))).sum(-1).flatten())
    return torch.cat(values)


def scores(live: Live, model: object, states: Tensor, layer: int, one: str, other: str, heads: int) -> Tensor:
    a, b = (live.qkv(model, states, layer, kind).unflatten(-1, (heads, -1)).transpose(0, 1) for kind in (one, other))
    return a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])


@pytest.mark.parametrize("options", EVERY, ids=lambda options: "-".join(str(v) for v in options.values()))
@pytest.mark.parametrize("vocabulary", ["aa", "full"])
def test_it_is_its_formula_on_the_live_models(
    world: World, tmp_path: Path, options: dict[str, object], vocabulary: str
) -> None:
    bench = make_bench(world, tmp_path, PARSE.validate_python(options), vocabulary=vocabulary)
    micro = bench.micro(*range(0, 40, 3))
    section = world.facts["mixed"].section
    teacher = AutoModelForMaskedLM.from_pretrained(section.model, attn_implementation="eager").eval()
    live = Live(bench, micro.batch, teacher, options)
    goal = expected(live)
    value, terms, gradients = step(bench, micro)
    assert terms[bench.terms[0].name] == pytest.approx(float(goal.detach()), **STORED)
    assert value == pytest.approx(float(goal.detach()), **STORED)
    trained = bench.built.module.trained()
    found = {name: gradient.clone() for name, gradient in gradients.items()}
    bench.built.module.zero_grad(set_to_none=True)
    goal.backward()
    theirs = {name: p.grad for name, p in trained.items() if p.grad is not None}
    assert found.keys() == theirs.keys()
    assert any(bool((gradient != 0).any()) for gradient in found.values()), "it moves nothing"
    for name, gradient in found.items():
        difference, size = (gradient - theirs[name]).norm(), theirs[name].norm()
        assert difference <= 0.02 * size + 1e-6, f"{name}: {difference} of {size}"
    if bench.known:
        assert all(p.grad is None for p in bench.known["mixed"].teacher.encoder.parameters())


@pytest.mark.parametrize("options", EVERY, ids=lambda options: "-".join(str(v) for v in options.values()))
def test_it_does_not_depend_on_padding_or_how_a_step_is_cut(
    world: World, tmp_path: Path, options: dict[str, object]
) -> None:
    bench = make_bench(world, tmp_path, PARSE.validate_python(options), vocabulary="aa")
    rows = list(range(24))
    loss, terms, gradients = step(bench, bench.micro(*rows))
    for pieces in ([rows[:7], rows[7:]], [[row] for row in rows]):
        cut = step(bench, *(bench.micro(*piece) for piece in pieces))
        assert cut[0] == pytest.approx(loss, rel=1e-4, abs=1e-7)
        assert cut[1] == pytest.approx(terms, rel=1e-4, abs=1e-7)
        for name, gradient in gradients.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(cut[2][name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-8)


COPY = StudentTemplate.model_validate(
    {
        "layers": 4,
        "hidden_size": 32,
        "heads": 2,
        "intermediate_size": 64,
        "max_positions": 32,
        "initialisation": {"layers": "teacher"},
    }
)


@pytest.mark.parametrize("options", EVERY, ids=lambda options: "-".join(str(v) for v in options.values()))
def test_a_copy_of_the_teacher_gets_zero(world: World, tmp_path: Path, options: dict[str, object]) -> None:
    own_map = {"map": "uniform"} if "map" in options else {}
    objective = PARSE.validate_python(options | own_map)
    bench = make_bench(world, tmp_path, objective, vocabulary="full", template=COPY)
    _, terms, gradients = step(bench, bench.micro(*range(30)))
    (value,) = terms.values()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    match options:
        case {"type": "masked-lm" | "hard-labels"}:
            assert value > 0.0  # a cross-entropy to one token
        case {"type": "softmax-regression", "transform": False}:
            assert value > 0.0  # the decoder reads states that no transform has seen
        case {"type": "softmax-regression", "distance": "mse"}:
            assert value < 1e-5
        case {"type": "softmax-regression"}:
            assert largest < 1e-4  # the teacher's entropy, of which no gradient is left
        case {"projection": "gelu"}:
            assert value > 0.0  # GELU changes what is equal
        case _:
            assert value < 2e-5


@pytest.mark.parametrize(
    ("options", "template", "sentence"),
    [
        ({"type": "attention-scores"}, {"heads": 4}, "4 heads and teacher 'mixed' 2"),
        ({"type": "attention-probabilities"}, {"heads": 1}, "take the objective relations"),
        ({"type": "relations", "heads": 3}, {}, "does not come out even"),
        ({"type": "hidden-states", "projection": "none"}, {}, "set 'projection: linear'"),
        ({"type": "embeddings", "projection": "none"}, {}, "16 values of the student with 32"),
        ({"type": "soft-targets", "k": 5000}, {}, "lower k"),
        ({"type": "hidden-states", "map": {1: 9}}, {}, "the teacher's layers are 1 to 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    world: World, options: dict[str, object], template: dict[str, object], sentence: str
) -> None:
    shape = StudentTemplate.model_validate(STUDENT.model_dump() | template)
    with pytest.raises(ConfigError, match=sentence):
        requested_signals([PARSE.validate_python(options)], shape, teacher="mixed", info=world.facts["mixed"].info)
