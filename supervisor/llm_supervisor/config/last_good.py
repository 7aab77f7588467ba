"""The configuration in use as text, for a daemon that finds the files broken; without the values of the environment.

What is kept is what the files say, before ``${NAME}`` and the like are filled in: that is done again when the text is
used. So a key of the env file is there only; and where it is gone from there, the text cannot be used, and the daemon
says what is wrong with the files instead. A key that is written in one of the other files as such is there anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.load import Config, fill_in, read_env_file
from llm_supervisor.config.source import Document


def keep(config: Config) -> str:
    """See the module, and ``restore``."""
    key = config.master_key
    variable = next((name for name, value in config.environ.items() if value == key), None)
    data = {
        "files": [str(file) for file in config.files],
        "said": config.said,
        "native": config.native,
        "env_file": config.root.env_file,
        "env_names": sorted(config.env_values),
        "master_key": {"variable": variable} if variable else {"text": key},
    }
    return json.dumps(data, default=str)  # YAML knows dates


def restore(text: str, environ: Mapping[str, str]) -> Config:
    """A configuration from what ``keep`` made of it. Raises ValueError when it cannot be used (any more)."""
    try:
        data: dict[str, Any] = json.loads(text)
        file, *more = (Path(name) for name in data["files"])
        named = data["env_file"]
        values = read_env_file(file, named) if named else {}
        if gone := [name for name in data["env_names"] if name not in values]:
            raise ValueError(f"{', '.join(gone)} is not in {named} any more")
        merged = {**values, **environ}
        document = Document(str(file), data["said"])
        fill_in(document, merged)
        if wrong := [problem for problem in document.problems if not problem.warning]:
            raise ValueError(wrong[0].message)
        root = schema.Root.model_validate(document.data)
        said = data["master_key"]
        key = merged[said["variable"]] if "variable" in said else said["text"]
        return Config(file, root, data["native"], merged, key, env_values=values, more=tuple(more), said=data["said"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        # not the error itself, which may show a value
        raise ValueError(f"not a configuration: {type(error).__name__}") from None
