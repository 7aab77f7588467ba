"""What any program can fail of: memory, disk, ports, files, limits, a GPU that the kernel complains about,
and what its exit
status says where its log says nothing.
"""

from __future__ import annotations

import re
import signal

from llm_supervisor.diagnosis.pattern import Diagnosis, Rank, Values, row

# Sent by whoever stops a program. Being ended by one of these is no failure.
ASKED_TO_LEAVE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})

_DISK = re.compile(
    r"Not enough free disk space to download the file\. The expected file size is: (?P<wanted>[\d.]{1,16}) MB\. The "
    r"target location (?P<target>\S{1,300}) only has (?P<free>[\d.]{1,16}) MB"
)


def facts(text: str) -> dict[str, str]:
    """``wanted``, ``target`` and ``free`` of huggingface_hub's warning before a download, in MB. It goes on after "
    "it."""
    start = text.find("Not enough free disk space to download")
    found = _DISK.match(text, start) if start >= 0 else None
    return {f"download_{name}": value for name, value in found.groupdict().items()} if found else {}


# NVIDIA's numbers for a GPU that needs a reset, a reboot or a replacement; the others are mostly a program's own fault
_BROKEN = r"(?:48|61|62|64|74|79|92|94|95|119|120|140|143)"


def _gigabytes(values: Values) -> Values:
    return {"size": f"{int(values['bytes']) / 2**30:.1f} GiB"} if values.get("bytes") else {}


