"""Checks of the options under ``vllm:`` that decide what kind of server is started, and how it is asked: servers that
answer no HTTP, or not where they are asked, and TLS. Whatever version of vLLM is installed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.document import Problem, Where
from llm_supervisor.config.option_paths import whole
from llm_supervisor.engines.vllm import options as engine_options

_ELSEWHERE = "start it as a program, under `programs:`"
# Options with which no server answers HTTP at the model's port, and what to do
_UNASKABLE = {
    "headless": ("starts no API server: neither the gateway nor a probe can ask it", _ELSEWHERE),
    "grpc": ("starts a server for gRPC instead of HTTP: neither the gateway nor a probe can ask it", _ELSEWHERE),
    "data-parallel-multi-port-external-lb": (
        "gives each rank a port of its own, and the gateway would ask the first one alone",
        "leave it out: data-parallel-size alone makes one server of all ranks",
    ),
}
# Files that vLLM reads when it starts, apart from those of TLS
_FILES = ("tool-parser-plugin", "reasoning-parser-plugin", "log-config-file")


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong with the servers of all models."""
    for alias, model in context.root.models.items():
        where: Where = ("models", alias, "vllm")
        written = {engine_options.normal(name): name for name in model.vllm}
        yield from _unaskable(context, where, model, written)
        yield from _tls(context, where, model, written)
        for name in _FILES:
            if name in written and (wrong := _unreadable(context, model.vllm[written[name]])):
                yield context.document.problem((*where, written[name]), wrong)


def _unaskable(context: Context, where: Where, model: schema.Model, written: Mapping[str, str]) -> Iterator[Problem]:
    for name, (message, advice) in _UNASKABLE.items():
        if name in written and model.vllm[written[name]] is True:
            yield context.document.problem((*where, written[name]), message, advice)
    count = model.vllm.get(written.get("api-server-count", ""))
    if isinstance(count, int) and not isinstance(count, bool) and count < 1:
        message = f"{count} API servers: neither the gateway nor a probe can ask it"
        yield context.document.problem((*where, written["api-server-count"]), message, "write 1 or more")


def _tls(context: Context, where: Where, model: schema.Model, written: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with the certificate, its key and its authorities, which uvicorn reads only when all is loaded."""
    said: dict[str, Any] = {name: model.vllm[written[name]] for name in written if name.startswith("ssl-")}
    places = {name: (*where, written[name]) for name in said}
    if any(context.has_placeholder_in(place) for place in places.values()):
        return
    problem = context.document.problem
    files = ("ssl-certfile", "ssl-keyfile", "ssl-ca-certs")
    unreadable = {name: _unreadable(context, said.get(name)) for name in files}
    for name, wrong in unreadable.items():
        if wrong:
            yield problem(places[name], wrong)
    certificate, key = said.get("ssl-certfile"), said.get("ssl-keyfile")
    if key and not certificate:
        yield problem(places["ssl-keyfile"], "has no certificate beside it", "write ssl-certfile, too")
    elif certificate and not any(unreadable.values()):
        pair = _wrong_pair(context, str(certificate), str(key) if key else None)
        if pair is not None:
            yield problem(places["ssl-certfile"], *pair)
    if said.get("ssl-cert-reqs") in (ssl.CERT_REQUIRED, str(int(ssl.CERT_REQUIRED))):
        message = "asks every client for a certificate, and neither the gateway nor a probe has one"
        yield problem(places["ssl-cert-reqs"], message, "leave it out, and write an api-key to keep others away")


def _unreadable(context: Context, value: object) -> str | None:
    """Why the file that an option names cannot be read; None where it can, or none is named."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    file = whole(value, context.path.parent)
    if not os.path.exists(file):
        return f"no such file: {file}"
    if os.path.isdir(file):
        return f"{file} is a folder"
    return None if os.access(file, os.R_OK) else f"{file} cannot be read by this user"


def _wrong_pair(context: Context, certificate: str, key: str | None) -> tuple[str, str] | None:
    """Message and advice for a certificate and its key; None where a server can use them."""
    base = context.path.parent
    protected = "its key has a passphrase, which vLLM cannot be given: it would ask for it at a terminal"

    def ask() -> bytes:
        raise ValueError(protected)

    files = (whole(certificate, base), whole(key, base) if key else None)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=ask)
    except ValueError:
        return protected, "write the key without a passphrase into a file that only this user can read"
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"is not the certificate of the key in {files[1] or files[0]}", ""
        if key is None:
            return f"there is no private key in {files[0]}", "write ssl-keyfile, too"
        return f"{files[0]} and {files[1]} are no certificate with its key in PEM ({error.reason or error})", ""
    except OSError as error:
        return f"{files[0]} cannot be read: {error.strerror}", ""
    return None
