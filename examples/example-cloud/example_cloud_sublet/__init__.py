"""Example Cloud as a provider of Sublet: the least that an adapter has to be, in one file.

Example Cloud does not exist. Its API has sizes with a price and a stock, and servers with
a name; it has no tags, so our names carry them. ``docs/providers/your-own.md`` explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import httpx

from inventory.providers import naming
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
    RegionInfo,
    ResourceKind,
    ZoneInfo,
)
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import NoCapacity, NotFound, NotSupported, ProviderError
from inventory.providers.fields import get, moment
from inventory.providers.http import JsonApi
from inventory.providers.pacing import Limit, Pace

ADDRESS = "https://api.example-cloud.invalid"
CALLS = Limit("calls", per_second=5, burst=10)  # what the vendor documents
STATES: Mapping[str, MachineState] = {
    "creating": MachineState.PENDING,
    "on": MachineState.RUNNING,
    "deleting": MachineState.STOPPING,
    "deleted": MachineState.TERMINATED,
}


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Turn the vendor's own error codes into ours; None leaves it to the HTTP status."""
    code = get(document, "code", str, action=action, default="") if isinstance(document, dict) else ""
    if code == "sold_out":
        return NoCapacity(f"{action}: sold out.", code=code)
    return None


class ExampleCloud:
    """One account. Credentials: ``api_key``. Settings: ``address`` and ``image``, both optional."""

    kind: ClassVar[str] = "example"
    # What the vendor lacks is missing here, and then never asked for.
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.PRICES, Capability.AVAILABILITY, Capability.IMAGES, Capability.USER_DATA}
    )
    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", "API key"),)

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        address = str(settings.get("address") or ADDRESS)
        self._image = str(settings.get("image") or "")
        self._api = JsonApi(
            base_url=address,
            headers={"authorization": f"Bearer {credentials['api_key']}"},
            explain=explain,
            pace=Pace(credentials, address, usual=CALLS),
        )

    def test_connection(self) -> AccountIdentity:
        answer = self._api.read("/v1/account", action="account")
        return AccountIdentity(account=get(answer, "name", str, action="account"))

    def regions(self) -> Sequence[RegionInfo]:
        sizes = self._sizes()
        return [
            RegionInfo(code) for code in sorted({get(size, "region", str, action="sizes") for size in sizes})
        ]

    def offers(self, region: str) -> Catalog:
        sizes = [size for size in self._sizes() if size.get("region") == region]
        if not sizes:
            raise NotFound(f"sizes: there is no region {region}.")
        return Catalog(
            region=RegionInfo(region, zones=(ZoneInfo(region),)),
            instance_types=tuple(
                InstanceTypeInfo(
                    name=get(size, "name", str, action="sizes"),
                    vcpus=get(size, "cpus", int, action="sizes"),
                    memory_mib=get(size, "memory_gb", int, action="sizes") * 1024,
                    gpu_vendor="nvidia",
                    gpu_name=get(size, "gpu", str, action="sizes"),  # as the vendor spells it
                    gpu_count=get(size, "gpus", int, action="sizes"),
                    gpu_memory_mib=get(size, "gpu_memory_gb", int, action="sizes") * 1024,
                )
                for size in sizes
            ),
            offers=tuple(
                OfferInfo(
                    instance_type=get(size, "name", str, action="sizes"),
                    region=region,
                    zones=(region,),
                    price=get(size, "usd_per_hour", Decimal, action="sizes"),
                    availability=Availability.AVAILABLE
                    if get(size, "in_stock", bool, action="sizes")
                    else Availability.UNAVAILABLE,
                )
                for size in sizes
            ),
        )

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        raise NotSupported("Example Cloud has no firewalls.")

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        """Make one call, once: when its answer is lost, Sublet looks for the name before it calls again."""
        answer = self._api.write(
            "POST",
            "/v1/servers",
            action="create a server",
            json={
                "name": naming.name_for({**group.tags, TAG_TOKEN: group.client_token}),
                "size": group.instance_type,
                "region": group.region,
                "image": group.image or self._image,
                "user_data": user_data(group.ssh_public_keys, group.user_data),
            },
        )
        return [LaunchedInstance(id=get(answer, "id", str, action="create a server"), zone=group.region)]

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return [found for found in self._machines(region) if naming.matches(found.tags, tag, value)]

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        wanted = set(ids)
        return [found for found in self._machines(region) if found.id in wanted]

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        for one in ids:
            try:
                self._api.write("DELETE", f"/v1/servers/{one}", action="delete a server")
            except NotFound:
                continue

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Example Cloud has none."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return [
            OwnedResource(
                ResourceKind.INSTANCE, found.id, region, found.tags, found.launched_at, found.raw_state
            )
            for found in self._machines(region)
            if found.tags and found.state != MachineState.TERMINATED
        ]

    def remove(self, resource: OwnedResource) -> None:
        self.reclaim(region=resource.region, ids=[resource.id])

    def _sizes(self) -> list[Any]:
        return get(self._api.read("/v1/sizes", action="sizes"), "sizes", list, action="sizes")

    def _machines(self, region: str) -> list[Machine]:
        pages = self._api.pages(
            "/v1/servers",
            action="servers",
            params={"page": 1},
            items=lambda answer: get(answer, "servers", list, action="servers"),
            following=lambda answer: {"page": answer["next"]} if answer.get("next") else None,
        )
        return [_machine(item) for item in pages if item.get("region") == region]


def _machine(item: Any) -> Machine:
    state = get(item, "state", str, action="servers")
    return Machine(
        id=get(item, "id", str, action="servers"),
        region=get(item, "region", str, action="servers"),
        zone=get(item, "region", str, action="servers"),
        # A state that the vendor added since is unknown, and never guessed.
        state=STATES.get(state, MachineState.UNKNOWN),
        raw_state=state,
        instance_type=get(item, "size", str, action="servers"),
        public_ip=get(item, "ip", str, action="servers", default=""),
        tags=naming.tags_of(get(item, "name", str, action="servers")),
        launched_at=moment(item.get("created")),
    )
