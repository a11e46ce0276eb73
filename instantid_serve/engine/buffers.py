"""The preallocated buffers of one shape: what a step's forward pass reads, gathered row by row.

What stays the same over a request's steps is copied once, when its row takes a seat. Every step then writes latents and
one small block of numbers. Addresses only change when a buffer grows, which CUDA graphs need: see `generation`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from instantid_serve.engine.seating import Row, Seating
from instantid_serve.engine.streams import uploaded

_generations = itertools.count()  # of addresses: what was recorded on one is of no use on another
TEXT = "text"  # the one tensor whose second dimension, its tokens, differs between requests


class Member(Protocol):
    """A request as the buffers see it."""

    serial: int
    conditioning: Mapping[str, torch.Tensor]
    latents: torch.Tensor

    @property
    def rows(self) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """What differs from step to step, per request."""

    timestep: float
    identity_strength: float
    identitynet_strength: float


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A batch ready for its forward pass: views of the first rows of the buffers."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    identity_strengths: torch.Tensor
    identitynet_strengths: torch.Tensor
    conditioning: dict[str, torch.Tensor]
    text_mask: torch.Tensor | None
    working: int  # so many rows, in front, have an IdentityNet strength other than 0

    def first(self, rows: int) -> Gathered:
        """The same of its first rows."""
        return Gathered(
            self.latents[:rows],
            self.timesteps[:rows],
            self.identity_strengths[:rows],
            self.identitynet_strengths[:rows],
            {name: tensor[:rows] for name, tensor in self.conditioning.items()},
            None if self.text_mask is None else self.text_mask[:rows],
            min(rows, self.working),
        )


class Buffers:
    """Buffers for up to ``max_rows`` rows of one latent shape; they grow when a batch needs more."""

    def __init__(self, max_rows: int, latent_shape: tuple[int, int, int], device: torch.device) -> None:
        self._device, self._latent_shape = device, latent_shape
        self._seating = Seating()
        self._allocate(max_rows)

    @property
    def nbytes(self) -> int:
        """Bytes the buffers take."""
        return sum(tensor.nbytes for tensor in (*self._conditioning.values(), self._latents, self._numbers))

    def gather(
        self, members: Sequence[Member], scaled: Sequence[torch.Tensor], numbers: Sequence[Numbers], *, padded_rows: int
    ) -> Gathered:
        """Seat the members, write this step's inputs, and return the first ``padded_rows`` rows.

        ``scaled``: each member's latents (1, ...) as the UNet takes them. Rows beyond the members' hold whatever lies
        there, with strengths of 0, and nobody reads what comes of them.
        """
        rows = sum(m.rows for m in members)
        if max(rows, padded_rows) > self._max_rows:
            self._allocate(max(rows, padded_rows))
        working = self._seat(members, numbers)
        seat_numbers = [numbers[source] for source in self._sources]
        self._write(scaled, seat_numbers, padded_rows)
        length = max(self._lengths[:rows])
        conditioning = {name: tensor[:padded_rows] for name, tensor in self._conditioning.items()}
        conditioning[TEXT] = conditioning[TEXT][:, :length]
        timesteps, identity, identitynet = self._numbers[:, :padded_rows]
        mask = self._masked(length, rows, padded_rows)
        return Gathered(self._latents[:padded_rows], timesteps, identity, identitynet, conditioning, mask, working)

    def scatter(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each member's unconditional and conditional output (members, ...); twice its only one without guidance."""
        return output.index_select(0, self._unconditional), output.index_select(0, self._conditional)

    def _allocate(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._latents = torch.zeros((max_rows, *self._latent_shape), device=self._device)
        self._numbers = torch.zeros((3, max_rows), device=self._device)
        self._conditioning: dict[str, torch.Tensor] = {}
        self._lengths = [0] * max_rows  # tokens of the text in each seat
        self._forget()

    def _forget(self) -> None:
        """The buffers have moved, and everyone is a newcomer again."""
        self.generation = next(_generations)
        self._seating.clear()
        self._arranged: object = None

    def _seat(self, members: Sequence[Member], numbers: Sequence[Numbers]) -> int:
        """Give every row its seat, copy the newcomers; return how many rows IdentityNet works on."""
        for member in members:
            self._make_room(member.conditioning)
        front: list[Row] = []
        back: list[Row] = []
        for member, number in zip(members, numbers, strict=True):
            zone = back if number.identitynet_strength == 0.0 else front
            zone.extend((member.serial, row) for row in range(member.rows))
        rows, moved = self._seating.arrange(front, back)
        at = {member.serial: index for index, member in enumerate(members)}
        try:
            for seat in moved:
                serial, row = rows[seat]
                self._copy_in(members[at[serial]].conditioning, row, seat)
        except BaseException:
            self._forget()  # or a row that was not copied would be taken for one that was
            raise
        arranged = (rows, [member.serial for member in members])
        if moved or arranged != self._arranged:
            self._arranged = arranged
            self._index(rows, members, at)
        return len(front)

    def _index(self, rows: Sequence[Row], members: Sequence[Member], at: Mapping[int, int]) -> None:
        seat_of = {row: seat for seat, row in enumerate(rows)}
        self._sources = [at[serial] for serial, _ in rows]
        seats = [[seat_of[m.serial, 0] for m in members], [seat_of[m.serial, m.rows - 1] for m in members]]
        indices = uploaded([*self._sources, *seats[0], *seats[1]], self._device)
        ends = len(rows), len(rows) + len(members)
        self._source_index, self._unconditional = indices[: ends[0]], indices[ends[0] : ends[1]]
        self._conditional = indices[ends[1] :]

    def _copy_in(self, conditioning: Mapping[str, torch.Tensor], row: int, seat: int) -> None:
        for name, tensor in conditioning.items():
            own = tensor[row if len(tensor) > 1 else 0]  # one for each of its rows, or one for all
            if name == TEXT:
                self._lengths[seat] = len(own)
                self._conditioning[name][seat, : len(own)] = own
            else:
                self._conditioning[name][seat] = own

    def _make_room(self, conditioning: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in conditioning.items():
            buffer = self._conditioning.get(name)
            if buffer is None or (name == TEXT and buffer.shape[1] < tensor.shape[1]):
                self._conditioning[name] = tensor.new_zeros((self._max_rows, *tensor.shape[1:]))
                self._forget()
                if name == TEXT:
                    shape = (self._max_rows, tensor.shape[1])
                    self._text_mask = torch.ones(shape, dtype=torch.bool, device=self._device)

    def _write(self, scaled: Sequence[torch.Tensor], numbers: Sequence[Numbers], padded_rows: int) -> None:
        rows = len(numbers)
        torch.index_select(torch.cat(list(scaled)), 0, self._source_index, out=self._latents[:rows])
        padding = [0.0] * (padded_rows - rows)
        block = [
            [n.timestep for n in numbers] + padding,
            [n.identity_strength for n in numbers] + padding,
            [n.identitynet_strength for n in numbers] + padding,
        ]
        self._numbers[:, :padded_rows] = uploaded(block, self._device)

    def _masked(self, length: int, rows: int, padded_rows: int) -> torch.Tensor | None:
        """1 for the tokens each row has, 0 for padding; None when all have the same number."""
        lengths = self._lengths[:rows]
        if min(lengths) == length:
            return None
        own = uploaded(lengths + [length] * (padded_rows - rows), self._device)
        mask = self._text_mask[:padded_rows, :length]
        torch.lt(torch.arange(length, device=self._device).unsqueeze(0), own.unsqueeze(1), out=mask)
        return mask
