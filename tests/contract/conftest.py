"""Which counterparts there are, and the stage on which each scenario plays."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from inventory.models import ProviderAccount
from inventory.providers import registry
from leases.provisioning import upstream
from tests.contract.counterpart import Counterpart, Shared
from tests.contract.prism import DOCUMENTS
from tests.contract.stage import Stage

# Where each kind's counterpart is. A module that does not exist yet is not collected;
# test_contract_registry.py names every adapter without one.
MODULES = {
    "aws": "tests.contract.aws",
    "azure": "tests.contract.azure",
    "coreweave": "tests.contract.coreweave",
    "crusoe": "tests.contract.crusoe",
    "gcp": "tests.contract.gcp",
    "lambda": "tests.contract.lambda_cloud",
    "metal": "tests.contract.metal",
    "nebius": "tests.contract.nebius",
    "runpod": "tests.contract.runpod",
    "together": "tests.contract.together",
    "vast": "tests.contract.vast",
}
LONGEST_SLEEP = 0.01  # seconds, of whatever an adapter wants to wait between repetitions


class Broken(Counterpart):
    """Stands for a counterpart that cannot be imported: its tests fail, and nobody else's."""

    error: Exception


def counterparts() -> list[type[Counterpart]]:
    """Return the counterparts of all kinds, none of which imports its SDK here."""
    found: list[type[Counterpart]] = []
    for kind, name in MODULES.items():
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - it is raised in each of its own tests
            found.append(type("Broken", (Broken,), {"kind": kind, "error": error}))
            continue
        found += [
            item
            for item in vars(module).values()
            if inspect.isclass(item)
            and issubclass(item, Counterpart)
            and item.__module__ == name
            and not inspect.isabstract(item)
        ]
    return [item for item in found if not _said_twice(item, found)]


def _said_twice(item: type[Counterpart], found: list[type[Counterpart]]) -> bool:
    """Tell whether the same fake stands behind its vendor's document too, and that document is here.

    Without the documents the fakes stand alone, and the tests behind them skip.
    """
    behind = any(other.kind == item.kind and other.variant == "document" for other in found)
    return behind and not item.variant and DOCUMENTS.is_dir()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(attributes): for counterparts of which this is true")
    config.addinivalue_line("markers", "each(attribute): once for each value of a counterpart's attribute")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for every counterpart that has what the scenario ``needs``."""
    if "counterpart" not in metafunc.fixturenames:
        return
    each = metafunc.definition.get_closest_marker("each")
    if each is None:
        found = [pytest.param(item, id=_name(item)) for item in counterparts() if _able(metafunc, item)]
        metafunc.parametrize("counterpart", found, indirect=True)
        return
    pairs = [
        pytest.param(item, how, id=f"{_name(item)}-{how}")
        for item in counterparts()
        for how in sorted(item.each(each.args[0]))
    ]
    metafunc.parametrize(("counterpart", "how"), pairs, indirect=["counterpart"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out a scenario that no counterpart can do: there is nothing to run or to skip."""
    items[:] = [
        item
        for item in items
        if not (isinstance(item, pytest.Function) and hasattr(item, "callspec"))
        or inspect.isclass(item.callspec.params.get("counterpart", Counterpart))
    ]


def _name(item: type[Counterpart]) -> str:
    return f"{item.kind}-{item.variant}" if item.variant else item.kind


def _able(metafunc: pytest.Metafunc, item: type[Counterpart]) -> bool:
    return issubclass(item, Broken) or all(
        marker.args[0](item) for marker in metafunc.definition.iter_markers("needs")
    )


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    kept = Shared()
    yield kept
    kept.close()


@pytest.fixture
def counterpart(
    request: pytest.FixtureRequest, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Counterpart]:
    make: type[Counterpart] = request.param
    if issubclass(make, Broken):
        raise make.error
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, LONGEST_SLEEP)))
    # Each test has adapters of its own, as a new process would.
    monkeypatch.setattr(upstream, "_connected", threading.local())
    with make.opened(shared, request) as opened:
        yield opened


@pytest.fixture
def stage(transactional_db: None, counterpart: Counterpart) -> Iterator[Stage]:
    """The stage of one scenario; afterwards every invariant must hold, upstream too."""
    stage = Stage.of(counterpart)
    yield stage
    stage.check()


@pytest.fixture
def account(stage: Stage) -> ProviderAccount:
    return stage.account


@pytest.fixture
def provider(stage: Stage) -> Any:
    return registry.provider_for(stage.account)
