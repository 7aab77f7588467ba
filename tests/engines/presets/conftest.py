"""The presets on the real engines: what ``init`` writes, with a tiny model of the same architecture in the place of the
real one, asked through the gateway by the ``openai`` client."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion

from llm_supervisor import paths
from llm_supervisor.config import load, plan
from llm_supervisor.engines import canary
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.vllm import installed_options
from llm_supervisor.supervision.resources import find_pythons
from tests.engines.conftest import KEEPER, ROOT, Engines, Shared
from tests.support.programs import command_line

MAKER = ROOT / "tests/engines/tiny/make.py"
ASK = "What is this?"
TOKENS = 12


@dataclass(frozen=True)
class Preset:
    """One that runs, and a client of its gateway as it is made by whoever has the key."""

    daemon: Shared
    client: openai.OpenAI
    alias: str
    keys: Mapping[str, str]

    def chat(self, *parts: str | dict[str, Any], **more: Any) -> ChatCompletion:
        """The answer to these parts, always the same one to the same."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        body = {"model": self.alias, "temperature": 0, "max_tokens": TOKENS, **more}
        return self.client.chat.completions.create(messages=[{"role": "user", "content": content}], **body)

    def prompt_tokens(self, *parts: str | dict[str, Any]) -> int:
        """How many tokens these parts are for the model."""
        usage = self.chat(*parts, max_tokens=1).usage
        assert usage is not None
        return usage.prompt_tokens

    def refused(self, *parts: str | dict[str, Any], **more: Any) -> str:
        """The words of the 400 that these parts get."""
        try:
            answer = self.chat(*parts, **more)
        except openai.BadRequestError as error:
            return error.message
        raise AssertionError(f"answered: {answer}")

    def argv(self, alias: str) -> str:
        """The command line of its engine, as it is planned. A process that a fork server has started shows as much of
        it as there is room for."""
        environ = self.daemon.env
        data = paths.data_dir(environ)
        config = load(self.daemon.config_files, environ, lambda python: installed_options.known(python or "", data))
        planned = plan(config, runtime=self.daemon.runtime, pythons=find_pythons(config, data), master_key="sk-none")
        words = " ".join(planned.programs[alias].spec.launch.argv)
        shown = command_line(self.daemon.program(alias)["pid"])
        assert words.startswith(shown[:200].strip()), shown
        return words

    @property
    def files(self) -> list[str]:
        """Its configuration, for a command."""
        return [word for file in self.daemon.config_files for word in ("-c", str(file))]

    def models(self) -> list[dict[str, Any]]:
        """What the status says of its models."""
        return [one for one in self.daemon.status()["models"] if one["name"] != KEEPER]

    def verified(self, *groups: str) -> dict[str, dict[str, Any]]:
        """What ``verify`` says, by group and question; all is well."""
        of_it = groups or [one["name"] for one in self.models() if one["state"] != "disabled"]
        done = self.daemon.cli("verify", "--json", *of_it, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return {f"{row['group']} {row['check']}": row for row in json.loads(done.stdout)["rows"]}

    def groups(self) -> dict[str, dict[str, Any]]:
        """What ``/model_group/info`` shows to clients."""
        url, headers = str(self.client.base_url).removesuffix("v1/"), {"Authorization": f"Bearer {self.client.api_key}"}
        answer = httpx.get(f"{url}model_group/info", headers=headers, trust_env=False)
        return {group["model_group"]: group for group in answer.json()["data"]}


@contextmanager
def running(
    name: str, shared: Shared, models: Mapping[str, Mapping[str, Any]], at_model: Path | None = None
) -> Iterator[Preset]:
    """A preset as ``init`` makes it, with a second file of what a person changes: ``models``, where the engines are,
    and what a machine with little memory, no GPU and no compiler asks for. A model for which no folder is said is the
    tiny one of ``at_model``, and is started by the shared daemon's fork server."""
    shutil.rmtree(shared.current)
    folder = shared.current
    subprocess.run([sys.executable, "-m", "llm_supervisor.cli", "init", name, str(folder)], check=True, timeout=60)
    changed = {
        alias: {**shared.like_the_keeper, **more, "vllm": {"enforce-eager": True, **more.get("vllm", {})}}
        for alias, more in models.items()
    }
    lines = (folder / "keys.env").read_text().splitlines()
    keys = dict(line.split("=", 1) for line in lines if "=" in line)
    # pictures by address are served by the tests, on this machine
    here_too = {"gateway": {"media": {"allow_hosts": ["127.0.0.1"]}}, "models": changed}
    with shared.using(here_too, at_model), httpx.Client(trust_env=False, timeout=120) as http:
        client = openai.OpenAI(
            base_url=shared.status()["endpoint"] + "/v1",
            api_key=keys["LITELLM_MASTER_KEY"],
            max_retries=0,
            http_client=http,
        )
        yield Preset(shared, client, next(iter(models)), keys)


def tiny(engines: Engines, kind: str) -> Path:
    """The tiny model of that kind, made once for as long as its maker stays as it is."""
    makers = [envs.INSIDE / "tiny_glm41v.py", *sorted(MAKER.parent.rglob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in makers)).hexdigest()[:12]
    folder = ROOT / f".demo/tiny-{kind}-{digest}"
    if not folder.is_dir():
        subprocess.run([engines.vllm, MAKER, kind, folder], check=True, timeout=120)
    return folder


def tokens_of(model: Path) -> dict[str, int]:
    """A model's tokens by their text."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return {token.replace("Ġ", " "): number for token, number in tokenizer["model"]["vocab"].items()} | added


def image(blue: int = 96, **more: str) -> dict[str, Any]:
    """A picture; another ``blue``, another picture."""
    return by_url(canary.image_url(blue), **more)


def by_url(url: str, **more: str) -> dict[str, Any]:
    """A picture that is somewhere."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


@contextmanager
def served(picture: bytes) -> Iterator[str]:
    """The address of a picture, for as long as the context lasts."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/picture.png"
        finally:
            server.shutdown()
            thread.join()


def said(answer: ChatCompletion) -> str:
    """Its words; a reasoning parser may have taken them."""
    message = answer.choices[0].message
    return (message.content or "") + str((message.model_extra or {}).get("reasoning_content") or "")
