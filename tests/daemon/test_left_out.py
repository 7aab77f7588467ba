"""What the gateway serves without although it is configured shows in its health: nothing that it answers would tell."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.daemon.conftest import played
from tests.daemon.test_readiness import engine_config
from tests.support.harness import Daemon


def test_a_guardrail_that_the_gateway_leaves_out_degrades_it(tmp_path: Path) -> None:
    config = engine_config(played(tmp_path))
    said = "Skipping guardrail 'pii-mask': invalid configuration, proxy is starting WITHOUT this guardrail: odd"
    config["gateway"]["env"] = {"SAYS": f"09:08:47 - LiteLLM Proxy:ERROR: init_guardrails.py:38 - {said}"}
    with Daemon(tmp_path, config) as daemon:
        gateway = daemon.wait("gateway", state="RUNNING", health="degraded")
        assert "LiteLLM serves WITHOUT the guardrail pii-mask" in json.dumps(gateway)
        os.kill(gateway["pid"], signal.SIGKILL)
        daemon.wait("gateway", state="RUNNING", health="degraded", restarts=gateway["restarts"] + 1)
        assert daemon.end() == 0
