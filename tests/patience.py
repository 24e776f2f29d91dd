"""How long tests wait. A busy machine is no bug, so none fails by one look at a clock."""

HANGS = 1800  # seconds: a child that takes longer is said to hang


def within(attempt, limit, times=4):
    """Whether one of a few attempts takes less than so many seconds: attempt(number) gives them.

    What is wrong is slow each time.
    """
    return any(attempt(number) < limit for number in range(times))
