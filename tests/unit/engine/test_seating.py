"""Rows keep their seats while they stay, and IdentityNet's rows sit in front."""

from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.engine.seating import Seating

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), unique=True, max_size=12)


def test_newcomers_take_the_seats_in_order():
    assert Seating().arrange([(1, 0), (1, 1)], [(2, 0)]) == ([(1, 0), (1, 1), (2, 0)], [0, 1, 2])


def test_whoever_stays_is_not_moved_and_a_newcomer_takes_the_free_seat():
    seating = Seating()
    seating.arrange([(1, 0), (2, 0), (3, 0)], [])

    assert seating.arrange([(3, 0), (4, 0), (1, 0)], []) == ([(1, 0), (4, 0), (3, 0)], [1])


def test_a_row_that_sat_out_a_step_is_found_where_it_was():
    seating = Seating()
    seating.arrange([(1, 0), (2, 0)], [])
    seating.arrange([(1, 0)], [])

    assert seating.arrange([(1, 0), (2, 0)], [])[1] == []


def test_a_row_that_identitynet_is_done_with_moves_behind_those_it_works_on():
    seating = Seating()
    seating.arrange([(1, 0), (2, 0)], [])

    rows, moved = seating.arrange([(2, 0)], [(1, 0)])

    assert rows == [(2, 0), (1, 0)]
    assert moved == [0, 1]


@given(st.lists(st.tuples(ROWS, st.integers(0, 12)), max_size=8))
def test_every_seat_is_right_and_every_change_is_told(batches):
    seating, copied = Seating(), {}
    for rows, split in batches:
        front, back = rows[:split], rows[split:]

        seats, moved = seating.arrange(front, back)
        copied.update({seat: seats[seat] for seat in moved})

        assert sorted(seats) == sorted(rows)
        assert set(seats[: len(front)]) == set(front)
        assert [copied[seat] for seat in range(len(seats))] == seats
