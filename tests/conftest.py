"""Settings for all tests: Hypothesis without a clock (a loaded machine is no bug), and the same examples every time."""

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
