"""Whether the daemon that lives runs another configuration than the one that is looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llm_supervisor import paths
from llm_supervisor.config import Config
from llm_supervisor.control import client


def other_configuration(config: Config, environ: Mapping[str, str]) -> str | None:
    """The configuration of the daemon that lives, where that is another one than this; None where it is not."""
    for runtime in paths.runtime_dirs(environ):
        try:
            files = client.request(runtime, "GET", "/v1/status")[1]["supervisor"]["config_files"]
        except (client.NoDaemon, OSError, KeyError, TypeError, IndexError):
            continue
        ours = {os.path.realpath(file) for file in config.files}
        return None if ours & {os.path.realpath(file) for file in files} else ", ".join(map(str, files))
    return None
