"""Servers that the reseller owns: the operator's script hands them over and wipes them.

A server goes ``free → deploying → running → wiping → free``. A *tenancy* is one launch on
it, named by our token; the machine's id is ``SERVER/TENANCY``, so that asking about an
old tenancy never answers about the next one. :mod:`inventory.own_servers` imports the
servers as nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.providers.base import (
    TAG_TOKEN,
    AccountIdentity,
    Availability,
    Capability,
    Catalog,
    CredentialField,
    InstanceTypeInfo,
    LaunchedInstance,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    Machine,
    MachineState,
    OfferInfo,
    OwnedResource,
    PurchaseOption,
    RegionInfo,
    ResourceKind,
    ZoneInfo,
)
from inventory.providers.errors import BadAnswer, NoCapacity, NotFound, NotSupported
from inventory.providers.fields import get, moment
from inventory.providers.metal.hook import Hook
from inventory.providers.options import Options

# Every state of a server, and what it means for its tenancy.
STATES: Mapping[str, MachineState] = {
    "free": MachineState.TERMINATED,
    "deploying": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "wiping": MachineState.STOPPING,
    # Out of order: whoever had it has it no longer, and nobody gets it.
    "failed": MachineState.STOPPING,
}
MOST_SERVERS = 100_000


@dataclass(frozen=True, slots=True)
class Server:
    """One server as the script sees it now."""

    name: str
    region: str
    zone: str
    instance_type: str
    state: str
    tenancy: str
    facts: Mapping[str, Any]

    @property
    def machine_id(self) -> str:
        return f"{self.name}/{self.tenancy}"


class MetalProvider:
    """Own servers behind a script.

    Credentials: ``secret``, optional; given to the script with every request.
    Settings: ``hook``, the script's name in ``SUBLET_HOOKS``; ``image``, what it deploys
    where a lease chose no stack; ``any_server``, true where nodes are not called as servers
    are, so that any free one of the type and zone will do.
    """

    kind: ClassVar[str] = "metal"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.AVAILABILITY,
            Capability.IMAGES,
            Capability.USER_DATA,
            Capability.REIMAGE,
            Capability.MACHINE_STATUS,
        }
    )
    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("secret", gettext_lazy("Secret for the script"), required=False),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        secrets = {name: str(value) for name, value in credentials.items() if value}
        self._settings = settings
        self._hook = Hook(str(settings.get("hook") or ""), secrets)

    def test_connection(self) -> AccountIdentity:
        """Return how many servers there are; whose they are is no question with own metal."""
        servers = self._servers()
        return AccountIdentity(account="", principal=_("%(n)s servers") % {"n": len(servers)})

    def regions(self) -> Sequence[RegionInfo]:
        return _regions(self._servers())

    def offers(self, region: str) -> Catalog:
        """Return the region's types; one with a free server is available. Own metal has no price here."""
        servers = [server for server in self._servers() if server.region == region]
        found = next((info for info in _regions(servers) if info.code == region), None)
        if found is None:
            raise NotFound(_("The script knows no server in region %(region)s.") % {"region": region})
        by_type: dict[str, list[Server]] = defaultdict(list)
        for server in servers:
            by_type[server.instance_type].append(server)
        return Catalog(
            region=found,
            instance_types=tuple(info for group in by_type.values() if (info := _type(group))),
            offers=tuple(
                OfferInfo(
                    instance_type=name,
                    region=region,
                    zones=tuple(sorted({server.zone for server in group})),
                    purchase_option=PurchaseOption.ON_DEMAND,
                    availability=Availability.AVAILABLE
                    if any(server.state == "free" for server in group)
                    else Availability.UNAVAILABLE,
                )
                for name, group in sorted(by_type.items())
            ),
        )

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        raise NotSupported(_("Own servers have no network of their own for each lease."))

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        """Deploy one server: the node's own by its name. Another one may be promised to somebody else."""
        servers = [
            server
            for server in self._servers()
            if (server.region, server.instance_type) == (group.region, group.instance_type)
            and group.zone in ("", server.zone)
        ]
        if group.node and not Options(self._settings).flag("any_server"):
            servers = [server for server in servers if server.name == group.node]
            if not servers:
                raise NoCapacity(
                    _("deploy: the script lists no server %(name)s of this type in this zone.")
                    % {"name": group.node}
                )
        free = [server for server in servers if server.state == "free"]
        if not free:
            raise NoCapacity(_("deploy: %(name)s is not free.") % {"name": group.node or group.instance_type})
        server = min(free, key=lambda each: each.name)
        self._hook.ask(
            "deploy",
            {
                "server": server.name,
                "tenancy": group.client_token,
                "image": group.image or str(self._settings.get("image") or ""),
                "login_user": group.login_user,
                "ssh_public_keys": list(group.ssh_public_keys),
                "user_data": group.user_data,
                "tags": {**group.tags, TAG_TOKEN: group.client_token},
            },
            changes=True,
        )
        return [LaunchedInstance(id=f"{server.name}/{group.client_token}", zone=server.zone)]

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return [
            _machine(server)
            for server in self._servers()
            if server.region == region and server.tenancy and _tags(server).get(tag) == value
        ]

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        """Return these tenancies; one whose server is free or has another tenant is over, and was wiped."""
        servers = {server.name: server for server in self._servers() if server.region == region}
        machines = []
        for machine_id in ids:
            name, _slash, tenancy = machine_id.partition("/")
            server = servers.get(name)
            if server is None:
                continue
            machines.append(_machine(server) if server.tenancy == tenancy else _over(server, machine_id))
        return machines

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        """Wipe the servers for their next tenant; a tenancy that is over is left alone."""
        servers = {server.machine_id: server for server in self._servers() if server.region == region}
        for machine_id in ids:
            server = servers.get(machine_id)
            if server is None or server.state == "wiping":
                continue
            self._hook.ask("wipe", {"server": server.name, "tenancy": server.tenancy}, changes=True)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Own servers have none."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return [
            OwnedResource(
                kind=ResourceKind.INSTANCE,
                id=server.machine_id,
                region=region,
                tags=_tags(server),
                created_at=moment(server.facts.get("since")),
                state=server.state,
            )
            for server in self._servers()
            if server.region == region and server.tenancy and server.state != "free"
        ]

    def remove(self, resource: OwnedResource) -> None:
        self.reclaim(region=resource.region, ids=[resource.id])

    def _servers(self) -> list[Server]:
        answer = self._hook.ask("list", {})
        items = get(answer, "servers", list, action="list")
        if len(items) > MOST_SERVERS:
            raise BadAnswer(_("list: more than %(n)s servers.") % {"n": MOST_SERVERS})
        servers = list(_read(items))
        names = {server.name for server in servers}
        if len(names) != len(servers):
            raise BadAnswer(_("list: a server is listed twice."))
        return servers


