"""Several workers that train one group together: each does its share of the micro-batches, their sums are added up.

A step is what it is for one worker: valid elements are counted over all workers before any of them goes backward,
gradients are added before they are clipped, and each worker takes the same optimiser step. So results depend on the
number of workers only as far as a sum of floats depends on its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from orchestrator.errors import StoreError, UnitError
from orchestrator.models.devices import Device
from orchestrator.students.job import Seat

#: Gradients travel in pieces of so many elements: 64 MB in float32.
_PIECE = 1 << 24
#: How long a worker waits for the others, who may be writing a checkpoint.
_TIMEOUT = timedelta(minutes=30)


class Workers:
    """The workers of a group, seen from one of them; by itself, it exchanges nothing."""

    def __init__(self, seat: Seat, device: Device) -> None:
        self.seat, self._device = seat, torch.device(device)

    @property
    def is_first(self) -> bool:
        """Whether this one writes what is written once: checkpoints, metrics, students."""
        return self.seat.rank == 0

    def add_counts(self, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Whole numbers by student and name, each added up over all workers, who name the same ones."""
        if self.seat.size == 1:
            return {student: dict(own) for student, own in counts.items()}
        total = torch.tensor([number for own in counts.values() for number in own.values()], device=self._device)
        distributed.all_reduce(total)
        numbers = iter(total.tolist())
        return {student: {name: int(next(numbers)) for name in own} for student, own in counts.items()}

    def add_values(self, values: Tensor) -> Tensor:
        """Floats [n] added up over all workers."""
        if self.seat.size > 1:
            distributed.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Give every worker the sum of all gradients; a parameter that has none anywhere keeps none."""
        if self.seat.size == 1:
            return
        everything = list(parameters)
        wanted = torch.tensor([parameter.grad is not None for parameter in everything], dtype=torch.uint8)
        wanted = wanted.to(self._device)
        distributed.all_reduce(wanted, distributed.ReduceOp.MAX)
        those = [one for one, is_wanted in zip(everything, wanted.tolist(), strict=True) if is_wanted]
        for piece in _pieces(those):
            flat = torch.cat([_gradient(parameter).flatten() for parameter in piece])
            distributed.all_reduce(flat)
            for parameter, summed in zip(piece, torch.split(flat, [one.numel() for one in piece]), strict=True):
                parameter.grad = summed.view_as(parameter)

    def agree(self, step: int) -> None:
        """StoreError unless every worker goes on from the same step."""
        if self.seat.size == 1:
            return
        both = torch.tensor([step, -step], device=self._device)
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
        if int(both[0]) != -int(both[1]):
            raise StoreError(
                f"The workers of a group go on from steps {-int(both[1])} to {int(both[0])}; run.root must be a folder "
                "that all machines of the cluster share."
            )


@contextmanager
def joined(seat: Seat, device: Device) -> Iterator[Workers]:
    """The workers of a group, met at `seat.address`: gloo on CPUs, NCCL on GPUs.

    Raises:
        UnitError: the others do not come.
    """
    if seat.size == 1:
        yield Workers(seat, device)
        return
    try:
        distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=f"tcp://{seat.address}",
            rank=seat.rank,
            world_size=seat.size,
            timeout=_TIMEOUT,
        )
    except (distributed.DistError, RuntimeError, ValueError) as error:
        raise UnitError(
            f"worker {seat.rank + 1} of {seat.size} could not meet the others at {seat.address} "
            f"({str(error).splitlines()[0]}); check that the machines reach each other."
        ) from error
    try:
        yield Workers(seat, device)
    finally:
        distributed.destroy_process_group()


def _pieces(parameters: list[Parameter]) -> Iterator[list[Parameter]]:
    piece: list[Parameter] = []
    for parameter in parameters:
        if piece and sum(one.numel() for one in piece) + parameter.numel() > _PIECE:
            yield piece
            piece = []
        piece.append(parameter)
    if piece:
        yield piece


def _gradient(parameter: Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