ROWS = (
    row(
        "xid", "NVRM: Xid",
        r"NVRM: Xid \((?:PCI:)?(?P<device>[0-9a-fA-F:.]{4,20})\): "
        rf"(?P<number>{_BROKEN})\b,?(?P<detail>[^\n]{{0,160}})",
        permanent=True, where="line", rank=Rank.PROOF,
        summary="the GPU at {device} is broken or hung: Xid {number}",
        advice=(
            "Leave it out of `gpus:`, reset it (nvidia-smi --gpu-reset) or reboot; NVIDIA's Xid table says what "
            "{number} means."
        ),
    ),
    row(
        "xid", "NVRM: Xid", r"NVRM: Xid \((?:PCI:)?(?P<device>[0-9a-fA-F:.]{4,20})\): (?P<number>\d{1,4})\b",
        permanent=False, where="line", rank=Rank.SYMPTOM,
        summary="the driver reports Xid {number} on the GPU at {device}",
        advice=(
            "Mostly a fault of the program, not of the GPU; if it comes again and again, test the GPU. See "
            "NVIDIA's table for {number}."
        ),
    ),
    row(
        "host_out_of_memory", "",
        r"(?:Out of memory|Memory cgroup out of memory): Killed process (?P<pid>\d{1,9}) \((?P<name>[^)\n]{1,40})\)",
        permanent=False, where="line", rank=Rank.PROOF,
        summary="the kernel killed {name} ({pid}): the machine (or the control group) was out of memory",
        advice=(
            "Give it more memory, or make others smaller: max-model-len, swap-space, cpu-offload-gb, "
            "mm-processor-cache-gb."
        ),
    ),
    row(
        "host_out_of_memory", "node running low on memory", permanent=False,
        summary="Ray killed it: the node is out of memory",
        advice="Give it more memory, or ask for less: max-model-len, swap-space, cpu-offload-gb.",
    ),
    row(
        "host_out_of_memory", "allocate",
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory): you tried to allocate "
        r"(?P<bytes>\d{1,20}) bytes",
        permanent=False, derive=_gigabytes,
        summary="the machine has no {size} of memory left",
        advice=(
            "Free memory, or ask for less: max-model-len x max-num-seqs, swap-space, cpu-offload-gb ({size} were "
            "wanted at once)."
        ),
    ),
    row(
        "host_out_of_memory", "",
        r"OSError: \[Errno 12\] Cannot allocate memory|unable to mmap \d{1,15} bytes[^\n]{0,300}Cannot allocate "
        r"memory|(?:^|\n)(?:[\w.]{1,80}\.)?(?:_Array)?MemoryError(?::|$|\n)|std::bad_alloc",
        permanent=False,
        summary="the machine (or the control group) is out of memory",
        advice="Free memory, or give the program a larger limit.",
    ),
    row(
        "disk_full", "No space left on device", r"No space left on device(?: ?: '(?P<path>[^'\n]{1,300})')?",
        permanent=False, busy=True,
        summary=("the disk is full: {path}", "the disk is full: {download_target}", "the disk is full"),
        advice=(
            "Free space where {path} is.",
            "The download needs {download_wanted} MB, {download_target} has {download_free}.",
            "Free space (df -h), or point caches elsewhere (HF_HOME, VLLM_CACHE_ROOT, TMPDIR); it is tried again then, "
            "and a half download is continued.",
        ),
    ),
    row(
        "disk_full", "No space left on device", r"No space left on device|Disk quota exceeded",
        permanent=False, busy=True, where="line", rank=Rank.COARSE,
        summary=("the disk is full: {download_target}", "the disk is full"),
        advice=(
            "The download needs {download_wanted} MB, {download_target} has {download_free}.",
            "Free space; it is tried again then.",
        ),
    ),
    row(
        "disk_full", "Disk quota exceeded", r"Disk quota exceeded(?: ?: '(?P<path>[^'\n]{1,300})')?",
        permanent=False, busy=True,
        summary=("the quota of the disk is used up: {path}", "the quota of the disk is used up"),
        advice="Free space, or have the quota raised.",
    ),
    row(
        "disk_read_only", "Read-only file system", r"Read-only file system(?: ?: '(?P<path>[^'\n]{1,300})')?",
        permanent=True,
        summary=("{path} cannot be written: its file system is read-only", "a file system is read-only"),
        advice=(
            "Point caches to a disk that can be written (HF_HOME, TMPDIR), or see the kernel log for an error of "
            "the disk."
        ),
    ),
    row(
        "disk_error", "",
        r"(?:Stale file handle|Transport endpoint is not connected|Host is down)(?:: '(?P<path>[^'\n]{1,300})')?",
        permanent=False, frames=r"\S",
        summary=("the network file system of {path} is gone", "a network file system is gone"),
        advice="Mount it again; it is tried again then.",
    ),
    row(
        "disk_error", "Input/output error", r"OSError: \[Errno 5\] Input/output error(?:: '(?P<path>[^'\n]{1,300})')?",
        permanent=None,
        summary=("{path} cannot be read: the disk reports an error", "the disk reports an error"),
        advice="See the kernel log (dmesg) for that disk, or the network file system.",
    ),
    row(
        "cloud_credentials", "",
        r"Unable to locate credentials|default credentials were not found|DefaultCredentialsError|"
        r"NoCredentialsError|security token included in the request is (?:invalid|expired)",
        permanent=True, phase="start",
        summary="the cloud that something is loaded from has no credentials here",
        advice=(
            "Give this program the credentials in its environment (AWS_ACCESS_KEY_ID, "
            "GOOGLE_APPLICATION_CREDENTIALS ...)."
        ),
    ),
    row(
        "port_taken", "error while attempting to bind",
        r"error while attempting to bind on address \('(?P<host>[^'\n]{0,60})', (?P<port>\d{1,5})[^)\n]{0,30}\)",
        permanent=False, busy=True, where="line",
        summary="port {port} of {host} is taken",
        advice="Find who listens: ss -ltnp 'sport = :{port}'. Stop it, or choose another port.",
    ),
    row(
        "port_taken", "ddress already in use",
        r"OSError: \[Errno 98\] (?:Address already in use|error while attempting to bind)",
        permanent=False, busy=True,
        frames=r"create_server_socket|create_server_unix_socket|setup_server|bind|socketserver|asyncio|uvicorn",
        summary=("port {port} is taken", "the port is taken"),
        advice=("Find who listens: ss -ltnp 'sport = :{port}'.", "Stop it, or choose another port."),
    ),
    row(
        "port_taken", "",
        r"(?:(?P<host>\*|localhost|\[[0-9a-f:]{0,40}\]|(?:\d{1,3}\.){3}\d{1,3}):(?P<port>\d{2,5})\b[^\n]{0,80})?"
        r"(?:[Aa]ddress already in use|EADDRINUSE)(?!\. Retrying)(?:[^\n]{0,40}?:(?P<other>\d{2,5})\b)?",
        permanent=False, busy=True, where="line", rank=Rank.COARSE,
        derive=lambda values: {"port": values["other"]} if values.get("other") else {},
        summary=("port {port} is taken", "the port is taken"),
        advice=("Find who listens: ss -ltnp 'sport = :{port}'.", "Stop it, or choose another port."),
    ),
    row(
        "permission_denied", "Permission denied",
        r"PermissionError: \[Errno (?:13|1)\] [^:\n]{1,60}: '(?P<path>[^'\n]{0,300}(?:prisma|\.npm|"
        r"nodeenv)[^'\n]{0,200})'",
        permanent=True,
        summary="prisma may not write {path}",
        advice="Let this program's user own {path}, or set HOME (or XDG_CACHE_HOME) to a folder that it may write.",
    ),
    row(
        "permission_denied", "EACCES", r"EACCES: permission denied, \w{1,20} '(?P<path>[^'\n]{1,300})'",
        permanent=True, where="line",
        summary="{path} may not be written",
        advice="Let this program's user own {path}, or set HOME (or XDG_CACHE_HOME) to a folder that it may write.",
    ),
    row(
        "permission_denied", "Permission denied",
        r"PermissionError: \[Errno (?:13|1)\] [^:\n]{1,60}(?:: '(?P<path>[^'\n]{1,300})')?",
        permanent=True,
        summary=("{path} may not be read or written", "something may not be read or written"),
        advice="Check owner and mode of {path} for this program's user.",
    ),
    row(
        "out_of_file_descriptors", "Too many open files",
        r"\[Errno 2[34]\] Too many open files|Too many open files in system",
        permanent=False,
        summary="no file descriptors are left",
        advice="Raise the limit: LimitNOFILE= in the unit, or ulimit -n.",
    ),
    row(
        "process_limit", "",
        r"can't start new thread|BlockingIOError: \[Errno 11\] Resource temporarily "
        r"unavailable|pthread_create[^\n]{0,60}Resource temporarily",
        permanent=False,
        summary="no more processes or threads may be started",
        advice="Raise the limit: TasksMax= in the unit, ulimit -u, or the container's --pids-limit.",
    ),
    row(
        "missing_library", "error while loading shared libraries",
        r"error while loading shared libraries: (?P<library>[^:\n]{1,120}):",
        permanent=True, where="line",
        summary="the library {library} is missing",
        advice="Install the package that brings {library}.",
    ),
    row(
        "missing_library", "cannot open shared object file",
        r"(?P<library>lib\S{1,80}?): cannot open shared object file",
        permanent=True, rank=Rank.COARSE,
        summary="the library {library} is missing",
        advice="Install the package that brings {library}.",
    ),
    row(
        "missing_executable", "",
        r"(?:exec: \"?(?P<name>[^\s\":]{1,120})\"?: (?:executable file )?not found|(?P<command>\S{1,120}): command "
        r"not found)",
        permanent=True, where="line",
        summary=("there is no command {name}", "there is no command {command}"),
        advice="Install it, or write its whole path in `command:`; PATH is the daemon's.",
    ),
    row(
        "package_missing", "No module named", r"ModuleNotFoundError: No module named '(?P<package>[\w.]{1,120})'",
        permanent=True, rank=Rank.COARSE,
        summary="the Python package {package} is not installed",
        advice="Install {package} into this program's environment (llm-supervisor install makes the engines' anew).",
    ),
    row(
        "dependency_mismatch", "cannot import name", r"ImportError: cannot import name '(?P<name>\w{1,80})' from "
        r"(?:partially initialized module )?'(?P<package>[\w.]{1,150})'",
        permanent=True, rank=Rank.COARSE,
        summary="{name} is not in the installed {package}: its version does not fit",
        advice="Make the environment anew from its lock file (llm-supervisor install): a package was changed alone.",
    ),
    row(
        "package_missing", "pip install",
        r"(?:ImportError|ModuleNotFoundError|RuntimeError|ValueError|Exception): [^\n]{0,300}?pip install (?:-U "
        r")?['\"]?"
        r"(?P<package>[\w\[\]<>=.,\-]{2,80})",
        permanent=True, rank=Rank.COARSE, phase="start",
        summary="{package} is not installed, or is of another version",
        advice="Install {package} into this program's environment.",
    ),
    row(
        "package_missing", "",
        r"^(?:ImportError|ModuleNotFoundError|RuntimeError|ValueError): (?P<package>[\w.\-]{2,40}) is not "
        r"(?:available|installed)\b",
        permanent=True, rank=Rank.COARSE, phase="start",
        summary="{package} is not installed",
        advice="Install {package} into this program's environment, or remove the option that needs it.",
    ),
    row(
        "package_missing", "lease install",
        r"(?:ImportError|RuntimeError|ValueError|ModuleNotFoundError): [^\n]{0,200}?[Pp]lease install (?:the "
        r")?(?P<package>[\w\[\]<>=.,\-]{2,80})",
        permanent=True, rank=Rank.COARSE,
        summary="{package} is not installed",
        advice="Install {package} into this program's environment.",
    ),
    row(
        "crashed", "Fatal Python error",
        r"Fatal Python error: (?P<what>Segmentation fault|Aborted|Bus error|Illegal instruction|[^\n]{1,80})",
        permanent=False, where="line", rank=Rank.SYMPTOM,
        summary="the interpreter crashed: {what}",
        advice="The stack is below that line. If it repeats, it is a fault of a native library or of the memory.",
    ),
    row(
        "file_missing", "No such file or directory",
        r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<path>[^'\n]{1,300})'",
        permanent=None, rank=Rank.COARSE, phase="start",
        summary="{path} does not exist",
        advice="Check that path, and that its disk is mounted.",
    ),
)  # fmt: skip

