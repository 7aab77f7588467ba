"""The one recogniser of secrets: by the name of a value, by its form, and in texts that people will read. Pure.

The values that this configuration holds as secrets are collected by ``config.secrets``; ``redact`` takes them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "********"
# A reference of LiteLLM's to an environment variable: it names a secret and is not one
REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")

# Names of secrets: words that mean nothing else wherever they end a name, and words that must stand by themselves in
# it (bypass and oauth do not, dbPass does)
_SECRET_NAME = re.compile(
    r"""
    (?! (?-i:(?:OLD)?PWD)$                  # the shell's: a folder
      | (?:.*[_-])?custom_auth$             # a function of LiteLLM's
      | (?:.*[_-])?per(?:[_-]\w+)?[_-]token$  # a price
      | (?:.*[_-])?(?:bos|eos|pad|unk|sep|cls|mask|start|end|special)[_-]token$  # a tokenizer's
      | (?:.*[_-])?(?:image|video|audio|max|min)[_-]token$
      | (?:.*[_-])?disable[_-]implicit[_-]token$  # a flag of huggingface_hub's
    )
    (?: .*(?: passwords? | passwd | passphrase | pwd | secrets? | credentials? | authorization | database_ur[li]
            | webhooks?(?:[_-]?ur[li])? | api[_-]?keys | auth[_-]?value
            | (?:api|access|auth|account|client|license|master|private|secret|session|shared|sign|signing|ssh)
              (?:key|token) )
      | (?: .*(?: [_-] | (?-i:[a-z0-9](?=[A-Z])) ) )? (?: key | token | auth | pass | dsn | cookie ) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Values in the place of a secret that are not secrets: they say that there is none
_NONE = frozenset({"", "none", "null", "empty", "dummy", "fake", "not-needed"})
# What people write for a server of their own that wants no key: nothing but such words. Only in the place of a key that
# is sent to somebody: as the key that others have to send, or as a password, the same words open something
_STAND_INS = frozenset(
    """no not none null nil na empty dummy fake mock stub sample placeholder unused ignored ignore used needed need
    required require necessary key keys api apikey token sk bearer local localhost any anything whatever your here
    lm studio lmstudio ollama vllm llama cpp llamacpp llamafile sglang tgi tei xinference localai koboldcpp oobabooga
    tabby tabbyapi aphrodite lmdeploy jan gpt4all infinity triton mlx exo openai litellm auth""".split()
)
_FILLERS = frozenset("key keys api apikey token sk bearer any openai your here auth need used required".split())
_SENT = re.compile(r"(?:.*[_-])?(?:api[_-]?key|auth[_-]?token|api[_-]?token|key|token|authorization)", re.IGNORECASE)
_ASKED_FOR = re.compile(r"(?:.*[_-])?(?:master|salt|secret|private|sign|signing)[_-]?key", re.IGNORECASE)
# Text around references that says how a secret is sent: `Bearer os.environ/NAME`
_AROUND_REFERENCES = re.compile(r"[\s:,;=]*(?:(?:bearer|basic|token|key|apikey|api-key)[\s:=]*)?", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
# Keys that providers mark by how they begin, wherever they stand: the last resort, for a key in the wrong place. What
# follows hf_ has no underscore in it: hf_hub_download is a function
_MARKED_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:(?:sk|pk|rk|vk|gsk|xai|ghp|gho|github_pat|glpat|nvapi|pplx|xoxb)[-_]|AIza|AKIA)"
    r"[A-Za-z0-9_-]{12,}|hf[-_][A-Za-z0-9]{12,})"
)
# What a log says of a secret in its own words
_IN_A_LOG = (
    (re.compile(r"\bBearer [\w\-.]{8,400}"), HIDDEN),
    (re.compile(r"://[^/\s:@]{1,100}:[^/\s@]{1,200}@"), f"://{HIDDEN}@"),
    (
        re.compile(r"((?:api[_-]?key|token|password|secret)['\"]?\s?[:=]\s?\[?['\"]?)[^\s'\",\]]{4,200}", re.I),
        rf"\1{HIDDEN}",
    ),
)


def names_secret(name: str) -> bool:
    """Whether a key or a variable of that name holds a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


def has_password(value: str) -> bool:
    """Whether the text is, or holds, a URL with a password in it."""
    return _URL_WITH_PASSWORD.search(value) is not None


def secrets_in(
    value: Any, where: tuple[str | int, ...] = (), name: str = ""
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every secret that a block of a configuration holds in plain text, each with its place. References to the
    environment are left out.

    ``name`` is what the value itself is called. The items of a list have the list's name, and the entries below a
    mapping of webhooks have the mapping's, as its keys are kinds of alerts.
    """
    if isinstance(value, Mapping):
        hooks = "webhook" in name.lower() and names_secret(name)
        for key, item in value.items():
            if key != "model_group_alias":  # names on both sides
                yield from secrets_in(item, (*where, key), name if hooks else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from secrets_in(item, (*where, index), name)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        text = str(value)
        secret = names_secret(name) or (isinstance(value, str) and has_password(text))
        if secret and not _only_refers(text) and not _stands_in(name, text):
            yield where, text


def _only_refers(text: str) -> bool:
    """Whether a text consists of references, and of words that say how they are sent."""
    return REFERENCE.search(text) is not None and _AROUND_REFERENCES.fullmatch(REFERENCE.sub(" ", text)) is not None


def _stands_in(name: str, text: str) -> bool:
    """Whether a text says in the place of a secret that there is none."""
    said = text.strip().lower()
    if said.replace("_", "-") in _NONE:
        return True
    words = {"none" if re.fullmatch("x{3,}", word) else word for word in re.findall(r"[a-z0-9]+", said)}
    if not _SENT.fullmatch(name) or _ASKED_FOR.fullmatch(name) or not re.fullmatch(r"<?[a-z0-9 ._/-]*>?", said):
        return False
    return words <= _STAND_INS and not words <= _FILLERS - {"your"}


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with ``HIDDEN`` in the place of each of these secrets, and of each key that its form gives away.

    A secret that holds another one must come before it.
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _MARKED_KEY.sub(HIDDEN, text)


def redact_log(text: str) -> str:
    """The text of a log, whose secrets nobody has listed: without marked keys, bearer tokens, passwords in URLs and
    values that are assigned to the name of a secret."""
    text = redact(text)
    for pattern, instead in _IN_A_LOG:
        text = pattern.sub(instead, text)
    return text
