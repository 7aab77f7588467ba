"""What all commands share for their output: the exit statuses, and how an error is printed.

Results go to standard output, errors and warnings to standard error.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from llm_supervisor import paths

if TYPE_CHECKING:
    from llm_supervisor.config import ConfigError

# The exit statuses: done; the command failed; wrong arguments or configuration; `status`: something that should run
# is not ready; no daemon answers.
OK, FAILED, WRONG, NOT_READY, NO_DAEMON = 0, 1, 2, 3, 4


def complaint(text: str) -> str:
    """The text of an error as every command prints it: with the name of the command before it."""
    return f"llm-supervisor: {text}"


def complain(text: str) -> int:
    """Print an error to standard error and return the exit status WRONG; callers that failed otherwise ignore it."""
    print(complaint(text), file=sys.stderr)
    return WRONG


def complain_no_config() -> int:
    """Say that no configuration file was named and none is in the usual places. Returns the exit status WRONG."""
    return complain(f"no configuration: there is no {' and no '.join(paths.CONFIGS)}; name one with -c FILE")


def print_problems(error: ConfigError) -> int:
    """Print every problem of a configuration and then their number. Returns the exit status WRONG."""
    for problem in error.problems:
        print(("warning: " if problem.warning else "") + str(problem), file=sys.stderr)
    count = sum(1 for problem in error.problems if not problem.warning)
    return complain(f"{count} problem{'s' if count != 1 else ''}; nothing was started")


def may_colour(stream: TextIO) -> bool:
    """Whether colours may be written to the stream: it is a terminal, and NO_COLOR (https://no-color.org) is not set
    to anything but the empty string."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
