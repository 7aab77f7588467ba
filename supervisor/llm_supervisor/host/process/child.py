"""Start a process, watch it through its pidfd, and reap it. No other module of the daemon waits for a process.

asyncio's child watchers, ``Popen.wait`` and ``waitpid(-1)`` would race each other for exit statuses; here each status
is fetched once, by pidfd, by the one who watches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.host.process.proc import Identity, identify, read_row, read_rows

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


class SpawnError(Exception):
    """The program could not be started; the text says why, for people. ``permanent``: trying again cannot help."""

    def __init__(self, text: str, *, permanent: bool = True) -> None:
        super().__init__(text)
        self.permanent = permanent


# Errors of an exec that say that the program is wrong. Any other is the machine's: no memory, a disk that is gone
_WRONG = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EINVAL, errno.ELOOP,
    errno.ENAMETOOLONG, errno.E2BIG,
)  # fmt: skip


def become_subreaper() -> None:
    """Orphans of our trees become our children, not init's, so that they can be found and reaped.

    Raises OSError where the kernel refuses (before Linux 3.4).
    """
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(error)}")


def disinherit_descriptors() -> None:
    """Do not pass on the descriptors above standard error that our own parent left open: a lock or a pipe of a shell
    would live as long as an engine. Call once, at start."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the listing's own


# The limit of descriptors that we got, once we have raised our own: children get what we got
_given_limit: tuple[int, int] | None = None


def raise_descriptor_limit() -> None:
    """Use the hard limit of descriptors: a shell's soft 1024 is not enough for a few hundred programs. Children start
    with the soft limit that we got, as some close every descriptor there could be."""
    global _given_limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _given_limit = (soft, hard)


PRIVATE_UMASK = 0o077
# The umask that we got, once we have taken a private one: children get what we got
_given_umask: int | None = None


def make_files_private() -> None:
    """What we make from now on is for our user alone, unless a mode is set on purpose. Children start with the umask
    that we got, as what they make (a shared cache of models) is not ours."""
    global _given_umask
    _given_umask = os.umask(PRIVATE_UMASK)


def umask_of_children() -> int:
    """The umask with which children start."""
    if _given_umask is not None:
        return _given_umask
    now = os.umask(PRIVATE_UMASK)  # the only way to read it
    os.umask(now)
    return now


def set_umask_of_children(umask: int) -> None:
    """Children start with that umask: the one that we got before an exec, over which our own private one stays."""
    global _given_umask
    _given_umask = umask


@contextlib.contextmanager
def _as_we_were_started() -> Iterator[None]:
    """A child inherits the limit of descriptors and the umask of the moment. Lowering a limit closes nothing; a file
    that another thread makes meanwhile has a mode of its own."""
    mine = None if _given_umask is None else os.umask(_given_umask)
    if _given_limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _given_limit)
    try:
        yield
    finally:
        if _given_limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_given_limit[1], _given_limit[1]))
        if mine is not None:
            os.umask(mine)


