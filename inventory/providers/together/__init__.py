"""Together AI's GPU clusters, by its REST API (https://docs.together.ai/reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _

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
from inventory.providers.together import clusters
from inventory.providers.together.api import TogetherApi


class TogetherProvider:
    """One Together project. :class:`TogetherApi` lists its credentials and settings.

    A launch makes a cluster, whose nodes are the machines; they end only together. Clusters
    have no tags and the API has no idempotency key: our token is in the cluster's name.
    Prices, stock, SSH keys and firewalls are not part of the API.
    """

    kind: ClassVar[str] = "together"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.COMMITTED_CAPACITY,
            Capability.IMAGES,
            Capability.GROUP_LAUNCH,
            Capability.ENDS_TOGETHER,
            Capability.MACHINE_STATUS,
            Capability.OWNED_VOLUMES,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", _("API key")),)

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.api = TogetherApi(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """Read the clusters: whose key it is, Together does not say."""
        clusters.list_clusters(self.api)
        return AccountIdentity(account="", principal="Together")

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured regions, or all of Together's; it has no zones."""
        codes = self.api.configured_regions()
        return [
            RegionInfo(code=code)
            for code in codes or [item["name"] for item in clusters.read_regions(self.api)]
        ]

    def offers(self, region: str) -> Catalog:
        return clusters.read_catalog(self.api, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        """Return nothing made: Together has neither firewalls nor keys for a cluster."""
        return LeaseNetwork(region=request.region, firewall_id="", key_name="")

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return clusters.launch(self.api, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return clusters.find(self.api, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return clusters.describe(self.api, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        clusters.reclaim(self.api, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Do nothing: :meth:`prepare_lease` made nothing."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(clusters.list_owned(self.api, region))

    def remove(self, resource: OwnedResource) -> None:
        clusters.remove(self.api, resource)