_SIGNALS: dict[int, tuple[str, bool | None, str, str]] = {
    signal.SIGKILL: ("killed", False, "somebody killed it (SIGKILL)",
        "Was it the kernel's out-of-memory killer? journalctl -k | grep -i 'killed process'. Else another person or "
        "service."),
    signal.SIGSEGV: ("crashed", False, "it crashed (SIGSEGV)",
    "A fault of a native library or of the memory; a core dump says where."),
    signal.SIGBUS: ("bus_error", False, "it crashed (SIGBUS)",
    "Mostly /dev/shm or a disk under a mapped file is full, or that file was cut."),
    signal.SIGABRT: ("crashed", False, "it aborted (SIGABRT)", "Its last lines say which assertion failed."),
    signal.SIGFPE: ("crashed", False, "it crashed (SIGFPE)", "A fault of a native library."),
    signal.SIGILL: ("illegal_instruction", True, "it uses instructions that this processor does not have (SIGILL)",
        "Install a build for this processor (AVX2 or AVX-512 is missing)."),
    signal.SIGSYS: ("forbidden_call", True, "it made a system call that it may not make (SIGSYS)",
    "Loosen SystemCallFilter= or the container's seccomp."),
    signal.SIGXCPU: ("cpu_limit", True, "it used up its limit of processor time (SIGXCPU)",
    "Raise LimitCPU= or ulimit -t."),
    signal.SIGXFSZ: ("file_size_limit", True, "it wrote a larger file than it may (SIGXFSZ)",
    "Raise LimitFSIZE= or ulimit -f."),
}  # fmt: skip

