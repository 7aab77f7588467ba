"""The configuration in use as text, for a daemon that finds the files broken; without the secrets of the environment.

A value of the env file, or of a variable of the environment that has the name of a secret, is kept as that variable's
name, and looked up again when the text is used. So a key is in one place only; and where it is gone from there, the
text cannot be used, and the daemon says what is wrong with the files instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.load import Config, read_env_file
from llm_supervisor.engines import litellm

_LEAST = 6  # characters: shorter values are words, found everywhere, and no secrets
_MARK = "\ue000{}\ue001"  # of the private use area: in no configuration
_MARKED = re.compile("\ue000([^\ue000\ue001]*)\ue001")


def keep(config: Config) -> str:
    """See the module, and ``restore``."""
    secret = {name: value for name, value in config.environ.items() if litellm.SECRET.fullmatch(name)}
    names = {value: name for name, value in {**secret, **config.env_values}.items() if len(value) >= _LEAST}
    long = sorted(names, key=len, reverse=True)  # one may be a part of another

    def hide(text: str) -> str:
        for value in long:
            text = text.replace(value, _MARK.format(names[value]))
        return text

    data = {
        "files": [str(file) for file in config.files],
        "root": config.root.model_dump(mode="json"),
        "native": config.native,
        "env_names": sorted(config.env_values),
        "master_key": config.master_key,
    }
    plain = json.loads(json.dumps(data, default=str))  # YAML knows dates
    return json.dumps(_texts(plain, hide))


def restore(text: str, environ: Mapping[str, str]) -> Config:
    """A configuration from what ``keep`` made of it. Raises ValueError when it cannot be used (any more)."""
    try:
        data = json.loads(text)
        file, *more = (Path(name) for name in data["files"])
        named = data["root"].get("env_file")
        values = read_env_file(file, named) if named else {}
        if gone := [name for name in data["env_names"] if name not in values]:
            raise ValueError(f"{', '.join(gone)} is not in {named} any more")
        environ = {**values, **environ}
        data = _texts(data, lambda text: _MARKED.sub(lambda found: environ[found[1]], text))
        root = schema.Root.model_validate(data["root"])
        return Config(file, root, data["native"], environ, data["master_key"], env_values=values, more=tuple(more))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a configuration: {error!r}") from error


def _texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _texts(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
