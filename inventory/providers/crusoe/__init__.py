"""Crusoe Cloud's VMs, by its REST API (https://docs.crusoecloud.com/api/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

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
from inventory.providers.crusoe import catalog, machines, network
from inventory.providers.crusoe.api import CrusoeApi
from inventory.providers.fields import get


class CrusoeProvider:
    """One Crusoe project. :class:`CrusoeApi` lists its credentials and settings.

    Crusoe has no idempotency key and its VMs no tags: our token is in the name of every
    VM, and ``find`` decides after a doubt. Prices come from a rate card.
    """

    kind: ClassVar[str] = "crusoe"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.AVAILABILITY,
            Capability.COMMITTED_CAPACITY,
            Capability.IMAGES,
            Capability.FIREWALL,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_NETWORKS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("access_key_id", _("Access key ID")),
        CredentialField("secret_key", _("Secret key")),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.api = CrusoeApi(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """Read the project, which the machines belong to."""
        action = "get project"
        path = "/organizations/projects/" + quote(self.api.project_id, safe="")
        project = self.api.http.read(path, action=action)
        return AccountIdentity(
            account=f"{get(project, 'organization_id', str, action=action)}/{get(project, 'id', str, action=action)}",
            principal=get(project, "name", str, action=action, default=""),
        )

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured regions, or all of Crusoe's; its locations are their zones."""
        found = catalog.read_regions(self.api, fresh=True)
        chosen = self.api.options.texts("regions")
        return [found.get(code, RegionInfo(code=code)) for code in chosen or found]

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.api, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        return network.prepare(self.api, request)

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return machines.launch(self.api, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return machines.find(self.api, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return machines.describe(self.api, region, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        machines.reclaim(self.api, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        if network_.firewall_id:
            network.remove(self.api, network_.firewall_id)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(machines.list_owned(self.api, region))

    def remove(self, resource: OwnedResource) -> None:
        machines.remove(self.api, resource)
