"""The suite itself: every adapter that exists has a counterpart, and no attribute hides a scenario."""

from __future__ import annotations

import importlib.util

from inventory.providers.registry import BUILT_IN
from tests.contract.conftest import MODULES, Broken, counterparts


def exists(dotted_class: str) -> bool:
    try:
        return importlib.util.find_spec(dotted_class.rpartition(".")[0]) is not None
    except ModuleNotFoundError:
        return False


def test_every_adapter_has_a_counterpart() -> None:
    adapters = {kind for kind, path in BUILT_IN.items() if exists(path)}
    assert adapters <= {item.kind for item in counterparts()}
    assert set(MODULES) >= set(BUILT_IN)


def test_counterparts_say_which_kind_they_are() -> None:
    for item in counterparts():
        if not issubclass(item, Broken):
            assert item.__module__ == MODULES[item.kind]
    names = [(item.kind, item.variant) for item in counterparts()]
    assert len(names) == len(set(names))
