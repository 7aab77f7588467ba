"""What clients are told to use the gateway by."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from llm_supervisor.oneshot import clients

END = "http://127.0.0.1:4000"


# All that means something to a shell, and what would be done if it did
ODD = "sk-pa$$word$HOME`touch trace`$(touch trace)\\\\\"\\'()[]{}<>|&;!*?~#% \tü"
WORDS = ["sk-plain", ODD, "'", "''", "a'b'c", "-n", "$(", "`", '"', "\\", "!x", "${HOME}", "a\nb"]


def evaluated(script: str, folder: Path, shell: str = "bash") -> dict[str, str]:
    """The variables that a shell has after it; there is nothing in the folder that was not there before."""
    before = sorted(folder.iterdir())
    done = subprocess.run(
        [shell, "-c", f"{script}\nenv -0"], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"}, cwd=folder
    )
    assert done.stderr == b""
    assert sorted(folder.iterdir()) == before
    pairs = (item.partition("=") for item in done.stdout.decode().split("\0") if item)
    return {name: value for name, _, value in pairs if name not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_")}


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("client", clients.CLIENTS)
def test_a_shell_evaluates_it(client: str, shell: str, tmp_path: Path) -> None:
    """Whatever is in the key and in the model's name."""
    for key in WORDS:
        made = clients.setup(client, END, key, 'it\'s "odd" $HOME')
        script = clients.script(made, key)
        assert evaluated(script, tmp_path, shell) == made.variables
        assert key in made.variables.values()
        assert made.use.split()[0] in script


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_shell_reads_our_own_key_from_its_file(shell: str, tmp_path: Path) -> None:
    """Wherever that is, and the key itself is not in the script."""
    key = "sk-0123456789abcdefghij"
    for name in WORDS:
        file = tmp_path / f"x{name}" / "master_key"
        file.parent.mkdir()
        file.write_text(f"{key}\n")
        made = clients.setup("claude-code", END, key, "m")
        script = clients.script(made, key, str(file))
        assert key not in script
        assert evaluated(script, tmp_path, shell) == made.variables


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


@pytest.mark.parametrize("vision", [False, True])
def test_the_example_works_when_it_is_pasted(vision: bool, tmp_path: Path) -> None:
    """A shell hands the key and the body to curl as they are meant."""
    (tmp_path / "key").write_text("sk-x\n")
    line = clients.curl(END, "glm", clients.from_file(str(tmp_path / "key")), vision)
    done = subprocess.run(["sh", "-c", f'curl() {{ printf "%s\\0" "$@"; }}; {line}'], capture_output=True, check=True)
    words = done.stdout.decode().split("\0")
    assert f"{END}/v1/chat/completions" in words
    assert "Authorization: Bearer sk-x" in words
    body = json.loads(words[words.index("-d") + 1])
    (message,) = body["messages"]
    assert body["model"] == "glm"
    assert isinstance(message["content"], list) is vision
