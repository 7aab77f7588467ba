"""Figures of the real engines: `make bench-engines` (ten minutes). Ratios of one run matter.

first start   until everything is ready, without and with warm starts: these must not make it slower
warm          LiteLLM killed to an answer, vLLM's tree killed to an answer about an image: cold, and the median of ten
speed         tokens a second of one stream, of cold and warm engines in turn

Exits with 1 beyond the budgets: 1.05, 0.05 and 0.15, 0.97 of the other.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm_supervisor import paths
from llm_supervisor.engines import environment as envs
from tests.engines import test_warm as warm
from tests.engines.conftest import ALIAS, ROOT, Engines, config
from tests.support.harness import Daemon

sys.path.insert(0, str(Path(__file__).parent.parent))


def first_start(engines: Engines, folder: Path, how: str) -> float:
    """Seconds until all is ready."""
    folder.mkdir()
    settings: dict[str, Any] = config(engines)
    settings["gateway"]["warm"] = settings["models"][ALIAS]["warm"] = how
    began = time.monotonic()
    with Daemon(folder, settings) as daemon:
        daemon.wait_ready(300)
        return time.monotonic() - began


def main() -> None:
    import os

    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    data = paths.data_dir(os.environ)
    pythons = [envs.environment(name, data).python for name in ("vllm", "litellm")]
    engines = Engines(*pythons, ROOT / ".demo/tiny-glm-4.1v")
    try:
        first_start(engines, folder / "unmeasured", "off")  # so that all files are in memory for both
        starts: dict[str, list[float]] = {"off": [], "full": []}
        for number in range(4):
            how = ("off", "full")[number % 2]
            starts[how].append(first_start(engines, folder / f"start-{number}", how))
        off, full = (min(times) for times in starts.values())
        print(
            json.dumps({"first_start_s": {"off": round(off, 1), "full": round(full, 1)}, "ratio": round(full / off, 3)})
        )

        (folder / "warm").mkdir()
        settings: dict[str, Any] = config(engines)
        settings["models"][ALIAS]["warm"] = "full"
        with Daemon(folder / "warm", settings) as daemon:
            daemon.wait_ready(300)
            cold = statistics.median(warm.replicas_back(daemon, cold=True) for _ in range(3))
            quick = statistics.median(warm.replicas_back(daemon, cold=False) for _ in range(10))
            print(
                json.dumps({"litellm_back_s": {"cold": round(cold, 2), "warm": round(quick, 3)}, "ratio": quick / cold})
            )
            litellm_ratio = quick / cold
            cold = statistics.median(warm.engines_back(daemon, cold=True)[0] for _ in range(3))
            quick = statistics.median(warm.engines_back(daemon, cold=False)[0] for _ in range(10))
            print(json.dumps({"vllm_back_s": {"cold": round(cold, 1), "warm": round(quick, 2)}, "ratio": quick / cold}))
            speeds: dict[bool, list[float]] = {True: [], False: []}
            for number in range(6):
                cold_now = number % 2 == 0
                warm.engines_back(daemon, cold=cold_now)
                warm.fork_server(daemon, ALIAS)
                speeds[cold_now].append(warm.speed(daemon))
            was, now = max(speeds[True]), max(speeds[False])
            print(json.dumps({"tokens_s": {"cold": round(was), "warm": round(now)}, "ratio": round(now / was, 3)}))
        missed = [name for name, held in {
            "first start": full <= 1.05 * off,
            "LiteLLM": litellm_ratio <= 0.05,
            "vLLM": quick <= 0.15 * cold,
            "speed": now >= 0.97 * was,
        }.items() if not held]  # fmt: skip
        if missed:
            sys.exit(f"beyond the budget: {', '.join(missed)}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