def _read(items: list[Any]) -> Iterator[Server]:
    for item in items:
        server = Server(
            name=get(item, "name", str, action="list"),
            region=get(item, "region", str, action="list"),
            zone=get(item, "zone", str, action="list"),
            instance_type=get(item, "instance_type", str, action="list"),
            state=get(item, "state", str, action="list"),
            tenancy=get(item, "tenancy", str, action="list", default=""),
            facts=item,
        )
        if "/" in server.name or not server.name:
            raise BadAnswer(_("list: “%(name)s” is no server name.") % {"name": server.name[:80]})
        if server.state not in STATES:
            raise BadAnswer(
                _("list: %(name)s has the unknown state “%(state)s”.")
                % {"name": server.name, "state": server.state[:40]}
            )
        yield server


def _regions(servers: Sequence[Server]) -> list[RegionInfo]:
    zones: dict[str, set[str]] = defaultdict(set)
    for server in servers:
        zones[server.region].add(server.zone)
    return [
        RegionInfo(code=code, zones=tuple(ZoneInfo(zone) for zone in sorted(found)))
        for code, found in sorted(zones.items())
    ]


def _type(servers: Sequence[Server]) -> InstanceTypeInfo | None:
    """Return the type of these servers, or None where the script says nothing of GPUs."""
    infos = {_info(server) for server in servers}
    if len(infos) > 1:
        raise BadAnswer(
            _("list: servers of type %(type)s differ: give them types of their own.")
            % {"type": servers[0].instance_type}
        )
    (info,) = infos
    return info if info.gpu_count > 0 else None


def _info(server: Server) -> InstanceTypeInfo:
    def number(name: str) -> int:
        return get(server.facts, name, int, action="list", default=0)

    def text(name: str) -> str:
        return get(server.facts, name, str, action="list", default="")

    return InstanceTypeInfo(
        name=server.instance_type,
        vcpus=number("vcpus"),
        memory_mib=number("memory_mib"),
        gpu_vendor=text("gpu_vendor"),
        gpu_name=text("gpu"),
        gpu_count=number("gpus"),
        gpu_memory_mib=number("gpu_memory_mib"),
        network=text("network"),
    )


def _tags(server: Server) -> dict[str, str]:
    tags = get(server.facts, "tags", dict, action="list", default={})
    return {str(name): str(value) for name, value in tags.items()}


def _machine(server: Server) -> Machine:
    ready = get(server.facts, "healthy", bool, action="list", default=None)
    state = STATES[server.state]
    return Machine(
        id=server.machine_id,
        region=server.region,
        state=state,
        raw_state=server.state,
        zone=server.zone,
        instance_type=server.instance_type,
        public_ip=get(server.facts, "public_ip", str, action="list", default=""),
        private_ip=get(server.facts, "private_ip", str, action="list", default=""),
        tags=_tags(server),
        launched_at=moment(server.facts.get("since")),
        status_ok=(ready if ready is not None else True) if state == MachineState.RUNNING else None,
        reason=get(server.facts, "message", str, action="list", default=""),
    )


def _over(server: Server, machine_id: str) -> Machine:
    """Return a tenancy that its server no longer has; the script's word on the wipe is the evidence."""
    wipe = get(server.facts, "last_wipe", dict, action="list", default={})
    tenancy = machine_id.partition("/")[2]
    evidence = (
        {str(name): str(value) for name, value in wipe.items()} if wipe.get("tenancy") == tenancy else {}
    )
    return Machine(
        id=machine_id,
        region=server.region,
        state=MachineState.TERMINATED,
        raw_state=server.state,
        zone=server.zone,
        instance_type=server.instance_type,
        reason=_("The server was wiped and is free."),
        evidence=evidence,
    )
