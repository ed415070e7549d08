"""Google Cloud: machines of one project on Compute Engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.providers.base import (
    AccountIdentity,
    Capability,
    CapacityOffering,
    CapacityRequest,
    Catalog,
    CredentialField,
    LaunchedInstance,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    Machine,
    OwnedResource,
    RegionInfo,
    Reservation,
)
from inventory.providers.gcp import catalog, launching, machines, network, owned, reservations
from inventory.providers.gcp.session import GcpSession, document


class GcpProvider:
    """One Google Cloud project. :class:`GcpSession` lists its credentials and settings.

    A launch has a request id and a name of ours, either of which makes it idempotent; they
    are never relied on: ``find`` by label decides. Several machines in one call
    (``bulkInsert``) are not claimed, since whether all or none came is known only when the
    operation is over.
    """

    kind: ClassVar[str] = "gcp"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.SPOT,
            Capability.COMMITTED_CAPACITY,
            Capability.BUYABLE_CAPACITY,
            Capability.IMAGES,
            Capability.FIREWALL,
            Capability.USER_DATA,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_ADDRESSES,
            Capability.OWNED_NETWORKS,
        }
    )

    regions_at_once: ClassVar[int] = 4

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("service_account_key", gettext_lazy("Service account key (JSON)")),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.session = GcpSession(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """Read one page of regions of the project, so that rights and settings are tested too."""
        action = _("Listing regions")
        path = self.session.path("regions")
        document(self.session.compute.read(path, action=action, params={"maxResults": "1"}), action)
        return AccountIdentity(account=self.session.project, principal=self.session.principal)

    def regions(self) -> Sequence[RegionInfo]:
        return catalog.regions(self.session)

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.session, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        return network.prepare(self.session, request)

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return launching.launch(self.session, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return machines.find(self.session, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return machines.describe(self.session, region, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        machines.reclaim(self.session, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        network.remove(self.session, network_.region, network_.firewall_id)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(owned.list_owned(self.session, region))

    def remove(self, resource: OwnedResource) -> None:
        owned.remove(self.session, resource)

    def capacity_offerings(self, request: CapacityRequest) -> Sequence[CapacityOffering]:
        return reservations.offerings(self.session, request)

    def buy_capacity(
        self, offering: CapacityOffering, *, client_token: str, tags: Mapping[str, str]
    ) -> Reservation:
        return reservations.buy(self.session, offering, client_token, tags)

    def reservations(self, *, region: str) -> Sequence[Reservation]:
        return list(reservations.reservations(self.session, region))
