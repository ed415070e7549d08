"""``scripts/install`` says what is missing, and installs only when something changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

BASE_DIR = Path(__file__).resolve().parent.parent.parent

FAKE = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    *ensurepip*) exit {ensurepip} ;;
    *version_info\\ \\<*) exit {old} ;;
    *print*) echo 3.11 ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
exit 0
"""


class Project:
    """A folder with the requirement files and a Python that only notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("requirements.txt", "requirements-local.txt", "requirements-dev.txt"):
            (folder / name).write_text(f"# {name}\n")
        shutil.copytree(BASE_DIR / "scripts", folder / "scripts")
        self.log = folder / "calls"
        self.python = folder / "python3"
        self.use()

    def use(self, *, ensurepip: int = 0, old: int = 0) -> None:
        self.python.write_text(FAKE.format(log=self.log, ensurepip=ensurepip, old=old))
        self.python.chmod(0o755)

    def install(self, requirements: str = "requirements-local.txt") -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            ["sh", "scripts/install", requirements, str(self.python)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def installed(self) -> bool:
        return "pip install" in self.log.read_text()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "a path with spaces")


def test_it_installs_once_and_again_after_a_change(project):
    assert project.install().returncode == 0
    assert project.installed
    assert project.install().returncode == 0
    assert not project.installed
    (project.folder / "requirements.txt").write_text("changed\n")
    assert project.install().returncode == 0
    assert project.installed


def test_what_tests_need_holds_what_a_run_needs(project):
    project.install("requirements-dev.txt")
    assert project.installed
    project.install("requirements-local.txt")
    assert not project.installed


def test_a_symlinked_environment_is_used(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (project.folder / ".venv").symlink_to(tmp_path / "elsewhere")
    project.install()
    assert project.installed
    project.install()
    assert not project.installed
    assert (project.folder / ".venv").is_symlink()


def test_a_missing_venv_module_is_named(project):
    project.use(ensurepip=1)
    done = project.install()
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (project.folder / ".venv").exists()


def test_an_old_python_is_named(project):
    project.use(old=1)
    done = project.install()
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
