"""Imports an engine once, and forks it as often as it is asked to: a start without the imports, which are most of it.

Run by path with the Python of the engine's own environment; standard library and the engine only. It is asked on an
inherited socket (descriptor 3, SOCK_SEQPACKET), one message a request::

    {"argv": [python, FILE, ...], "env": {...}, "cookie": "...", "cwd": null}  + descriptors
    -> {"cookie": "...", "pid": 123}  or  {"cookie": "...", "error": "why not", "stale": false}

The descriptors are the new process's output, and what it inherits as 3, 4, ... It is forked twice and leads a session
of its own, so that it becomes a child of the daemon (a subreaper) like any other. At the start it says
``{"ready": true, ...}`` or ``{"error": ...}`` and ends with the socket, or with the daemon.

What must hold for a fork to be as good as a start: one thread only, no CUDA, no file of what was imported has changed
since; each is looked at before every fork, and the answer is an error, so that the daemon starts it cold.
"""

from __future__ import annotations

import argparse
import array
import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

COOKIE = "LLM_SUPERVISOR_INCARNATION"
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
REQUEST_BYTES = 1024 * 1024
FORK_PATIENCE = 10.0  # seconds from the fork to the new process's own word
VLLM = (
    "vllm.entrypoints.cli.serve",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "vllm.v1.executor.multiproc_executor",
)
# What it imports when it starts, where this version has it (since 0.29, and before)
VLLM_LATER = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.launcher")
WORKERS = {
    "cpu": ("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner"),
    "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
}
LITELLM = (
    "uvicorn",
    "litellm.proxy.proxy_server",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "uvicorn.lifespan.on",
)
# What it imports when it starts or is asked for the first time, where this version has it
LITELLM_LATER = (
    "uvloop",
    "websockets.server",
    "psycopg",
    "prisma",
    "litellm.proxy.hooks.mcp_semantic_filter",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    "litellm.proxy.policy_engine.init_policies",
)
# Of the libraries that a model's own code comes from, by its ``model_type``
PARTS = ("configuration", "processing", "image_processing", "video_processing", "tokenization")


# With which we were started; what is imported later may set another one
_umask = os.umask(0o077)
os.umask(_umask)


class Refused(Exception):
    """This cannot be done; the text says why."""


class Stale(Refused):
    """Not by this one any more: what it has imported has changed."""


# Importing --------------------------------------------------------------------------------------------------


def import_engine(engine: str, model: str | None) -> None:
    """Everything that the engine imports when it starts."""
    if engine == "litellm":
        for name in LITELLM:
            importlib.import_module(name)
        import_where_possible(LITELLM_LATER)
        find_routes()
        return
    for name in VLLM:
        importlib.import_module(name)
    import_where_possible(VLLM_LATER)
    from vllm.platforms import current_platform

    for name in WORKERS.get(current_platform.device_type, ()):
        importlib.import_module(name)
    if model is not None:
        import_model(read_config(model))


def find_routes() -> None:
    """FastAPI makes most of a route when it is first looked for: 0.2 s of LiteLLM's first request. No route has this
    path, so all are looked at."""
    app = getattr(sys.modules["litellm.proxy.proxy_server"], "app", None)
    scope = {"type": "http", "method": "GET", "path": "/llm-supervisor/no/such/path", "headers": [], "root_path": ""}
    for route in getattr(app, "routes", ()):
        try:
            route.matches(dict(scope))
        except Exception:
            continue  # it will be made by its first request


def read_config(model: str) -> dict[str, Any]:
    """A model's ``config.json``, from its folder or the hub's cache; empty when it is not there yet."""
    path = os.path.join(model, "config.json")
    if not os.path.isdir(model):
        try:
            from huggingface_hub import try_to_load_from_cache

            path = str(try_to_load_from_cache(model, "config.json"))
        except Exception:
            return {}
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def import_model(config: dict[str, Any]) -> None:
    """The modules of its architecture. One that is not imported here costs the new process that time, no more."""
    from vllm.model_executor.models import ModelRegistry

    names = []
    for architecture in config.get("architectures") or []:
        known = ModelRegistry.models.get(architecture)
        names.append(getattr(known, "module_name", None))
    kind = str(config.get("model_type", "")).replace("-", "_")
    names += [f"transformers.models.{kind}.{part}_{kind}" for part in PARTS]
    import_where_possible(filter(None, names))


def import_where_possible(names: Iterable[str]) -> None:
    """Some are not there: another version, a model without such a part."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            continue


def keep_forking() -> None:
    """The platform of CPUs insists on ``spawn``, which imports everything again: put back what we were told."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    platform = type(current_platform)
    insist = platform.check_and_update_config.__func__

    def check_and_update_config(cls: type, vllm_config: object) -> None:
        method = os.environ.get("VLLM_WORKER_MULTIPROC_METHOD")
        insist(cls, vllm_config)
        if method is not None:
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = method

    platform.check_and_update_config = classmethod(check_and_update_config)


