"""Microsoft Azure: virtual machines of one subscription, in one resource group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from azure.core.credentials import TokenCredential
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.providers.azure import catalog, machines, network, owned
from inventory.providers.azure.session import GROUPS, SUBSCRIPTIONS, AzureSession
from inventory.providers.base import (
    AccountIdentity,
    Capability,
    Catalog,
    CredentialField,
    LaunchedInstance,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    Machine,
    OwnedResource,
    RegionInfo,
)
from inventory.providers.fields import get


class AzureProvider:
    """One Azure subscription. :class:`AzureSession` lists its credentials and settings.

    A machine's PUT goes by our own name and only where that is free, which makes it
    idempotent; it is never relied on: ``find`` by tag decides. Offers say what this
    subscription is refused, but Azure tells nobody what is in stock.

    On-demand capacity reservations have no end of their own and cannot be bought for a
    period, so this adapter uses those that exist and buys none.
    """

    kind: ClassVar[str] = "azure"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.SPOT,
            Capability.COMMITTED_CAPACITY,
            Capability.IMAGES,
            Capability.FIREWALL,
            Capability.USER_DATA,
            Capability.MACHINE_STATUS,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_ADDRESSES,
            Capability.OWNED_NETWORKS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("tenant_id", gettext_lazy("Directory (tenant) ID")),
        CredentialField("client_id", gettext_lazy("Application (client) ID")),
        CredentialField("client_secret", gettext_lazy("Client secret")),
    )

    def __init__(
        self,
        *,
        credentials: Mapping[str, Any],
        settings: Mapping[str, Any],
        credential: TokenCredential | None = None,
        authentication_policy: Any = None,
    ) -> None:
        self.session = AzureSession(
            credentials, settings, credential=credential, authentication_policy=authentication_policy
        )

    def test_connection(self) -> AccountIdentity:
        """Read the resource group, so that rights and settings are tested and not the password alone."""
        action = _("Reading the resource group")
        group = self.session.get(self.session.group_path(), GROUPS, action=action)
        name = get(group, "name", str, action=action)
        return AccountIdentity(account=self.session.subscription, principal=name)

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured regions, or all of the subscription; zones come with :meth:`offers`."""
        if codes := self.session.configured_regions():
            return [RegionInfo(code=code) for code in codes]
        action = _("Listing regions")
        found = self.session.list(self.session.subscription_path("/locations"), SUBSCRIPTIONS, action=action)
        return [
            RegionInfo(
                code=get(item, "name", str, action=action),
                name=get(item, "displayName", str, action=action, default=""),
            )
            for item in found
            # The rest are groups of regions, where nothing can be placed.
            if get(item, "metadata.regionType", str, action=action, default="Physical") == "Physical"
        ]

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.session, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        return network.prepare(self.session, request)

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return machines.launch(self.session, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return machines.find(self.session, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return machines.describe(self.session, region, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        machines.reclaim(self.session, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        network.remove(self.session, network_.firewall_id)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(owned.list_owned(self.session, region))

    def remove(self, resource: OwnedResource) -> None:
        owned.remove(self.session, resource)
