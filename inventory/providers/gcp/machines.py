"""Reading and ending machines, and the machines that never came to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import Machine, MachineState
from inventory.providers.errors import NotFound, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.gcp import marks
from inventory.providers.gcp.errors import of_operation
from inventory.providers.gcp.session import GcpSession, document, in_region, last

# All states of Instance.status in the discovery document:
# https://cloud.google.com/compute/docs/instances/instance-life-cycle
STATES: Mapping[str, MachineState] = {
    "DEPROVISIONING": MachineState.STOPPING,
    "PENDING": MachineState.PENDING,  # waits for capacity (Flex Start)
    "PENDING_STOP": MachineState.STOPPING,
    "PROVISIONING": MachineState.PENDING,
    "REPAIRING": MachineState.STOPPING,  # out of service; it may come back by itself
    "RUNNING": MachineState.RUNNING,
    "STAGING": MachineState.PENDING,
    "STOPPED": MachineState.STOPPING,  # stopped, and its disk is kept and billed
    "STOPPING": MachineState.STOPPING,
    "SUSPENDED": MachineState.STOPPING,
    "SUSPENDING": MachineState.STOPPING,
    "TERMINATED": MachineState.STOPPING,  # Google's older word for stopped: it is not gone
}
# Above this many of one zone, its whole listing takes fewer calls.
ONE_BY_ONE = 8
# Of machines that are not there, so many are looked up in the operations.
MOST_LOOKUPS = 20
PREEMPTED = "compute.instances.preempted"


def find(session: GcpSession, region: str, tag: str, value: str) -> list[Machine]:
    """Return the machines of a region with one of our tags."""
    action = _("Listing machines")
    listing = session.aggregated(
        "instances", region=region, action=action, filter=marks.label_filter(tag, value)
    )
    return [
        machine(region, zone, item, action)
        for zone, item in listing
        if naming.matches(marks.tags_of(item), tag, value)
    ]


def describe(session: GcpSession, region: str, ids: Sequence[str]) -> list[Machine]:
    """Return these machines; one that is not there is looked up in the operations of its zone."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for identifier in dict.fromkeys(ids):
        zone, name = marks.split(identifier)
        if in_region(zone, region):
            wanted[zone].append(name)
    machines: list[Machine] = []
    missing: list[tuple[str, str]] = []
    for zone, names in wanted.items():
        found = dict(_read(session, zone, names))
        machines += [
            machine(region, zone, found[name], _("Reading a machine")) for name in names if name in found
        ]
        missing += [(zone, name) for name in names if name not in found]
    for zone, name in missing[:MOST_LOOKUPS]:
        if gone := _what_became(session, region, zone, name):
            machines.append(gone)
    return machines


def reclaim(session: GcpSession, ids: Sequence[str]) -> None:
    """Delete machines and, with them, their disks; gone already is no error. It goes on after this returns."""
    for identifier in ids:
        delete(session, identifier)


def delete(session: GcpSession, identifier: str) -> None:
    zone, name = marks.split(identifier)
    gone(session, "DELETE", f"zones/{zone}/instances/{name}", action=_("Ending a machine"))


def gone(session: GcpSession, method: str, path: str, *, action: str, project: str = "") -> None:
    """Make a call that removes something; where Google says that this is not there, all is well."""
    try:
        session.write(method, path, action=action, project=project)
    except NotFound as error:
        if not error.code:
            raise ProviderError(str(error), retryable=True) from error


def _read(session: GcpSession, zone: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    wanted = set(names)
    if len(names) > ONE_BY_ONE:
        action = _("Listing machines")
        for item in session.listing(f"zones/{zone}/instances", action=action, filter=marks.ANY_OF_OURS):
            name = get(document(item, action), "name", str, action=action)
            if name in wanted:
                wanted.remove(name)
                yield name, item
    # One that has lost its labels is not in that listing.
    for name in sorted(wanted):
        try:
            yield name, session.get(f"zones/{zone}/instances/{name}", action=_("Reading a machine"))
        except NotFound:
            continue


def _what_became(session: GcpSession, region: str, zone: str, name: str) -> Machine | None:
    """Return a machine that is not listed, as its operations tell: still coming, never made, or ended.

    Google keeps operations for about two weeks; without any, nothing is known about it.
    """
    action = _("Listing operations")
    operations = [
        item
        for item in session.listing(
            f"zones/{zone}/operations", action=action, filter=f'targetLink eq ".*/instances/{name}"'
        )
        if last(document(item, action).get("targetLink")) == name
    ]
    operations.sort(key=lambda item: str(item.get("insertTime") or ""))
    state, reason = None, ""
    for item in operations:
        kind, done = str(item.get("operationType") or ""), item.get("status") == "DONE"
        failed = of_operation(item, _("Launching a machine"))
        if kind == "insert" and not done:
            state = MachineState.PENDING
        elif kind == "insert" and failed:
            state, reason = MachineState.TERMINATED, str(failed)
        elif kind == PREEMPTED and done:
            state = MachineState.TERMINATED
            reason = _("Google needed the spot machine’s capacity (preempted).")
        elif kind == "delete" and done and not failed:
            state = MachineState.TERMINATED
            reason = reason or _("It was deleted by %(who)s.") % {"who": str(item.get("user") or "?")[:200]}
    if state is None:
        return None
    return Machine(
        id=marks.id_of(zone, name),
        region=region,
        state=state,
        raw_state="",
        zone=zone,
        tags=naming.tags_of(name),
        reason=reason[:500],
    )


def machine(region: str, zone: str, item: Mapping[str, Any], action: str) -> Machine:
    raw = get(item, "status", str, action=action, default="")
    outside = inside = ""
    for interface in get(item, "networkInterfaces", list, action=action, default=[]):
        inside = inside or get(interface, "networkIP", str, action=action, default="")
        for access in get(interface, "accessConfigs", list, action=action, default=[]):
            outside = outside or get(access, "natIP", str, action=action, default="")
    return Machine(
        id=marks.id_of(zone, get(item, "name", str, action=action)),
        region=region,
        state=STATES.get(raw, MachineState.UNKNOWN),
        raw_state=raw,
        zone=zone,
        instance_type=last(item.get("machineType")),
        public_ip=outside,
        private_ip=inside,
        tags=marks.tags_of(item),
        launched_at=moment(item.get("creationTimestamp")),
        reason=get(item, "statusMessage", str, action=action, default=""),
    )
