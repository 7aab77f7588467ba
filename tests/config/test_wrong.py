"""Wrong configurations: a row is a file and everything that is said about it, each with its line and path.

A row is complete: what is not in it is not said. Nothing is ever raised but ConfigError.
"""

from __future__ import annotations

import pytest

from tests.config.conftest import Place, Said, assert_said

# Name, the file, what is said. A model needs a gateway: M is the shortest file with both, its model in line 3 and 4
M = "gateway: {}\nmodels:\n  a:\n    {model: tiny, port: 8000"
P = "programs:\n  p:\n    command: [sh]\n"

FILES: list[tuple[str, str, list[Said]]] = [
    # YAML itself
    ("empty", "", [(0, "", "is empty", "")]),
    ("only a comment", "# nothing\n", [(0, "", "is empty", "")]),
    ("null", "---\n", [(0, "", "is empty", "")]),
    ("a list", "- a\n- b\n", [(1, "", "must be a mapping", "")]),
    ("a word", "gateway\n", [(1, "", "must be a mapping", "")]),
    ("a number", "42\n", [(1, "", "must be a mapping", "")]),
    ("malformed", "gateway: {port: 4000\nmodels: {}\n", [(2, "", "is not valid YAML", "")]),
    ("unclosed quote", 'env_file: "keys\n', [(1, "", "is not valid YAML", "")]),
    ("bad indent", "gateway:\n  port: 1\n host: x\n", [(3, "", "is not valid YAML", "")]),
    ("a tab", "gateway:\n\tport: 4000\n", [(2, "", "is not valid YAML", "indent with spaces")]),
    ("no colon", "gateway:\n  port 4000\n  host: x\n", [(3, "", "is not valid YAML", "")]),
    ("two documents", "gateway: {}\n---\ngateway: {}\n", [(2, "", "is not valid YAML", "")]),
    ("unknown alias", "gateway: *there\n", [(1, "", "is not valid YAML", "")]),
    ("unknown tag", "gateway: !secret x\n", [(1, "gateway", "'!secret' is no tag", "")]),
    ("a value that is none of its tag", "gateway: {port: !!int x}\n", [(1, "gateway.port", "is not valid YAML", "")]),
    ("a bad bool", "gateway: {}\nenv_file: !!bool x\n", [(2, "env_file", "is not valid YAML", "")]),
    ("an endless alias", "gateway: &a {env: *a}\n", [(1, "gateway.env", "contains itself", "")]),
    ("control characters", "gateway: {}\n\x07\n", [(2, "", "is not valid YAML", "take it out")]),
    ("a mapping as a key", "gateway: {}\n? {a: b}\n: c\n", [(2, "", "a key must be a plain word", "")]),
    # Keys
    (
        "written twice",
        "gateway:\n  port: 4000\n  host: 127.0.0.1\n  port: 4001\n",
        [(4, "gateway.port", "is written twice; the first is in line 2", "")],
    ),
    ("a block twice", "gateway: {}\ngateway: {}\n", [(2, "gateway", "is written twice; the first is in line 1", "")]),
    (
        "a model twice",
        M + "}\n  a: {model: tiny, port: 8001}\n",
        [(5, "models.a", "written twice; the first is in line 3", "")],
    ),
    ("unknown at the top", "gatway: {}\n", [(1, "gatway", "unknown key", "did you mean gateway?")]),
    ("unknown and nothing near", "zzz: 1\n", [(1, "zzz", "unknown key", "known here: gateway, env_file,")]),
    ("unknown in the gateway", "gateway: {prot: 1}\n", [(1, "gateway.prot", "unknown key", "did you mean port?")]),
    (
        "unknown in a model",
        M + ",\n     visoin: true}\n",
        [(5, "models.a.visoin", "unknown key", "did you mean vision?")],
    ),
    ("unknown in health", M + ", health: {tiemout: 1}}\n", [(4, "models.a.health.tiemout", "unknown", "timeout?")]),
    (
        "unknown in restart",
        M + ", restart: {intencity: 1}}\n",
        [(4, "models.a.restart.intencity", "unknown", "intensity?")],
    ),
    ("unknown in stop", M + ", stop: {sginal: 1}}\n", [(4, "models.a.stop.sginal", "unknown", "signal?")]),
    ("unknown in a program", P + "    autorestart: true\n", [(4, "programs.p.autorestart", "unknown", "autostart?")]),
    (
        "unknown in ready",
        P + "    ready: {tpc: x}\n",
        [(4, "programs.p.ready.tpc", "unknown key", "did you mean tcp?")],
    ),
    (
        "unknown in engines",
        "engines: {vlm: {python: python}}\n",
        [(1, "engines.vlm", "unknown key", "did you mean vllm?")],
    ),
    (
        "unknown in an engine",
        "engines: {vllm: {python: python, pip: x}}\n",
        [(1, "engines.vllm.pip", "unknown", "python")],
    ),
    ("unknown in logs", "logs: {backup: 3}\n", [(1, "logs.backup", "unknown key", "did you mean backups?")]),
    ("a key that is no word", "gateway: {}\n5: x\n", [(2, "5", "unknown key", "known here")]),
    # Missing
    ("no model", "gateway: {}\nmodels: {a: {port: 8000}}\n", [(2, "models.a.model", "is missing", "")]),
    ("no port", "gateway: {}\nmodels: {a: {model: tiny}}\n", [(2, "models.a.port", "is missing", "")]),
    ("no command", "programs: {p: {}}\n", [(1, "programs.p.command", "is missing", "")]),
    ("no python", "engines: {vllm: {}}\n", [(1, "engines.vllm.python", "is missing", "")]),
    ("nothing in a model", "gateway: {}\nmodels:\n  a:\n", [(3, "models.a", "must be a mapping, not nothing", "")]),
    ("nothing in a program", "programs:\n  p:\n", [(2, "programs.p", "must be a mapping, not nothing", "")]),
    ("nothing in models", "gateway: {}\nmodels:\n", [(2, "models", "must be a mapping, not nothing", "")]),
    (
        "models without a gateway",
        "models:\n  a: {model: tiny, port: 1}\n",
        [(1, "models", "no gateway", "`gateway: {}`")],
    ),
    # Types
    ("a port of text", 'gateway: {port: "4000"}\n', [(1, "gateway.port", "must be a", "")]),
    ("a port of a word", "gateway: {port: http}\n", [(1, "gateway.port", "whole number, not 'http'", "")]),
    ("port 0", "gateway: {port: 0}\n", [(1, "gateway.port", "at least 1, not 0", "")]),
    ("port 65536", "gateway: {port: 65536}\n", [(1, "gateway.port", "at most 65535", "")]),
    ("a negative port", "gateway: {port: -1}\n", [(1, "gateway.port", "at least 1", "")]),
    ("a port of true", "gateway: {port: true}\n", [(1, "gateway.port", "whole number, not true", "")]),
    ("a broken port", "gateway: {port: 4000.5}\n", [(1, "gateway.port", "whole number, not 4000.5", "")]),
    ("a host of a list", "gateway: {host: [a]}\n", [(1, "gateway.host", "text, not a list", "")]),
    ("a flag of a word", M + ", vision: maybe}\n", [(4, "models.a.vision", "true or false, not 'maybe'", "")]),
    ("a flag of a number", M + ", autostart: 1}\n", [(4, "models.a.autostart", "true or false, not 1", "")]),
    (
        "an unknown source",
        M + ", source: hugginface}\n",
        [(4, "models.a.source", "huggingface, modelscope or", "")],
    ),
    (
        "an unknown policy",
        M + ", restart: {policy: sometimes}}\n",
        [(4, "models.a.restart.policy", "always, on-failure", "")],
    ),
    (
        "an unknown warm",
        "gateway: {warm: hot}\n",
        [(1, "gateway.warm", "auto, full, api or off, not 'hot'", "")],
    ),
    ("an unknown ready_when", "gateway: {}\nready_when: some\n", [(2, "ready_when", "gateway or all", "")]),
    ("a model as a list", "gateway: {}\nmodels: [a]\n", [(2, "models", "must be a mapping, not a list", "")]),
    ("health as a word", M + ", health: good}\n", [(4, "models.a.health", "must be a mapping, not 'good'", "")]),
    ("vllm as a list", M + ", vllm: [a]}\n", [(4, "models.a.vllm", "must be a mapping, not a list", "")]),
    ("gpus as a number", M + ", gpus: 0}\n", [(4, "models.a.gpus", "must be a list, not 0", "")]),
    (
        "several wrong gpus",
        M + ", gpus: [0, x, -1, 1.5]}\n",
        [
            (4, "models.a.gpus[1]", "whole number, not 'x'", ""),
            (4, "models.a.gpus[2]", "at least 0, not -1", ""),
            (4, "models.a.gpus[3]", "whole number, not 1.5", ""),
        ],
    ),
    ("a gpu twice", M + ", gpus: [1, 0, 1]}\n", [(4, "models.a.gpus", "names one GPU twice", "")]),
    ("a command line", "programs: {p: {command: sleep 5}}\n", [(1, "programs.p.command", '["sleep", "5"]', "")]),
    ("an empty command", "programs: {p: {command: []}}\n", [(1, "programs.p.command", "must not be empty", "")]),
    (
        "an odd word in a command",
        "programs: {p: {command: [a, [b], {c: d}]}}\n",
        [
            (1, "programs.p.command[1]", "text, not a list", ""),
            (1, "programs.p.command[2]", "text, not a mapping", ""),
        ],
    ),
    ("an odd variable", P + "    env: {A: [1]}\n", [(4, "programs.p.env.A", "text, not a list", "")]),
    ("a variable that is nothing", P + "    env: {A: }\n", [(4, "programs.p.env.A", "text, not nothing", "")]),
    ("a variable without a name", P + '    env: {"": x}\n', [(4, "programs.p.env.", "is no name of a variable", "")]),
    ("a variable with =", P + "    env: {A=B: x}\n", [(4, "programs.p.env.A=B", "is no name of a variable", "")]),
    ("a NUL in a variable", P + '    env: {A: "x\\0"}\n', [(4, "programs.p.env.A", "NUL", "")]),
    ("a NUL in a command", 'programs: {p: {command: [a, "x\\0"]}}\n', [(1, "programs.p.command[1]", "NUL", "")]),
    # Durations, sizes, signals
    (
        "a duration of a word",
        M + ", health: {period: soon}}\n",
        [(4, "models.a.health.period", "'soon' is no duration; write", "")],
    ),
    ("a unit", M + ", health: {period: 5x}}\n", [(4, "models.a.health.period", "'5x' is no duration", "")]),
    ("zero", M + ", health: {period: 0}}\n", [(4, "models.a.health.period", "more than 0, not 0", "")]),
    ("zero of text", M + ", health: {timeout: 0s}}\n", [(4, "models.a.health.timeout", "more than 0", "")]),
    ("negative", M + ", stop: {grace: -5}}\n", [(4, "models.a.stop.grace", "-5 is no duration", "")]),
    ("true", M + ", stop: {grace: true}}\n", [(4, "models.a.stop.grace", "True is no duration", "")]),
    ("infinite", M + ", stop: {grace: .inf}}\n", [(4, "models.a.stop.grace", "inf is no duration", "")]),
    ("not a number", M + ", stop: {grace: .nan}}\n", [(4, "models.a.stop.grace", "nan is no duration", "")]),
    ("too long", M + ", stop: {grace: %s}}\n" % ("9" * 400 + "h"), [(4, "models.a.stop.grace", "is no duration", "")]),
    ("nothing", M + ", stop: {grace: }}\n", [(4, "models.a.stop.grace", "None is no duration", "")]),
    ("hold", "gateway: {hold: 5x}\n", [(1, "gateway.hold", "'5x' is no duration; write", "")]),
    ("no size", "logs: {max_bytes: lots}\n", [(1, "logs.max_bytes", "'lots' is no size; write bytes, or 512K", "")]),
    ("size 0", "logs: {max_bytes: 0}\n", [(1, "logs.max_bytes", "0 is no size", "")]),
    ("size 0 of text", "logs: {max_bytes: 0MB}\n", [(1, "logs.max_bytes", "'0MB' is no size", "")]),
    ("size too large", "logs: {max_bytes: %sG}\n" % ("9" * 400), [(1, "logs.max_bytes", "is no size", "")]),
    ("no backups", "logs: {backups: 0}\n", [(1, "logs.backups", "at least 1", "")]),
    (
        "no signal",
        M + ", stop: {signal: TREM}}\n",
        [(4, "models.a.stop.signal", "'TREM' is no signal; write TERM", "")],
    ),
    ("signal 0", M + ", stop: {signal: 0}}\n", [(4, "models.a.stop.signal", "0 is no signal", "")]),
    ("signal 99", M + ", stop: {signal: 99}}\n", [(4, "models.a.stop.signal", "99 is no signal", "")]),
    ("signal false", M + ", stop: {signal: no}}\n", [(4, "models.a.stop.signal", "False is no signal", "")]),
    (
        "a threshold of 0",
        M + ", health: {failure_threshold: 0}}\n",
        [(4, "models.a.health.failure_threshold", "1", "")],
    ),
    ("a factor below 1", M + ", restart: {backoff_factor: 0.5}}\n", [(4, "models.a.restart.backoff_factor", "1", "")]),
    # Models
    (
        "no folder",
        "gateway: {}\nmodels: {a: {model: ./none, port: 1}}\n",
        [(2, "models.a.model", "no such folder: {tmp}/none", "")],
    ),
    (
        "no absolute folder",
        "gateway: {}\nmodels: {a: {model: /none, port: 1}}\n",
        [(2, "models.a.model", "folder: /none", "")],
    ),
    (
        "a file",
        "gateway: {}\nmodels: {a: {model: ./native.yaml, port: 1}}\n",
        [(2, "models.a.model", "native.yaml is a file", "")],
    ),
    (
        "a source of path",
        "gateway: {}\nmodels: {a: {model: none, source: path, port: 1}}\n",
        [(2, "models.a.model", "no such folder: {tmp}/none", "")],
    ),
    (
        "no model folder",
        "gateway: {}\nmodels: {a: {model: bare, port: 1}}\n",
        [(2, "models.a.model", "{tmp}/bare has no config.json", "")],
    ),
    (
        "a NUL in a folder",
        'gateway: {}\nmodels: {a: {model: "./x\\0", port: 1}}\n',
        [(2, "models.a.model", "holds a NUL", "")],
    ),
    (
        "too long a folder",
        "gateway: {}\nmodels: {a: {model: ./%s, port: 1}}\n" % ("x" * 5000),
        [(2, "models.a.model", "no such folder", "")],
    ),
    *(
        (
            f"reserved {option}",
            M + f", vllm: {{{option}: x}}}}\n",
            [(4, f"models.a.vllm.{option}", "must not be set here", advice)],
        )
        for option, advice in [
            ("model", "`model:`"),
            ("served-model-name", "`served_model_name:`"),
            ("served_model_name", "`served_model_name:`"),
            ("port", "`port:`"),
            ("--port", "`port:`"),
            ("host", "loopback only"),
            ("uds", "`uds:`"),
        ]
    ),
    (
        "one option in two spellings",
        M + ",\n     vllm: {max-model-len: 1,\n            max_model_len: 2}}\n",
        [(6, "models.a.vllm.max_model_len", "is the same option as max-model-len", "")],
    ),
    (
        "litellm's model",
        M + ", litellm: {model: x}}\n",
        [(4, "models.a.litellm.model", "is set by llm-supervisor", "")],
    ),
    ("litellm's api_base", M + ", litellm: {api_base: x}}\n", [(4, "models.a.litellm.api_base", "is set by", "")]),
    ("litellm's api_key", M + ", litellm: {api_key: x}}\n", [(4, "models.a.litellm.api_key", "is set by", "")]),
    ("model_info", M + ", litellm: {model_info: 5}}\n", [(4, "models.a.litellm.model_info", "must be a mapping", "")]),
    (
        "an unset key in litellm",
        M + ", litellm: {x: os.environ/NONE}}\n",
        [(4, "models.a.litellm.x", "os.environ/NONE is not set", "NONE")],
    ),
    (
        "a key that no header can carry",
        M + ", vllm: {api-key: schlüssel}}\n",
        [(4, "models.a.vllm.api-key", "ASCII", "")],
    ),
    # Names and ports
    (
        "a port twice",
        M + "}\n  b:\n    {model: tiny, port: 8000}\n",
        [(6, "models.b.port", "port 8000 is already used by a", "")],
    ),
    (
        "the gateway's port",
        "gateway: {port: 8000}\nmodels: {a: {model: tiny, port: 8000}}\n",
        [(2, "models.a.port", "already used by gateway", "")],
    ),
    (
        "its default",
        "gateway: {}\nmodels: {a: {model: tiny, port: 4000}}\n",
        [(2, "models.a.port", "already used by gateway", "")],
    ),
    (
        "one name twice",
        M + "}\nprograms: {a: {command: [sh]}}\n",
        [(5, "programs.a", "there is a model of that name", "")],
    ),
    (
        "named gateway",
        "programs: {gateway: {command: [sh]}}\n",
        [(1, "programs.gateway", "the gateway's own name", "")],
    ),
    *(
        (
            f"the name {name}",
            f'programs: {{"{name}": {{command: [sh]}}}}\n',
            [(1, f"programs.{name}", "is not a valid name", "letters, digits")],
        )
        for name in (
            "a/b",
            "a b",
            ".hidden",
            "-x",
            "ü",
            "x.log",
            "y" * 64,
            "",
            "..",
        )
    ),
    # Programs
    (
        "two ways",
        P + "    ready: {tcp: '127.0.0.1:1', after: 1}\n",
        [(4, "programs.p.ready", "exactly one of tcp, http, after", "")],
    ),
    ("no way", P + "    ready: {}\n", [(4, "programs.p.ready", "exactly one of tcp, http, after", "")]),
    *(
        (
            f"tcp {address}",
            P + f'    ready: {{tcp: "{address}"}}\n',
            [(4, "programs.p.ready.tcp", "is no host:port", "")],
        )
        for address in (
            *("6379", ":6379", "localhost", "localhost:", "localhost:redis", "localhost:0", "localhost:70000"),
            *(
                "http://h:80",
                "127.0.0.1:80:90",
                " h:80",
                "h :80",
                "h/x:80",
                "[h]:80",
                "[127.0.0.1]:80",
                "[::1:80",
                "[]:1",
            ),
        )
    ),
    ("tcp as a number", P + "    ready: {tcp: 6379}\n", [(4, "programs.p.ready.tcp", "text, not 6379", "")]),
    *(
        (f"http {url}", P + f'    ready: {{http: "{url}"}}\n', [(4, "programs.p.ready.http", "http:// URL", "")])
        for url in (
            "https://localhost/",
            "localhost:80",
            "http://",
            "http:///x",
            "http://localhost:x/",
            "http://[::1",
            "http://h:70000",
        )
    ),
    ("no cwd", P + "    cwd: none\n", [(4, "programs.p.cwd", "no such folder: none", "")]),
    ("replicas", "gateway: {replicas: 0}\n", [(1, "gateway.replicas", "must be at least 1", "")]),
    (
        "a replica's name",
        "gateway: {}\nprograms: {gateway-2: {command: [sh]}}\n",
        [(2, "programs.gateway-2", "is the gateway's own name", "")],
    ),
    (
        "no python there",
        "engines: {vllm: {python: ./none}}\n",
        [(1, "engines.vllm.python", "no such program: ./none", "")],
    ),
    (
        "a folder as python",
        "engines: {litellm: {python: ./bare}}\n",
        [(1, "engines.litellm.python", "is a folder", "")],
    ),
    (
        "python that cannot run",
        "engines: {vllm: {python: native.yaml}}\n",
        [(1, "engines.vllm.python", "cannot be executed", "chmod +x")],
    ),
    # Other files
    (
        "no env_file",
        "gateway: {}\nenv_file: none.env\n",
        [(2, "env_file", "{tmp}/none.env: No such file or directory", "")],
    ),
    ("a folder as env_file", "gateway: {}\nenv_file: bare\n", [(2, "env_file", "{tmp}/bare: Is a directory", "")]),
    ("a NUL in env_file", 'gateway: {}\nenv_file: "x\\0"\n', [(2, "env_file", "holds a NUL", "")]),
    (
        "no litellm_config",
        "gateway:\n  litellm_config: none.yaml\n",
        [(2, "gateway.litellm_config", "no such file: {tmp}/none.yaml", "")],
    ),
    (
        "a NUL in litellm_config",
        'gateway: {litellm_config: "x\\0"}\n',
        [(1, "gateway.litellm_config", "holds a NUL", "")],
    ),
    (
        "a folder as litellm_config",
        "gateway: {litellm_config: bare}\n",
        [(1, "gateway.litellm_config", "cannot be read: Is a directory: {tmp}/bare", "")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_wrong_file(place: Place, text: str, expected: list[Said]) -> None:
    problems = place.problems(text)
    assert_said(place, problems, "supervisor.yaml", expected)


def test_there_are_no_two_rows_of_one_name() -> None:
    names = [row[0] for row in FILES]
    assert len(set(names)) == len(names)
