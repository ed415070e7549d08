"""Homes for services that a test starts and kills."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ADDRESSES = (
    "DATABASE_URL",
    "DATABASE_OWNER_URL",
    "DATABASE_SUPERUSER_URL",
    "REDIS_URL",
    "SUBLET_EC2_ENDPOINT",
)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home in a path with a space, and no addresses in the environment."""
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    parent = Path(tempfile.mkdtemp(prefix="it's a "))
    parent.chmod(0o755)  # as a folder in /srv: pytest's own tmp_path is closed to other users
    monkeypatch.setenv("SUBLET_HOME", str(parent / "home of sublet"))
    yield parent / "home of sublet"
    shutil.rmtree(parent)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """What a program started by hand would have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "SUBLET_"))}
    return {**kept, "SUBLET_HOME": str(home)}
