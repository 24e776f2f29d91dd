"""How many examples a property test draws: the same ones in each run, or many new ones by night."""

from hypothesis import settings

NIGHTLY = "nightly"  # the name of the profile, and of the marker that asks for it
MORE = 20

settings.register_profile("ci", deadline=None, derandomize=True)  # a busy machine is no bug
settings.register_profile(NIGHTLY, deadline=None, max_examples=100 * MORE, print_blob=True)


def examples(count):
    """Give the number of examples where a run of every day draws ``count``."""
    return count * MORE if settings.get_current_profile_name() == NIGHTLY else count