def fork_api_servers() -> None:
    """Let several API servers be forked, too: vLLM insists on ``spawn`` for them, whatever it was told."""
    contexts = types.ModuleType("multiprocessing")
    contexts.__dict__.update(multiprocessing.__dict__)
    get = multiprocessing.get_context
    contexts.get_context = lambda method=None: get(os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") or method)  # type: ignore[attr-defined]
    importlib.import_module("vllm.v1.utils").multiprocessing = contexts  # type: ignore[attr-defined]


_threads_said: str | None = "1"  # as long as it imports


def take_thread_settings() -> None:
    """What a new process would read from its environment when it loads OpenMP, a forked one is told here: vLLM sets it
    around the start of its workers."""
    global _threads_said
    said = os.environ.get("OMP_NUM_THREADS")
    if said != _threads_said:
        _threads_said = said
        set_threads()
    places = os.environ.get("GOMP_CPU_AFFINITY")
    if places:
        try:
            os.sched_setaffinity(0, {int(cpu) for cpu in places.split()})
        except (OSError, ValueError):
            return


def set_threads() -> None:
    """As many as a new process would have: what is said, else one for each CPU."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(said) if said.isdecimal() else len(os.sched_getaffinity(0))
    for get, set_ in _blas:
        if get() != wanted:
            set_(wanted)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


_blas: list[tuple[Any, Any]] = []  # of each OpenBLAS that is loaded: how many threads it has, and how to tell it


def find_blas() -> None:
    """Each package brings its own (NumPy, SciPy, OpenCV), which has read OMP_NUM_THREADS when it was loaded, and whose
    functions have names of their own."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "openblas" in line}
    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_", "_64"):
                get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                set_ = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if get is not None and set_ is not None:
                    _blas.append((get, set_))


# What a fork must not meet ----------------------------------------------------------------------------------


def imported_files() -> dict[str, tuple[int, int]]:
    """Every file that was imported, with its size and time."""
    files = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            try:
                seen = os.stat(path)
            except OSError:
                continue
            files[path] = (seen.st_size, seen.st_mtime_ns)
    return files


def installed() -> dict[str, list[str]]:
    """What packages there are, by folder of packages. One that comes, goes or gets another version changes it, be it
    imported already or only later."""
    folders = (folder for folder in sys.path if os.path.basename(folder) in ("site-packages", "dist-packages"))
    return {folder: packages_in(folder) for folder in folders}


def packages_in(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name != "__pycache__")
    except OSError:
        return []


def check(files: dict[str, tuple[int, int]], before: dict[str, list[str]] | None = None) -> None:
    """Raises Refused when a fork now would not be as good as a start. ``before``: what was ``installed`` before
    anything was imported."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise Refused(f"it has {threads} threads, and only one survives a fork")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise Refused("CUDA is initialised, which does not survive a fork")
    for path, known in files.items():
        try:
            seen = os.stat(path)
        except OSError:
            raise Stale(f"{path} is gone since it was imported") from None
        if (seen.st_size, seen.st_mtime_ns) != known:
            raise Stale(f"{path} has changed since it was imported")
    for folder, names in (before or {}).items():
        if packages_in(folder) != names:
            raise Stale(f"packages in {folder} have changed since it began to import")


# Forking ----------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What the new process is to become."""

    argv: list[str]
    env: dict[str, str]
    cookie: str
    cwd: str | None
    fds: list[int]


def receive(sock: socket.socket) -> Job | None:
    """The next request; None at the end of the socket. Raises Refused."""
    size = socket.CMSG_SPACE(64 * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(REQUEST_BYTES, size)
    if not data:
        return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    try:
        said = json.loads(data)
        return Job(said["argv"], said["env"], said["cookie"], said["cwd"], list(fds))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"not understood: {error}") from None


def fork(job: Job) -> int | None:
    """The pid of a new process that leads its own session and is nobody's child here; None in that process. Raises
    Refused."""
    read, write = os.pipe()
    try:
        middle = os.fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        raise Refused(f"fork: {error.strerror}") from None
    if middle == 0:
        try:
            if os.fork() != 0:
                os._exit(0)
            os.setsid()
            write = become(job, write)
            os.write(write, str(os.getpid()).encode())
            os.close(write)
            return None
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode()[:400])
            os._exit(70)
    os.close(write)
    try:
        os.waitpid(middle, 0)
        if not select.select([read], [], [], FORK_PATIENCE)[0]:
            raise Refused(f"the new process says nothing for {FORK_PATIENCE:g} s")
        said = os.read(read, 512).decode(errors="replace")
    finally:
        os.close(read)
    if not said.isdecimal():
        raise Refused(f"the new process: {said or 'died at once'}")
    return int(said)


