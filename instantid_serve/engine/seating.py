"""Which row of a batch sits where in the preallocated buffers. Plain bookkeeping, no tensors.

A row that stays keeps its seat, so that only newcomers are copied. The rows that IdentityNet works on at this step sit
in front, so that both networks take a plain prefix of the buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[int, int]  # a request's serial number and which of its rows: 0, or 1 for the conditional one of two


class Seating:
    """The seats of one set of buffers."""

    def __init__(self) -> None:
        self._seats: list[Row | None] = []

    def arrange(self, front: Sequence[Row], back: Sequence[Row]) -> tuple[list[Row], list[int]]:
        """Seat ``front`` and then ``back``. Returns the row of every seat, and the seats whose row is new there."""
        before = self._seats
        rows = _place(front, before[: len(front)]) + _place(back, before[len(front) : len(front) + len(back)])
        moved = [seat for seat, row in enumerate(rows) if seat >= len(before) or before[seat] != row]
        # What lies beyond the batch is still there: a row that sits out one step is found again.
        rest = [row if row not in set(rows) else None for row in before[len(rows) :]]
        self._seats = [*rows, *rest]
        return rows, moved

    def clear(self) -> None:
        """Forget who sits where: everyone is a newcomer again."""
        self._seats = []


def _place(rows: Sequence[Row], seated: Sequence[Row | None]) -> list[Row]:
    """The rows, those that sit here already on their own seats, the others on what is left."""
    staying = set(rows) & set(seated)
    others = iter(row for row in rows if row not in staying)
    padded = [*seated, *[None] * (len(rows) - len(seated))]
    return [row if row in staying and row is not None else next(others) for row in padded]
