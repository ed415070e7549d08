"""Nebius AI Cloud, by its official SDK (https://github.com/nebius/pysdk)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from nebius.api.nebius.iam.v1 import GetProjectRequest, ProjectServiceClient

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
from inventory.providers.nebius import catalog, machines, network
from inventory.providers.nebius.session import Session, understood


class NebiusProvider:
    """One Nebius tenant. :class:`Session` lists its credentials and settings.

    Each region has a project of its own. Nebius's idempotency key is our client token, and is
    never relied on: it is also in the labels and in the name of every instance.
    """

    kind: ClassVar[str] = "nebius"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.AVAILABILITY,
            Capability.SPOT,
            Capability.COMMITTED_CAPACITY,
            Capability.IMAGES,
            Capability.FIREWALL,
            Capability.USER_DATA,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_NETWORKS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("service_account", _("Authorized key of a service account (JSON)"), required=False),
        CredentialField("token", _("Token, for tests"), required=False),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.session = Session(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """Read the first project: its tenant is whom the machines belong to."""
        action = "get project"
        project = next(iter(self.session.projects().values()))
        client = ProjectServiceClient(self.session.sdk())
        found = self.session.read(client.get, GetProjectRequest(id=project), action=action)
        with understood(action):
            return AccountIdentity(account=str(found.metadata.parent_id), principal=str(found.metadata.name))

    def regions(self) -> Sequence[RegionInfo]:
        return catalog.read_regions(self.session)

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
        if network_.firewall_id:
            network.remove_group(self.session, network_.firewall_id)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(machines.list_owned(self.session, region))

    def remove(self, resource: OwnedResource) -> None:
        machines.remove(self.session, resource)
