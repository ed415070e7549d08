"""What the states of a virtual machine mean.

A machine has a provisioning state, which is how its last operation went, and a power
state, which is whether it runs and is billed:
https://learn.microsoft.com/en-us/azure/virtual-machines/states-billing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from inventory.providers.azure.errors import by_code
from inventory.providers.base import MachineState
from inventory.providers.errors import NoCapacity, QuotaExceeded
from inventory.providers.fields import moment

# The value is what a machine is while the operation goes on; None leaves it to the power state.
PROVISIONING: Mapping[str, MachineState | None] = {
    "creating": MachineState.PENDING,
    "updating": None,
    "migrating": None,
    "succeeded": None,
    "failed": None,
    "canceled": None,
    "deleting": MachineState.STOPPING,
}
POWER: Mapping[str, MachineState] = {
    "creating": MachineState.PENDING,
    "starting": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "stopping": MachineState.STOPPING,
    "stopped": MachineState.STOPPING,  # still on its host, and billed
    "deallocating": MachineState.STOPPING,
    "deallocated": MachineState.STOPPING,
    "unknown": MachineState.UNKNOWN,
}
AGENT_READY = "provisioningstate/succeeded"
# Azure looks for a host at once; a machine that ran and cannot be started again is older than this.
FIRST_MINUTES = timedelta(minutes=20)


def statuses(view: Any) -> Iterator[tuple[str, str, str]]:
    """Yield kind (in lower case), state and message of an instance view's statuses.

    ``ProvisioningState/failed/AllocationFailed`` is ``("provisioningstate", "failed/AllocationFailed", …)``.
    """
    found = view.get("statuses") if isinstance(view, Mapping) else None
    for item in found if isinstance(found, list) else []:
        if isinstance(item, Mapping):
            kind, _slash, state = str(item.get("code") or "").partition("/")
            yield kind.lower(), state, str(item.get("message") or item.get("displayStatus") or "")


def state_of(properties: Mapping[str, Any]) -> tuple[MachineState, str, str]:
    """Return a machine's state, the vendor's own words for it, and why it failed where it did.

    A machine that never got a host reads *terminated*: nothing ran and nothing was stored
    on it, it only has to be removed. One that failed later goes by its power state.
    """
    provisioning = str(properties.get("provisioningState") or "")
    power, code, message, told = "", "", "", False
    for kind, state, text in statuses(properties.get("instanceView")):
        told = True
        if kind == "powerstate":
            power = state
        elif kind == "provisioningstate" and state.lower().startswith("failed"):
            code, message = state.partition("/")[2], text
    raw = "/".join(part for part in (provisioning, power) if part)
    reason = f"{message} ({code})" if message and code else message or code
    during = PROVISIONING.get(provisioning.lower(), MachineState.UNKNOWN)
    if during is not None:
        return during, raw, reason
    if provisioning.lower() in ("failed", "canceled") and power.lower() not in ("starting", "running"):
        had_no_host = isinstance(by_code(code, message, message), NoCapacity | QuotaExceeded)
        # Without a view nothing is known of its power: its last operation may have failed while it ran.
        if had_no_host or (told and not power):
            return MachineState.TERMINATED, raw, reason or provisioning
    return POWER.get(power.lower(), MachineState.UNKNOWN), raw, reason


def never_ran(properties: Mapping[str, Any]) -> bool:
    """Tell whether a machine that is *terminated* failed while it was made, so that it holds no data."""
    made = moment(properties.get("timeCreated"))
    view = properties.get("instanceView")
    found = view.get("statuses") if isinstance(view, Mapping) else None
    for item in found if isinstance(found, list) else []:
        if isinstance(item, Mapping) and str(item.get("code")).lower().startswith("provisioningstate/failed"):
            failed = moment(item.get("time"))
            return bool(made and failed and failed - made <= FIRST_MINUTES)
    return False


def healthy(properties: Mapping[str, Any]) -> bool | None:
    """Tell whether the machine's agent reports it ready; None where it has not said anything."""
    if str(properties.get("provisioningState") or "").lower() == "failed":
        return False
    view = properties.get("instanceView")
    agent = view.get("vmAgent") if isinstance(view, Mapping) else None
    ready = {f"{kind}/{state}".lower() for kind, state, _message in statuses(agent)} == {AGENT_READY}
    return True if ready else None
