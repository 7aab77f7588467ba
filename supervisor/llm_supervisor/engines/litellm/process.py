"""How LiteLLM is started: its command line and its environment. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any

from llm_supervisor.engines.litellm.references import MASTER_KEY, references
from llm_supervisor.redaction import names_secret


def argv(
    python: str,
    uds: str,
    drain: int,
    hold: str | None = None,
    engines: Mapping[str, str] | None = None,
    modules: str | None = None,
    media: Mapping[str, Any] | None = None,
    unverified: Collection[str] = (),
) -> tuple[str, ...]:
    """The command line of one replica. The daemon hands it the listening socket as descriptor 3. ``hold`` is the file
    in which it says how the engines are, ``engines`` the unix sockets of those that have one, by host, ``modules`` the
    folder of the native file, which may name Python modules beside it, ``media`` what clients may send and have fetched
    (``inside/litellm_media.py``), ``unverified`` the engines (``HOST:PORT``) whose certificates are not verified."""
    replica = str(files("llm_supervisor.engines.inside") / "litellm_replica.py")
    more = ["--hold", hold] if hold else []
    more += ["--modules", modules] if modules else []
    more += ["--media", json.dumps(media, separators=(",", ":"))] if media is not None else []
    for host, path in (engines or {}).items():
        more += ["--engine", f"{host}={path}"]
    for address in unverified:
        more += ["--unverified", address]
    return (python, replica, "--listen-fd", "3", "--uds", uds, "--drain", str(drain), *more)


def fork_server(python: str) -> tuple[str, ...]:
    """The command line of the fork server, which imports LiteLLM once for all replicas."""
    return (python, str(files("llm_supervisor.engines.inside") / "fork_server.py"), "--engine", "litellm")


def late(config: Mapping[str, Any], keys: Collection[str]) -> frozenset[str]:
    """The variables that LiteLLM reads when it starts or is asked, and not while it is imported: where the
    configuration is, what that refers to, and keys. So another key is no reason to import everything again."""
    referred = {name for _, name in references(config) if not name.startswith("LITELLM_")}
    secret = {name for name in keys if name.startswith("LLM_SUPERVISOR_") or names_secret(name)}
    return frozenset({"CONFIG_FILE_PATH", MASTER_KEY, *referred, *secret})


def environment(config_file: str, master_key: str, keys: Mapping[str, str]) -> dict[str, str]:
    """What LiteLLM needs in its environment. ``keys`` are the engines' own, by variable."""
    return {
        "CONFIG_FILE_PATH": config_file,
        MASTER_KEY: master_key,
        # else it fetches a price list from the internet while it is imported: 8 s of nothing without one
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONUNBUFFERED": "1",
        **keys,
    }
