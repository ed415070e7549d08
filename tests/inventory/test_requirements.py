"""The base install is small: an adapter whose SDK is missing says which file adds it, and nothing else breaks."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from django.conf import settings

from inventory.providers.registry import BUILT_IN, REQUIREMENTS

# What only an optional file brings: top-level modules by kind.
SDKS = {
    "azure": ["azure"],
    "coreweave": ["lightkube", "httpx2", "msgspec"],
    "gcp": ["google"],
    "nebius": ["nebius", "grpc", "google"],
}
SCRIPT = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import django
django.setup()
from inventory.providers import registry
from inventory.providers.errors import NotSupported
said = {{}}
for kind in registry.kinds():
    try:
        registry.adapter(kind)
        said[kind] = ""
    except NotSupported as error:
        said[kind] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What each adapter says in a process that has nothing but requirements.txt."""
    modules = sorted({module for found in SDKS.values() for module in found})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(modules=modules)],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_a_missing_sdk_is_said_with_the_file_that_adds_it(kind, said):
    if kind in REQUIREMENTS:
        assert f"pip install -r {REQUIREMENTS[kind]}" in said[kind]
    else:
        assert said[kind] == ""


@pytest.mark.parametrize(("kind", "file"), sorted(REQUIREMENTS.items()))
def test_the_file_adds_to_the_base_install_and_pins_exactly(kind, file):
    def pins(name: str) -> set[str]:
        return set((settings.BASE_DIR / name).read_text().split())

    base, more = pins("requirements.txt"), pins(file)
    assert base < more
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[A-Za-z0-9.]+", pin) for pin in more)
    assert more <= pins("requirements-dev.txt") | base, "the tests run with the same versions"
