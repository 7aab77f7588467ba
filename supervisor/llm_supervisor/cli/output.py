"""What all commands share for their output: the exit statuses, and how texts, data and errors are printed.

Results go to standard output, errors and warnings to standard error. Texts may hold what an engine, a file or a hub has
written, so every command prints by these functions, which leave nothing in them that a terminal obeys.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from llm_supervisor import paths
from llm_supervisor.terminal import harmless, harmless_lines, shortened

if TYPE_CHECKING:
    from llm_supervisor.config import ConfigError

# The exit statuses: done; the command failed; wrong arguments or configuration; `status`: something that should run
# is not ready; no daemon answers.
OK, FAILED, WRONG, NOT_READY, NO_DAEMON = 0, 1, 2, 3, 4


def shown(text: str) -> str:
    """A line as it is shown: harmless, and shortened where it is very long."""
    return harmless(shortened(text))


def say(line: str = "", *, error: bool = False, flush: bool = False) -> None:
    """Print one line, as it is shown."""
    print(shown(line), file=sys.stderr if error else sys.stdout, flush=flush)


def say_lines(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print a text of several lines, none of them shortened."""
    print(harmless_lines(text), end=end, file=sys.stderr if error else sys.stdout, flush=True)


def say_json(data: Any, indent: int | None = 2) -> None:
    """Print data as JSON, which escapes what a terminal would obey."""
    print(json.dumps(data, indent=indent, default=str), flush=True)


def say_script(text: str) -> None:
    """Print what a shell will evaluate: exactly, where it is not a terminal."""
    print(harmless_lines(text) if sys.stdout.isatty() else text)


def complaint(text: str) -> str:
    """The text of an error as every command prints it: with the name of the command before it."""
    return f"llm-supervisor: {text}"


def complain(text: str) -> int:
    """Print an error to standard error and return the exit status WRONG; callers that failed otherwise ignore it."""
    for line in complaint(text).split("\n"):
        say(line, error=True)
    return WRONG


def complain_no_config() -> int:
    """Say that no configuration file was named and none is in the usual places. Returns the exit status WRONG."""
    return complain(f"no configuration: there is no {' and no '.join(paths.CONFIGS)}; name one with -c FILE")


def print_problems(error: ConfigError) -> int:
    """Print every problem of a configuration and then their number. Returns the exit status WRONG."""
    for problem in error.problems:
        say(("warning: " if problem.warning else "") + str(problem), error=True)
    count = sum(1 for problem in error.problems if not problem.warning)
    return complain(f"{count} problem{'s' if count != 1 else ''}; nothing was started")


def may_colour(stream: TextIO) -> bool:
    """Whether colours may be written to the stream: it is a terminal, and NO_COLOR (https://no-color.org) is not set
    to anything but the empty string."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