def _command(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> tuple[str, list[str]]:
    """The file to execute and its arguments; with ``cwd`` through env(1), which changes the folder. Raises SpawnError
    for what can be known to fail."""
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath)) if "/" not in argv[0] else argv[0]
    if program is None:
        raise SpawnError(f"no such command on PATH: {argv[0]}")
    if not os.path.exists(program):
        raise SpawnError(f"no such file: {program}")
    arguments = list(argv)
    if cwd is not None:
        if not os.path.isdir(cwd):
            raise SpawnError(f"no such folder: {cwd}")
        # env(1) says such things to the log only, and takes a word with = for an assignment
        if os.path.isdir(program) or not os.access(program, os.X_OK):
            raise SpawnError(f"{program}: {os.strerror(errno.EACCES)}")
        if "=" in program:
            raise SpawnError(f"{program}: a program with = in its path cannot be given a folder to run in")
        # posix_spawn has no chdir in Python's binding, and a chdir of ours would be seen by every thread
        program, arguments = "/usr/bin/env", ["env", f"--chdir={cwd}", os.path.abspath(program), *argv[1:]]
    return program, arguments


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    output: Path,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Start ``argv`` in a session of its own and return its pid. ``pass_fds`` arrive as descriptors 3, 4, ...

    posix_spawn is vfork underneath: it costs the same from a large daemon as from a small one, is safe beside
    threads, and reports a failed exec. Standard output and error go to the FIFO ``output``, opened for reading and
    writing so that the child gets no EPIPE while nobody reads. No signal stays blocked or ignored.

    Raises SpawnError.
    """
    program, arguments = _command(argv, env, cwd)
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # dup2 clears close-on-exec only on the new descriptor, and a target may be another one's source: go through
    # high numbers first
    high = [os.dup(fd) for fd in pass_fds]
    try:
        while any(fd < 3 + len(high) for fd in high):
            high = _raised(high, 3 + len(high))
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + n) for n, fd in enumerate(high)]
        with _as_we_were_started():
            return os.posix_spawn(
                program,
                arguments,
                dict(env),
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=[s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)],
            )
    except OSError as error:
        raise SpawnError(f"{program}: {error.strerror}", permanent=error.errno in _WRONG) from error
    except ValueError as error:  # a NUL, or = in a variable's name: nothing that the kernel can take
        raise SpawnError(f"{program}: {error}") from error
    finally:
        for fd in high:
            os.close(fd)


def _raised(fds: list[int], least: int) -> list[int]:
    import fcntl

    raised = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least) for fd in fds]
    for fd in fds:
        os.close(fd)
    return raised


class Child:
    """A process under watch: identity, pidfd, and one call when it is dead.

    The leader stays a zombie until ``reap``: so its pid, and with it the number of its session, cannot be reused
    while its tree is swept.
    """

    def __init__(self, pid: int, pidfd: int, identity: Identity) -> None:
        self.pid = pid
        self.identity = identity
        self._pidfd = pidfd
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mine = True

    @classmethod
    def open(cls, pid: int, expected: Identity | None = None) -> Child | None:
        """Watch ``pid``; None when it is gone, or is not the process that was expected."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # the pidfd pins the process: what is read now is about that process, not about a successor of its pid
        identity = identify(pid)
        if identity is None or (expected is not None and identity != expected):
            os.close(pidfd)
            return None
        return cls(pid, pidfd, identity)

    def watch(self, died: Callable[[ExitStatus], None]) -> None:
        """Call ``died`` from the running loop, once, as soon as the kernel says that the process is dead."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._readable, died)

    def _readable(self, died: Callable[[ExitStatus], None]) -> None:
        self.unwatch()
        died(self.status())

    def unwatch(self) -> None:
        """Stop watching: the function that was to be called at the end is not called any more."""
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
            self._loop = None

    def status(self) -> ExitStatus:
        """How it ended, without reaping it; unknown when it is not our child (an adopted one)."""
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ExitStatus()
        if result is None:
            return ExitStatus()
        if result.si_code == os.CLD_EXITED:
            return ExitStatus(code=result.si_status)
        return ExitStatus(signal=result.si_status)

    def signal(self, signum: int) -> bool:
        """Send a signal through the pidfd, so that it cannot hit a successor of the pid; False when it is dead."""
        if self._pidfd < 0:
            return False  # reaped
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    def reap(self) -> None:
        """Reap the dead process and close its pidfd."""
        self.unwatch()
        if self._pidfd >= 0:
            try:
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
            os.close(self._pidfd)
            self._pidfd = -1


def signal_process(pid: int, started: int, signum: int) -> bool:
    """Signal one process whose start time is known; False when it is gone, or the pid is another process's by now.

    Raises PermissionError where we may not.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        row = read_row(pid)
        if row is None or row.started != started:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def our_children() -> list[int]:
    """Pids of our direct children, adopted orphans included, in every thread (they belong to the one that forked)."""
    pids: list[int] = []
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):  # the kernel was built without that
        return [row.pid for row in read_rows().values() if row.ppid == os.getpid()]
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                pids += [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            continue  # a thread that ended
    return pids


def reap_strangers(watched: Collection[int]) -> list[int]:
    """Reap dead children that are not watched: orphans that came to us because we are the subreaper.

    Never ``waitpid(-1)``: it would steal the statuses of the watched. Returns the pids reaped.
    """
    reaped = []
    for pid in our_children():
        if pid in watched:
            continue
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
                reaped.append(pid)
        except ChildProcessError:
            continue
    return reaped
