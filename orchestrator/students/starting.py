"""Where a student's weights start: at random, or from a teacher's or another checkpoint's layers, rows and bias.

Shape legend: V vocabulary (T of whom it starts from), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.config.models import TeacherSection
from orchestrator.config.setups import StudentSpec
from orchestrator.errors import ConfigError
from orchestrator.models.building import build_encoder
from orchestrator.models.checkpoints import tokenizer_folder
from orchestrator.models.encoder import Encoder
from orchestrator.models.initialising import initialise_layers
from orchestrator.models.loading import load_encoder
from orchestrator.models.maps import layer_map
from orchestrator.models.rows import check_row_widths
from orchestrator.records import Int32, SpecialIds
from vocab_tools.embeddings import carry_bias, carry_embeddings
from vocab_tools.mapping import Vocabulary
from vocab_tools.matching import match_tokens
from vocab_tools.pieces import cut_tokens
from vocab_tools.read import read_tokenizer


@dataclass(frozen=True)
class _Source:
    """A model from which a student can start."""

    encoder: Encoder
    table: Int32  # [V_T] its ids -> the student's, or -1
    tokenizer: Path  # the folder


def start_encoder(
    student: StudentSpec,
    vocabulary: Vocabulary,
    *,
    teachers: Mapping[str, TeacherSection],
    teacher: Callable[[str], Encoder],
    seed: int,
) -> Encoder:
    """A student's encoder as its `initialisation` asks; the same arguments give the same weights.

    Args:
        student: what it looks like and how it starts.
        vocabulary: its own.
        teachers: the sections of all teachers that answer for it.
        teacher: name -> its encoder, for those with a model.
        seed: of what is random.

    Raises:
        ConfigError: it cannot start so, such as with layers of another width.
        VocabularyError: a tokenizer cannot be read.
    """
    template, start = student.template, student.template.initialisation
    encoder = build_encoder(template, vocab_size=vocabulary.size, special=special_ids_of(vocabulary), seed=seed)
    if start.layers == start.embedding == "random":
        return encoder
    sources = _sources(student, vocabulary, teachers, teacher)
    if start.layers == "teacher":
        source = sources[_the_one(student, sources, "layers")]
        depth = source.encoder.depth
        option = "initialisation.map"
        pairs = layer_map(start.map, student_layers=template.layers, teacher_layers=depth, option=option)
        initialise_layers(encoder, source.encoder, pairs)
    if start.embedding == "mean":
        one = _the_one(student, sources, "pieces")
        _carry_tokens(encoder, {one: sources[one]}, vocabulary, how="mean", seed=seed)
    elif start.embedding != "random" and sources:
        first = sorted(sources, key=lambda name: name != start.teacher)
        _carry_tokens(encoder, {name: sources[name] for name in first}, vocabulary, how=start.embedding, seed=seed)
    return encoder


def special_ids_of(vocabulary: Vocabulary) -> SpecialIds:
    """The special tokens of a student's vocabulary."""
    ids = vocabulary.special
    return SpecialIds(pad=ids["pad"], unk=ids["unk"], mask=ids["mask"], cls=ids["cls"], sep=ids["sep"])


def _sources(
    student: StudentSpec,
    vocabulary: Vocabulary,
    teachers: Mapping[str, TeacherSection],
    teacher: Callable[[str], Encoder],
) -> dict[str, _Source]:
    """By name: the checkpoint alone when there is one, else the teachers that have a model."""
    start = student.template.initialisation
    if start.checkpoint is not None:
        folder = tokenizer_folder(start.checkpoint, revision=start.revision)
        own = load_encoder(start.checkpoint, revision=start.revision, dtype="float32", device="cpu", need_head=False)
        table = match_tokens(read_tokenizer(folder), vocabulary)
        return {start.checkpoint: _Source(own, table, folder)}
    return {
        name: _Source(
            teacher(name),
            vocabulary.map(name),
            tokenizer_folder(teachers[name].tokenizer_path, revision=teachers[name].revision),
        )
        for name in dict.fromkeys(student.teachers.values())
        if teachers[name].model is not None
    }


def _the_one(student: StudentSpec, sources: Mapping[str, _Source], what: str) -> str:
    """The model that a student starts from where there can be only one."""
    named = student.template.initialisation.teacher
    one = named or (next(iter(sources)) if len(sources) == 1 else None)
    if one is None or one not in sources:
        whose = f"of teacher '{named}'" if named else "of a teacher without saying which"
        raise ConfigError(
            f"Student '{student.name}' starts from the {what} {whose}, but its teachers with a model are: "
            f"{', '.join(sources) or 'none'}; name one of them with initialisation.teacher, or set "
            f"initialisation.{'embedding' if what == 'pieces' else what}: random."
        )
    return one


@torch.no_grad()
def _carry_tokens(
    encoder: Encoder, sources: Mapping[str, _Source], vocabulary: Vocabulary, *, how: str, seed: int
) -> None:
    """Bring what single tokens have through the id maps: input rows, the decoder's where it is not tied, its bias.

    The first of `sources` sets the space and wins where several have a token. With `mean`, tokens that nobody has, but
    one can cut into pieces, start as the mean of these.
    """
    width = encoder.word_embeddings.embedding_dim
    check_row_widths(
        how, own=width, widths={name: source.encoder.word_embeddings.embedding_dim for name, source in sources.items()}
    )
    maps = {name: source.table for name, source in sources.items()}
    pieces = (
        {name: cut_tokens(vocabulary.tokens, read_tokenizer(one.tokenizer)) for name, one in sources.items()}
        if how == "mean"
        else None
    )

    def carried(matrices: Mapping[str, torch.Tensor], width: int) -> torch.Tensor:
        arrays = {name: matrix.detach().numpy() for name, matrix in matrices.items()}
        return torch.from_numpy(
            carry_embeddings(
                arrays, maps, size=vocabulary.size, width=width, seed=seed, priority=[*sources], pieces=pieces
            )
        )

    encoder.word_embeddings.weight.copy_(
        carried({name: source.encoder.word_embeddings.weight for name, source in sources.items()}, width)
    )
    heads = {name: source.encoder for name, source in sources.items() if source.encoder.has_head}
    if not encoder.has_head or not heads:
        return
    if encoder.decoder_weight is not encoder.word_embeddings.weight and len(heads) == len(sources):
        encoder.decoder_weight.copy_(
            carried({name: head.decoder_weight for name, head in heads.items()}, encoder.decoder_weight.shape[1])
        )
    biases = {name: head.decoder_bias.numpy() for name, head in heads.items() if head.decoder_bias is not None}
    if encoder.decoder_bias is not None and biases:
        values = carry_bias(biases, maps, size=vocabulary.size, priority=[*biases], pieces=pieces)
        encoder.decoder_bias.copy_(torch.from_numpy(values))
