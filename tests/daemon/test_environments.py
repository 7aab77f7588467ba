"""What the processes of a daemon really have in their environment: no key that is another program's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, program
from tests.support.harness import free_port

pytestmark = pytest.mark.slow

OWN = {"ANTHROPIC_API_KEY": "sk-ant-own", "AWS_SECRET_ACCESS_KEY": "aws-own", "HF_TOKEN": "hf_own1234567890"}
OF_FILE = {
    "OPENAI_API_KEY": "sk-file",
    "LITELLM_MASTER_KEY": "sk-master-0123456789abcdef0123",
    "DATABASE_PASSWORD": "word-file",
    "HF_HOME": "/tmp/hf-of-the-file",
}


def variables(pid: int) -> dict[str, str]:
    """The environment of a process as the kernel has it."""
    items = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(item.split("=", 1) for item in items if "=" in item)


def test_each_program_gets_what_it_needs(make: Make, engines: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    keys = tmp_path / "d" / "keys.env"
    keys.write_text("".join(f"{name}={value}\n" for name, value in OF_FILE.items()))
    keys.chmod(0o600)
    quick = {"health": {"canary": False}, "warm": "off"}
    daemon = make(
        {"plain": program("obedient"), "named": program("obedient", env={"MY_KEY": "os.environ/OPENAI_API_KEY"})},
        env=OWN,
        engines=engines,
        env_file="keys.env",
        gateway={"port": free_port(), **quick},
        models={"one": {"model": "nobody/nothing", "port": free_port(), **quick}},
    )
    daemon.wait_ready()
    seen = {one["name"]: variables(one["pid"]) for one in daemon.status()["programs"]}
    assert all(values["PATH"] for values in seen.values())
    named = {name: {*OWN, *OF_FILE, "MY_KEY"} & values.keys() for name, values in seen.items()}
    assert named == {
        "one": {"HF_TOKEN", "HF_HOME"},
        "gateway": {*OWN, *OF_FILE} - {"HF_TOKEN"},
        "plain": set(),
        "named": {"MY_KEY"},
    }
    assert seen["named"]["MY_KEY"] == OF_FILE["OPENAI_API_KEY"]