_CODES: dict[int, tuple[str, bool | None, str, str]] = {
    126: ("not_executable", True, "the command cannot be executed (status 126)",
    "Check its mode (chmod +x) and its #! line."),
    127: ("missing_executable", True, "the command does not exist (status 127)",
          "Install it, or write its whole path in `command:`; PATH is the daemon's."),
}  # fmt: skip

OUT_OF_MEMORY = (
    "host_out_of_memory", False, "the kernel killed a part of it: the machine (or the control group) was out of memory",
    "Give it more memory (MemoryMax=, the container's limit), or make it smaller: max-model-len, cpu-offload-gb, "
    "mm-processor-cache-gb.",
)  # fmt: skip


def from_status(exit_code: int | None, exit_signal: int | None, evidence: tuple[str, ...]) -> Diagnosis:
    """What the exit status alone says. ``evidence``: the log's last lines, for a person to read."""
    if exit_signal is not None:
        name = next((known.name for known in signal.Signals if known == exit_signal), str(exit_signal))
        known = _SIGNALS.get(exit_signal, ("killed", None, f"it was ended by signal {name}", "Find out who sent it."))
    else:
        unsaid = (
            "exited",
            None,
            f"it exited with status {exit_code}, and its log does not say why",
            "Read the end of its log.",
        )
        known = _CODES.get(exit_code or 0, unsaid)
    kind, permanent, summary, advice = known
    return Diagnosis(kind, permanent, False, summary, advice, evidence)
