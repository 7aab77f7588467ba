"""Does an engine's environment work? Runs INSIDE it: `python -I self_test.py vllm|litellm`.

Imports what the daemon will start there, and prints the versions as one line of JSON, the last of its output. It
serves nothing and downloads nothing. A failure is a traceback and a non-zero exit.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version


def vllm() -> dict[str, str]:
    """The platform is detected, the server can be imported, and so can what vision models import."""
    import torch
    import vllm.entrypoints.cli.serve  # noqa: F401
    from vllm import __version__ as vllm_version
    from vllm.platforms import current_platform

    importlib.import_module("torchvision.transforms.v2")
    if not callable(importlib.import_module("torchvision.ops").nms):
        raise TypeError("torchvision.ops.nms is not callable")
    return {
        "platform": current_platform.device_type,
        "vllm": vllm_version,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "transformers": version("transformers"),
    }


def litellm() -> dict[str, str]:
    """The proxy and the server under it can be imported."""
    importlib.import_module("litellm.proxy.proxy_server")
    importlib.import_module("uvicorn")
    return {name: version(name) for name in ("litellm", "uvicorn", "fastapi")}


if __name__ == "__main__":
    tested = {"vllm": vllm, "litellm": litellm}[sys.argv[1]]()
    print(json.dumps({"python": sys.version.split()[0], **tested}), flush=True)
