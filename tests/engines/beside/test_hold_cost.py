"""What the callback that holds requests costs each of them, in LiteLLM's own environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llm_supervisor.engines.environment import INSIDE
from tests.engines.conftest import Engines

COST = """
import asyncio, json, sys, time
sys.path.insert(0, sys.argv[1])
from litellm_hold import Hold
with open(sys.argv[2], "w") as file:
    up = {"up": True, "until": 0, "final": False, "retry_after": 1, "why": ""}
    engines = {f"http://127.0.0.1:{port}/v1": up for port in range(8000, 8010)}
    json.dump({"at": time.monotonic(), "engines": engines}, file)
hold = Hold(sys.argv[2])
deployments = [{"litellm_params": {"api_base": f"http://127.0.0.1:{port}/v1"}} for port in range(8000, 8004)]
async def main():
    for count in (100, 20000):
        began = time.process_time()
        for _ in range(count):
            await hold.async_filter_deployments("m", deployments, None, {"metadata": {}})
        took = (time.process_time() - began) / count
    print(took * 1e6)
asyncio.run(main())
"""


def test_it_costs_microseconds_when_all_is_well(engines: Engines, tmp_path: Path) -> None:
    command = [engines.litellm, "-c", COST, INSIDE, tmp_path / "engines.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    microseconds = float(done.stdout.split()[-1])
    print(f"the callback costs {microseconds:.1f} us a request")
    assert microseconds < 100
