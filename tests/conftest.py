"""Settings for all tests: Hypothesis without a clock (a loaded machine is no bug), and the same examples every time."""

import signal

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# A job in the background of a script begins with Ctrl-C ignored, and so would everything that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
