"""The fixture `stage`: a place where real child processes are started, and of which nothing is left."""

from tests.support.stage import stage

__all__ = ["stage"]
