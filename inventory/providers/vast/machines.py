"""Renting, reading and ending Vast.ai's instances, which are Docker containers on others' hosts.

Our mark is the label: the name of :mod:`inventory.providers.naming` with the country,
because instances may spell their place otherwise: ``sublet-…-l…-t….de``.
"""

from __future__ import annotations

import base64
import gzip
import ipaddress
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers import naming
from inventory.providers.base import (
    TAG_TOKEN,
    LaunchedInstance,
    LaunchGroup,
    Machine,
    MachineState,
    OwnedResource,
    PurchaseOption,
    ResourceKind,
)
from inventory.providers.errors import BadAnswer, NoCapacity, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.vast import catalog
from inventory.providers.vast.api import VastApi

LAUNCH, LIST, DESTROY = "create instance", "show instances", "destroy instance"
IMAGE = "vastai/base-image:@vastai-automatic-tag"  # what Vast takes itself without one
# actual_status, by Vast's documentation of "show instance" and its OpenAPI document: "if
# actual_status becomes exited, unknown, or offline it will never reach running -- destroy
# and retry". Such a machine still costs its disk and holds its data until it is destroyed,
# so that it is stopped and not gone. "created" and "scheduling" are Vast's console's words.
STATES: dict[str | None, MachineState] = {
    None: MachineState.PENDING,  # "is being provisioned"
    "scheduling": MachineState.PENDING,
    "created": MachineState.PENDING,
    "loading": MachineState.PENDING,
    "rebooting": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "stopped": MachineState.STOPPING,
    "frozen": MachineState.STOPPING,
    "exited": MachineState.STOPPING,
    "unknown": MachineState.STOPPING,
    "offline": MachineState.STOPPING,
}
FAILED = ("exited", "unknown", "offline")
# intended_status is what was asked for; cur_state the contract with the host.
HALTED = ("stopped", "frozen", "unloaded")
PAGE = 25  # the most that Vast lists at once
LONGEST_ONSTART = 4048  # characters
HIGHEST_BID, LOWEST_BID = Decimal(128), Decimal("0.001")
KEYS_FILE = "/root/.ssh/authorized_keys"
SCRIPT = "/root/.sublet-first-start"


def launch(api: VastApi, group: LaunchGroup) -> list[LaunchedInstance]:
    """Take the cheapest host's offer, in one call that is never repeated here."""
    body = launch_parameters(api, group)
    ask = _cheapest(api, group)
    if ask.spot:
        body["price"] = float(_bid(ask.price))
    answer = api.write("PUT", f"/api/v0/asks/{ask.id}", action=LAUNCH, limit="launch", json=body)
    return [LaunchedInstance(id=str(get(answer, "new_contract", int, action=LAUNCH)), raw_state="created")]


def launch_parameters(api: VastApi, group: LaunchGroup) -> dict[str, Any]:
    """Return the body of a launch but for a bid. Raises :class:`NotSupported` for what Vast has not."""
    if group.count != 1:
        raise NotSupported(_("Vast.ai launches one machine per call."))
    if group.reservation_id or group.purchase_option == PurchaseOption.RESERVED:
        raise NotSupported(_("Vast.ai has no reservations that a launch could target."))
    body: dict[str, Any] = {
        "image": group.image or api.text("image", IMAGE),
        "label": label_for({**group.tags, TAG_TOKEN: group.client_token}, group.region),
        "disk": api.disk_gb(),
        "runtype": "ssh_direct",
        "target_state": "running",
        # Else Vast keeps the contract and starts it whenever the host has room.
        "cancel_unavail": True,
    }
    if commands := onstart(group.ssh_public_keys, group.user_data):
        body["onstart"] = commands
    return body


