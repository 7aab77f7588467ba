"""What clients are told to use the gateway by."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest

from llm_supervisor import clients

END = "http://127.0.0.1:4000"


def evaluated(script: str) -> dict[str, str]:
    """The variables that a shell has after it."""
    done = subprocess.run(
        ["sh", "-c", f"{script}\nenv -0"], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    pairs = (item.partition("=") for item in done.stdout.decode().split("\0") if item)
    return {name: value for name, _, value in pairs if name not in ("PATH", "PWD", "SHLVL", "_")}


@pytest.mark.parametrize("client", clients.CLIENTS)
def test_a_shell_evaluates_it(client: str) -> None:
    key = "$(printf 'sk-%s' x)"
    made = clients.setup(client, END, key, 'it\'s "odd" $HOME')
    got = evaluated(clients.script(made, key))
    assert got == {name: "sk-x" if value == key else value for name, value in made.variables.items()}
    assert "sk-x" in got.values()
    assert made.use.split()[0] in clients.script(made, key)


def test_each_finds_the_gateway() -> None:
    claude = clients.setup("claude-code", END, "k", "m").variables
    assert (claude["ANTHROPIC_BASE_URL"], claude["ANTHROPIC_AUTH_TOKEN"]) == (END, "k")
    assert {value for name, value in claude.items() if name.endswith("_MODEL")} == {"m"}
    codex = clients.setup("codex", END, "k", "m")
    ((file, content),) = codex.settings
    assert file == "~/.codex/config.toml"
    settings = tomllib.loads(content)
    provider = settings["model_providers"][settings["model_provider"]]
    assert (settings["model"], provider["base_url"], provider["wire_api"]) == ("m", f"{END}/v1", "responses")
    assert codex.variables[provider["env_key"]] == "k"
    gemini = clients.setup("gemini-cli", END, "k", "m")
    assert gemini.variables["GOOGLE_GEMINI_BASE_URL"] == END
    ((file, content),) = gemini.settings
    assert json.loads(content)["security"]["auth"]["selectedType"] == "gemini-api-key"
    openai = clients.setup("openai", END, "k", "m").variables
    assert (openai["OPENAI_BASE_URL"], openai["OPENAI_API_KEY"]) == (f"{END}/v1", "k")
    with pytest.raises(ValueError, match="no such client"):
        clients.setup("other", END, "k", "m")
