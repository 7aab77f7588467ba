"""`llm-supervisor env` and `verify`: how clients use the gateway, and whether it answers them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_supervisor.cli import connection
from llm_supervisor.cli.output import FAILED, OK, complain, print_problems, say, say_json, say_script
from llm_supervisor.ownership import NotOurs
from llm_supervisor.suggest import nearest

if TYPE_CHECKING:
    from llm_supervisor.oneshot.verify import Row

NO_KEY = "the gateway's key cannot be read; run this as the daemon's user"


def env(options: argparse.Namespace) -> int:
    """Print what a shell evaluates so that a client uses the gateway; with --write also write its settings file."""
    from llm_supervisor.oneshot import clients

    gateway = connection.find_gateway()
    if isinstance(gateway, int):
        return gateway
    status = gateway.status
    name = _client_model(status, options.client, options.model)
    if name is None:
        return complain(nearest(options.model or "", [one["name"] for one in status["models"]], "group"))
    model = next(one for one in status["models"] if one["name"] == name)
    if model["state"] == "disabled":
        return complain(f"{connection.disabled_text(model)}, or name another group by --model")
    key, key_file = gateway.key()
    if key is None:
        return complain(NO_KEY)
    made = clients.setup(options.client, status["endpoint"], key, name)
    if options.write:
        _write_settings(made.settings)
    if options.json:
        say_json({"variables": made.variables, "settings": dict(made.settings), "use": made.use})
    else:
        say_script(clients.script(made, key, key_file))
    return OK


def _client_model(status: connection.Status, client: str, asked: str | None) -> str | None:
    """The model group for a client: the one that was asked for, else the one with the client's name, else the first
    local one, else the first enabled one, else the first. None if there is no such group."""
    names = [model["name"] for model in status["models"]]
    if asked is not None:
        return asked if asked in names else None
    local = [model["name"] for model in status["models"] if model["local"]]
    enabled = [model["name"] for model in status["models"] if model["state"] != "disabled"]
    return next((name for name in (client, *local, *enabled, *names) if name in names), None)


def _write_settings(settings: Sequence[tuple[str, str]]) -> None:
    """Write the settings files (name, content) of a client that do not exist yet."""
    for name, content in settings:
        file = Path(name).expanduser()
        if file.exists():
            say(f"{file} exists already: add the lines below to it", error=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        say(f"{file} written", error=True)


def verify(options: argparse.Namespace) -> int:
    """Test the model groups with real requests; FAILED if one of them fails.

    Cloud groups cost money and are asked with --cloud only. Where no group is asked, the gateway itself is.
    """
    import asyncio

    from llm_supervisor.config import ConfigError
    from llm_supervisor.oneshot import verify

    gateway = connection.find_gateway()
    if isinstance(gateway, int):
        return gateway
    status = gateway.status
    known = [model["name"] for model in status["models"]]
    for name in options.name:
        if name not in known:
            return complain(nearest(name, known, "group"))
    key, _ = gateway.key()
    if key is None:
        return complain(NO_KEY)
    try:
        config = gateway.config()
    except ConfigError as error:
        return print_problems(error)
    except NotOurs as error:
        return complain(f"{error}: run this as the daemon's user")
    asked = [model for model in status["models"] if not options.name or model["name"] in options.name]
    disabled = [model for model in asked if model["state"] == "disabled"]
    if options.name and disabled:
        complain("; ".join(map(connection.disabled_text, disabled)))
        return FAILED
    groups = [model for model in asked if model not in disabled]
    cloud = [model["name"] for model in groups if not model["local"] and not options.cloud]
    questions = verify.plan(config, [model for model in groups if model["name"] not in cloud])
    todo = questions or [verify.ANSWERS]
    width = max([len(model["name"]) for model in groups] + [len(one.group) for one in todo], default=0)

    def show(row: Row) -> None:
        if not options.json:
            say(row.line(width), flush=True)

    rows = asyncio.run(verify.run(status["endpoint"], key, todo, options.timeout, show))
    ok = all(row.ok for row in rows)
    if options.json:
        left_out = cloud + [model["name"] for model in disabled]
        message = {"ok": ok, "endpoint": status["endpoint"], "left_out": left_out}
        say_json({**message, "rows": [row.message() for row in rows]})
        return OK if ok else FAILED
    _print_left_out(cloud, disabled, width)
    if questions:
        say(f"{sum(row.ok for row in rows)} of {len(rows)} passed")
    else:
        why = "--cloud asks the cloud groups" if groups else "there is no group that can be asked"
        say(f"No group was asked: {why}")
    return OK if ok else FAILED


def _print_left_out(cloud: Sequence[str], disabled: Sequence[dict[str, Any]], width: int) -> None:
    """Say which groups were not asked, and why."""
    for name in cloud:
        say(f"{name:<{width}}  left out: a cloud group (--cloud asks it too, which may cost money)")
    for model in disabled:
        say(connection.disabled_text(model))
