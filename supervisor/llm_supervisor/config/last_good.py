"""The last good configuration as text, for a daemon that finds the files broken; without the environment's values.

What is kept is the content of the files before ``${NAME}`` and the like are filled in: that is done again when the text
is used. So a key of the env file stays in the env file only. Where it is gone from there, the text cannot be used, and
the daemon reports what is wrong with the files instead. A key that another file writes out is in the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_supervisor.config import env_file, schema
from llm_supervisor.config.config import Config
from llm_supervisor.config.document import Document
from llm_supervisor.config.specs import Pythons
from llm_supervisor.config.variables import fill_in
from llm_supervisor.ownership import read_file

LAST_GOOD = "last-good.json"  # in the runtime folder


def contents(config: Config, pythons: Pythons) -> bytes:
    """The content of the file ``LAST_GOOD``: a configuration that works, and the engines' interpreters."""
    return json.dumps({"config": keep(config), "pythons": asdict(pythons)}).encode()


def last_good(runtime: Path, environ: Mapping[str, str]) -> Config | None:
    """The configuration in ``LAST_GOOD``; None where there is none that can be used."""
    try:
        return restore(json.loads(read_file(runtime / LAST_GOOD))["config"], environ)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_pythons(runtime: Path) -> Pythons | None:
    """The interpreters in ``LAST_GOOD``, with which the former daemon has started its engines, even where the
    configuration there cannot be used any more. None where there are none."""
    try:
        return Pythons(**json.loads(read_file(runtime / LAST_GOOD))["pythons"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(config: Config) -> str:
    """Serialise a configuration without the values of the env file; ``restore`` reads it back."""
    key = config.master_key
    variable = next((name for name, value in config.environ.items() if value == key), None)
    data = {
        "files": [str(file) for file in config.files],
        "said": config.written,
        "native": config.native,
        "env_file": config.root.env_file,
        "env_names": sorted(config.env_values),
        "master_key": {"variable": variable} if variable else {"text": key},
    }
    return json.dumps(data, default=str)  # YAML knows dates, JSON does not


def restore(text: str, environ: Mapping[str, str]) -> Config:
    """The configuration that ``keep`` has serialised. Raises ValueError when it cannot be used (any more)."""
    try:
        data: dict[str, Any] = json.loads(text)
        file, *more = (Path(name) for name in data["files"])
        named = data["env_file"]
        # A value that is gone is reported here; other problems of the env file are reported when the files are loaded
        values, _ = env_file.read(file, Document(str(file), {"env_file": named}), {})
        if gone := [name for name in data["env_names"] if name not in values]:
            raise ValueError(f"{', '.join(gone)} is not in {named} any more")
        merged = {**values, **environ}
        document = Document(str(file), data["said"])
        fill_in(document, merged)
        if wrong := [problem for problem in document.problems if not problem.warning]:
            raise ValueError(wrong[0].message)
        root = schema.Root.model_validate(document.data)
        key = data["master_key"]
        master_key = merged[key["variable"]] if "variable" in key else key["text"]
        return Config(
            file, root, data["native"], merged, master_key, env_values=values, more=tuple(more), written=data["said"]
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        # not the error itself, which may show a value
        raise ValueError(f"not a configuration: {type(error).__name__}") from None