def _cheapest(api: VastApi, group: LaunchGroup) -> catalog.Ask:
    match = catalog.TYPE_NAME.fullmatch(group.instance_type)
    if match is None:
        raise ProviderError(
            _("“%(type)s” is no instance type of Vast.ai: they read like “8x H100 SXM 80GB”.")
            % {"type": group.instance_type}
        )
    most = api.number("max_usd_per_hour", least=Decimal("0.001"), most=Decimal(100_000))
    asks = catalog.search(api, region=group.region, purchase=group.purchase_option, gpus=int(match[1]))
    ask = catalog.lowest(asks).get(group.instance_type)
    if ask is None:
        raise NoCapacity(
            _("No host in %(region)s offers %(type)s now.")
            % {"region": group.region, "type": group.instance_type}
        )
    if ask.price <= 0:
        raise BadAnswer(_("%(action)s: an offer has an impossible price.") % {"action": catalog.SEARCH})
    if most is not None and ask.price > most:
        raise NoCapacity(
            _("The cheapest %(type)s in %(region)s costs more than the account’s max_usd_per_hour.")
            % {"region": group.region, "type": group.instance_type}
        )
    return ask


def _bid(price: Decimal) -> Decimal:
    bid = max(price.quantize(Decimal("0.000001"), ROUND_CEILING), LOWEST_BID)
    if bid > HIGHEST_BID:
        raise NoCapacity(_("The lowest bid is above the 128 dollars per hour that Vast.ai takes."))
    return bid


def onstart(keys: Sequence[str], data: str) -> str:
    """Return the commands of every start: let the keys in, and run a script of ours at the first one.

    Longer ones are packed, as Vast asks for. Raises :class:`ProviderError` where they are
    still too long, and :class:`NotSupported` for what only cloud-init could read.
    """
    lines: list[str] = []
    if keys:
        lines += ["mkdir -p -m 700 /root/.ssh", f"touch {KEYS_FILE}", f"chmod 600 {KEYS_FILE}"]
        for key in keys:
            quoted = shlex.quote(" ".join(key.split()))
            lines.append(f"grep -qxF -- {quoted} {KEYS_FILE} || printf '%s\\n' {quoted} >> {KEYS_FILE}")
    if data:
        if not data.startswith("#!"):
            raise NotSupported(_("Vast.ai’s machines have no cloud-init: user data must begin with “#!”."))
        packed = base64.b64encode(data.encode()).decode()
        lines += [
            f"if [ ! -e {SCRIPT} ]; then",
            f"printf %s {packed} | base64 -d > {SCRIPT} && chmod 700 {SCRIPT} && {SCRIPT}",
            "fi",
        ]
    commands = "\n".join(lines)
    if len(commands) > LONGEST_ONSTART:
        small = base64.b64encode(gzip.compress(commands.encode(), mtime=0)).decode()
        commands = f"printf %s {small} | base64 -d | gunzip | sh"
    if len(commands) > LONGEST_ONSTART:
        raise ProviderError(
            _("Keys and user data are longer than the %(n)s characters that Vast.ai takes.")
            % {"n": LONGEST_ONSTART}
        )
    return commands


def label_for(tags: Mapping[str, str], region: str) -> str:
    return f"{naming.name_for(tags)}.{region.lower()}"


def label_tags(label: str) -> tuple[dict[str, str], str]:
    """Return the tags that a label carries, and the country that it names."""
    name, dot, place = label.rpartition(".")
    return (naming.tags_of(name), place.upper()) if dot else (naming.tags_of(label), "")


def find(api: VastApi, region: str, tag: str, value: str) -> list[Machine]:
    return [
        machine
        for machine in _listed(api)
        if machine.region == region and naming.matches(machine.tags, tag, value)
    ]


def describe(api: VastApi, ids: Sequence[str]) -> list[Machine]:
    """Return the machines; one that was destroyed is not listed any more."""
    wanted = [id_ for id_ in dict.fromkeys(ids) if id_.isdecimal()]
    found: dict[str, Machine] = {}
    for start in range(0, len(wanted), PAGE):
        some = [int(id_) for id_ in wanted[start : start + PAGE]]
        found |= {machine.id: machine for machine in _listed(api, {"id": {"in": some}})}
    return [found[id_] for id_ in wanted if id_ in found]


def reclaim(api: VastApi, ids: Sequence[str]) -> None:
    """Destroy each; what is gone already is no error."""
    for id_ in ids:
        if not id_.isdecimal():
            continue  # no id that Vast ever gave
        try:
            api.write("DELETE", f"/api/v0/instances/{id_}", action=DESTROY, limit="destroy")
        except NotFound:
            pass


