"""Tokens that several students of a group have: which they are, and the term that holds their embeddings together.

Shape legend: G anchors, A those of one student, V vocabulary, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.losses.embeddings import anchor_centres, anchor_spread
from orchestrator.students.group import StudentGroup
from orchestrator.students.terms import Term
from vocab_tools.mapping import Vocabulary

#: Where the terms of anchors stand among those of batches; no language and no parallel text is called so.
ANCHORS = "~"


@dataclass(frozen=True)
class Anchors:
    """The anchors of some students, counted from 0; none where no student has such a term."""

    tokens: tuple[str, ...]  # G
    ids: Mapping[str, Tensor]  # student -> int64 [A], its ids of those that it has
    places: Mapping[str, Tensor]  # student -> int64 [A], which these are

    def to(self, device: torch.device) -> Anchors:
        """The same on another device."""
        ids, places = ({name: of.to(device) for name, of in them.items()} for them in (self.ids, self.places))
        return Anchors(self.tokens, ids, places)

    def counts(self, student: str, terms: tuple[Term, ...]) -> dict[str, int]:
        """How many anchors each of these terms of a student is a mean over."""
        return {term.name: len(self.ids[student]) for term in terms}

    def backward(
        self, group: StudentGroup, terms: Mapping[str, tuple[Term, ...]], *, weights: Mapping[str, Mapping[str, float]]
    ) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Backward pass of the terms of every student, once a step: (student, share of its loss, raw sums), detached.

        The middle is that of all students that have such a term, whatever it counts for at this step.
        """
        left = {name: [term for term in own if weights[name][term.name] > 0.0] for name, own in terms.items()}
        if not any(left.values()):
            return
        centres = anchor_centres(
            [group.embedding_weight(name) for name in self.ids],
            student_ids=list(self.ids.values()),
            anchors=list(self.places.values()),
            count=len(self.tokens),
        )
        for name, own in left.items():
            for term in own:
                spread = anchor_spread(
                    group.embedding_weight(name), centres, student_ids=self.ids[name], anchors=self.places[name]
                ).total
                value = weights[name][term.name] / len(self.ids[name]) * spread
                if value.requires_grad:  # not when embeddings are frozen
                    value.backward()  # type: ignore[no-untyped-call]
                yield name, value.detach(), {term.name: spread.detach()}


def find_anchors(vocabularies: Mapping[str, Vocabulary]) -> Anchors:
    """The tokens that two or more of these students have, special ones left out, in the order of their first owner.

    Raises:
        ConfigError: a student has no token in common with any other.
    """
    ordinary = {name: _ordinary(vocabulary) for name, vocabulary in vocabularies.items()}
    users = Counter(token for tokens in ordinary.values() for token in tokens)
    place = {token: index for index, token in enumerate(token for token, count in users.items() if count > 1)}
    ids, places = {}, {}
    for name, tokens in ordinary.items():
        own = [(index, place[token]) for token, index in tokens.items() if token in place]
        if not own:
            raise ConfigError(
                f"Objective anchors: no token of student '{name}' is in the vocabulary of another student of its "
                "group; leave the objective out, or choose vocabularies that have tokens in common."
            )
        ids[name], places[name] = torch.tensor(own).unbind(1)
    return Anchors(tuple(place), ids, places)


def _ordinary(vocabulary: Vocabulary) -> dict[str, int]:
    special = set(vocabulary.special.values())
    return {token: index for index, token in enumerate(vocabulary.tokens) if index not in special}
