"""Settings that every test shares."""

from hypothesis import settings

# The same examples on every machine and run: a failure seen once is seen again.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")