def list_owned(api: VastApi, region: str) -> Iterator[OwnedResource]:
    """Yield the instances with a label of ours: each costs money until it is destroyed."""
    for machine in _listed(api):
        if machine.region == region and machine.tags:
            yield OwnedResource(
                ResourceKind.INSTANCE,
                machine.id,
                region,
                machine.tags,
                created_at=machine.launched_at,
                state=machine.raw_state,
            )


def remove(api: VastApi, resource: OwnedResource) -> None:
    if resource.kind != ResourceKind.INSTANCE:
        raise NotSupported(_("Sublet makes nothing but machines at Vast.ai."))
    reclaim(api, [resource.id])


def _listed(api: VastApi, filters: Mapping[str, Any] | None = None) -> list[Machine]:
    params = {"limit": PAGE, "order_by": json.dumps([{"col": "id", "dir": "asc"}])}
    if filters:
        params["select_filters"] = json.dumps(filters)

    def following(document: Any) -> dict[str, str] | None:
        token = get(document, "next_token", str, action=LIST, default="")
        return {"after_token": token} if token else None

    def items(document: Any) -> Any:
        return get(document, "instances", list, action=LIST)

    pages = api.http.pages(
        "/api/v1/instances",
        action=LIST,
        items=items,
        following=following,
        params=params,
        limit=api.limits["list"],
    )
    # An instance that appears while we turn pages moves others: one id is one machine.
    return list({machine.id: machine for machine in map(_machine, pages)}.values())


def _machine(item: Any) -> Machine:
    status = get(item, "actual_status", str, action=LIST, default=None)
    tags, place = label_tags(get(item, "label", str, action=LIST, default=""))
    place = place or get(item, "country_code", str, action=LIST, default="")
    place = place or catalog.country(get(item, "geolocation", str, action=LIST, default=""))
    state, host, port = STATES.get(status, MachineState.UNKNOWN), "", 0
    asked = get(item, "intended_status", str, action=LIST, default="")
    contract = get(item, "cur_state", str, action=LIST, default="")
    if asked in HALTED or (contract in HALTED and status == "running"):
        state = MachineState.STOPPING
    if state == MachineState.RUNNING:
        host, port = _door(item)
    return Machine(
        id=str(get(item, "id", int, action=LIST)),
        region=place,
        state=state,
        raw_state=status or contract or "created",
        instance_type=_type(item),
        public_ip=host,
        tags=tags,
        launched_at=moment(item.get("start_date")),
        status_ok=bool(port) or None if state == MachineState.RUNNING else _health(status),
        reason=_("Vast.ai says “%(status)s”: it will not run again.") % {"status": status}
        if status in FAILED
        else "",
        ssh_port=port,
    )


def _health(status: str | None) -> bool | None:
    return False if status in FAILED else None


def _door(item: Any) -> tuple[str, int]:
    """Return address and port of the machine's SSH, once the host has mapped one.

    Vast's own way through its proxy is a host name, whose machine could be anybody's.
    """
    mapped = item.get("ports")
    first = mapped.get("22/tcp") if isinstance(mapped, Mapping) else None
    entry = first[0] if isinstance(first, list) and first else None
    try:
        port = int(entry["HostPort"]) if isinstance(entry, Mapping) else 0
        host = str(ipaddress.ip_address(str(item.get("public_ipaddr") or "").strip()))
    except (KeyError, TypeError, ValueError):
        return "", 0
    return (host, port) if 0 < port < 65_536 else ("", 0)


def _type(item: Any) -> str:
    gpus, name, memory = item.get("num_gpus"), item.get("gpu_name"), item.get("gpu_ram")
    if not isinstance(gpus, int) or not isinstance(name, str) or not isinstance(memory, int | Decimal):
        return ""
    try:
        return f"{gpus}x {name.replace('_', ' ').strip()} {catalog.nominal_gb(Decimal(memory))}GB"
    except BadAnswer:
        return ""
