"""Dry runs of many configurations in one process that has imported LiteLLM; run by path with LiteLLM's Python.

``dry_runs.py SCRIPT`` reads a JSON list of ``{config, environ, modules}`` and writes the list of the script's answers:
each is made in a fork, as they would change LiteLLM for one another.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from typing import Any


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)
    spec = importlib.util.spec_from_file_location("litellm_dry_run", sys.argv[1])
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.leave_the_network()
    import litellm.proxy.proxy_server  # noqa: F401

    answers = []
    for question in json.load(sys.stdin):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.environ.update(question.pop("environ"))
            folder = tempfile.mkdtemp()
            tempfile.tempdir = folder
            guard = script.Guard(folder)
            sys.addaudithook(guard)
            found = script.dry_run(question, folder, guard)
            script.shutil.rmtree(folder)
            with os.fdopen(writing, "w") as answer:
                json.dump(found, answer)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            answers.append(json.load(told))
    with os.fdopen(out, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