def become(job: Job, link: int) -> int:
    """Everything that exec would have brought: output, descriptors, environment, name, signals, umask, cookie. Nothing
    else stays open but ``link``, whose new number is returned."""
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(_umask)
    # dup2 may not overwrite what is still to be copied: so first everything goes beyond the numbers that are wanted
    output, link, *passed = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (job.fds[0], link, *job.fds[1:]))
    null = os.open(os.devnull, os.O_RDONLY)
    wanted = [null, output, output, *passed]
    for number, fd in enumerate(wanted):
        os.dup2(fd, number, inheritable=True)
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= len(wanted) and int(name) != link:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own
    write_cookie(job.cookie)
    os.environ.clear()
    os.environ.update(job.env)
    tempfile.tempdir = None  # found out anew: TMPDIR is another one now
    if job.cwd is not None:
        os.chdir(job.cwd)
    sys.argv = job.argv[1:]
    # else ps shows the fork server's own command line
    if (title := sys.modules.get("setproctitle")) is not None:
        title.setproctitle(" ".join(job.argv))
    ctypes.CDLL(None).prctl(PR_SET_NAME, os.path.basename(job.argv[0]).encode()[:15], 0, 0, 0)
    return link


def write_cookie(cookie: str) -> None:
    """Write the cookie over the one that this process was born with, where ``/proc/PID/environ`` shows it: the place
    was made wide enough. So the tree can be told by its environment like one that was started by exec."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end (proc(5): 50 and 51 of all)
    area = ctypes.string_at(start, end - start)
    name = f"{COOKIE}=".encode()
    at = 0 if area.startswith(name) else area.find(b"\0" + name) + 1
    if at == 0 and not area.startswith(name):
        raise Refused("its environment has no place for the cookie")
    at += len(name)
    place = area.find(b"\0", at) - at
    data = cookie.encode()
    if len(data) > place:
        raise Refused("the cookie is longer than its place")
    ctypes.memmove(start + at, data + bytes(place - len(data)), place)


def run(job: Job) -> None:
    """Be the program, as ``python FILE`` would."""
    set_threads()
    name = job.argv[1]
    sys.path.insert(0, os.path.dirname(name))
    runpy.run_path(name, run_name="__main__")


# Life -------------------------------------------------------------------------------------------------------


def serve(sock: socket.socket, before: dict[str, list[str]]) -> Job | None:
    """Answer until the socket ends; the job, in a process that was forked for it."""
    files = imported_files()
    while True:
        job = None
        try:
            job = receive(sock)
            if job is None:
                return None
            check(files, before)
            pid = fork(job)
            if pid is None:
                return job
            answer: dict[str, Any] = {"pid": pid}
        except Refused as no:
            answer = {"error": str(no), "stale": isinstance(no, Stale)}
        if job is not None:
            answer["cookie"] = job.cookie
        for fd in job.fds if job is not None else ():
            os.close(fd)
        sock.send(json.dumps(answer).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("vllm", "litellm"), required=True)
    parser.add_argument("--model", help="a folder or a hub id: its architecture is imported too")
    parser.add_argument("--spawn", action="store_true", help="let the engine start its own processes as it likes")
    options = parser.parse_args()

    try:
        # first of all: it finds its place by the environment, as long as nothing in that was changed
        importlib.import_module("setproctitle").getproctitle()
    except ImportError:
        pass
    if not sys.flags.safe_path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # our folder is none of the engine's
    before = installed()
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=3)
    sock.set_inheritable(False)
    began = time.monotonic()
    # nothing that is imported may leave threads behind; the new processes are told their own number
    os.environ["OMP_NUM_THREADS"] = "1"
    # asks NVML instead of the driver whether there is a GPU: a CUDA context does not survive a fork
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    try:
        import_engine(options.engine, options.model)
        if options.engine == "vllm" and not options.spawn:
            keep_forking()
            fork_api_servers()
            os.register_at_fork(after_in_child=take_thread_settings)
        find_blas()
        check({}, before)
    except Refused as no:
        sock.send(json.dumps({"error": str(no)}).encode())
        return
    except Exception as error:
        sock.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}).encode())
        raise
    gc.collect()
    gc.freeze()
    sock.send(json.dumps({"ready": True, "took": time.monotonic() - began}).encode())
    job = serve(sock, before)
    if job is not None:
        sock.detach()
        run(job)


if __name__ == "__main__":
    main()
