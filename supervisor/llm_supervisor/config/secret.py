"""What is a secret, and texts without any. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_supervisor.config.source import Where
from llm_supervisor.engines import litellm

HIDDEN = "********"
_LEAST = 6  # characters: shorter values are words, and found everywhere
# Keys that say themselves that they are one, wherever they stand: the last resort, for a key in the wrong place
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|vk|gsk|xai|hf|ghp|gho|github_pat|glpat|nvapi|pplx|xoxb)[-_]|AIza|AKIA)[A-Za-z0-9_-]{12,}"
)


def of(*blocks: Any, environ: Mapping[str, str]) -> list[str]:
    """Every value that is a secret by its place in one of these blocks or by its variable's name; the longest first,
    as one may be a part of another."""
    found = {value for name, value in environ.items() if litellm.SECRET.fullmatch(name)}
    for block in blocks:
        if isinstance(block, Mapping):
            found |= set(litellm.hide(block)[1].values())
    # a name of a variable is none
    return sorted((one for one in found if len(one) >= _LEAST and not one.startswith("${")), key=len, reverse=True)


def hush(text: str, secrets: Iterable[str]) -> str:
    """The text without them."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _KEY.sub(HIDDEN, text)


def places(value: Any) -> Iterator[Where]:
    """Where in a block there are secrets as such, not references to where they are."""
    yield from _differ(value, litellm.hide(value)[0] if isinstance(value, Mapping) else value, ())


def _differ(value: Any, clean: Any, where: Where) -> Iterator[Where]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _differ(item, clean[key], (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _differ(item, clean[index], (*where, index))
    elif value is not clean and not str(value).startswith(("${", "os.environ")):
        yield where
