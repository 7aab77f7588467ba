"""What a client needs so that it uses the gateway: variables for the shell, and lines for its settings file. Pure.

Sources: the clients' own documentation of their variables (Claude Code: LLM gateways; Codex: model providers; Gemini
CLI: settings.json; the openai library: environment).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from llm_supervisor.engines import canary

CLIENTS = ("claude-code", "codex", "gemini-cli", "openai")


@dataclass(frozen=True, slots=True)
class Setup:
    """``variables`` by name, ``settings`` as (file, its content), ``use`` a command that then works."""

    variables: dict[str, str]
    use: str
    settings: tuple[tuple[str, str], ...] = field(default=())


def setup(client: str, endpoint: str, key: str, model: str) -> Setup:
    """For one of ``CLIENTS``. ``endpoint`` is the gateway's address without a path, ``model`` a group of its."""
    match client:
        case "claude-code":
            variables = {
                "ANTHROPIC_BASE_URL": endpoint,
                "ANTHROPIC_AUTH_TOKEN": key,
                # it has a model for each purpose: all of them
                "ANTHROPIC_MODEL": model,
                "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
                "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
                "CLAUDE_CODE_SUBAGENT_MODEL": model,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }
            return Setup(variables, "claude -p 'say hello'")
        case "codex":
            lines = (
                f"model = {json.dumps(model)}",
                'model_provider = "llm-supervisor"',
                "",
                "[model_providers.llm-supervisor]",
                'name = "llm-supervisor"',
                f"base_url = {json.dumps(endpoint + '/v1')}",
                'env_key = "LLM_SUPERVISOR_KEY"',
                'wire_api = "responses"',
            )
            settings = (("~/.codex/config.toml", "\n".join(lines) + "\n"),)
            return Setup({"LLM_SUPERVISOR_KEY": key}, "codex exec 'say hello'", settings)
        case "gemini-cli":
            variables = {"GOOGLE_GEMINI_BASE_URL": endpoint, "GEMINI_API_KEY": key, "GEMINI_MODEL": model}
            chosen = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
            settings = (("~/.gemini/settings.json", json.dumps(chosen, indent=2) + "\n"),)
            return Setup(variables, "gemini -p 'say hello'", settings)
        case "openai":
            variables = {"OPENAI_BASE_URL": f"{endpoint}/v1", "OPENAI_API_KEY": key, "OPENAI_MODEL": model}
            return Setup(variables, 'python -c "import openai; print(openai.OpenAI().models.list())"')
    raise ValueError(f"no such client: {client}")


def quoted(text: str) -> str:
    """A word that a shell takes as it is, whatever is in it."""
    return "'" + text.replace("'", "'\\''") + "'"


def from_file(file: str) -> str:
    """What a shell replaces by the text of that file, within double quotes."""
    return f"$(cat {quoted(file)})"


def script(made: Setup, key: str, key_file: str | None = None) -> str:
    """For a shell to evaluate; the rest is comments. ``key`` is the one that ``made`` has; where it is in a file of
    ours (``key_file``) the shell reads it there. Everything else stands in single quotes: whoever gave a key may have
    put a ``$`` into it, which is for no shell to expand."""
    lines = []
    for name, value in made.variables.items():
        kept = key_file is not None and value == key
        lines.append(f"export {name}=" + (f'"{from_file(str(key_file))}"' if kept else quoted(value)))
    for file, content in made.settings:
        lines += ["", f"# {file}:", *(f"#   {line}".rstrip() for line in content.splitlines())]
    lines += ["", f"# then: {made.use}"]
    return "\n".join(lines)


def curl(endpoint: str, model: str, key: str, vision: bool) -> str:
    """A chat request for a shell that works when it is pasted, with a small picture in it for a vision model. ``key``
    is how the shell gets the key (a variable, or ``from_file``), never the key itself."""
    text = "Describe this image." if vision else "Say hello."
    body = json.dumps(canary.chat(model, text, vision=vision, max_tokens=32), separators=(",", ":"))
    return (
        f'curl -sS {endpoint}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
