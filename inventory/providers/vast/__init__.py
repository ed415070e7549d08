"""Vast.ai's market of other people's GPU hosts, by its REST API (https://docs.vast.ai/api-reference)."""

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
from inventory.providers.fields import get
from inventory.providers.vast import catalog, machines
from inventory.providers.vast.api import VastApi


class VastProvider:
    """One Vast.ai account. :class:`VastApi` lists its credentials and settings.

    Regions are countries; a price is the lowest of many hosts'. Vast has no idempotency key:
    our token is in the label of every instance. It has no firewalls, and its SSH keys belong
    to the whole account, so that a lease's keys come with the commands of the start.
    """

    kind: ClassVar[str] = "vast"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.AVAILABILITY,
            Capability.SPOT,
            Capability.IMAGES,
            Capability.USER_DATA,
            Capability.MACHINE_STATUS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", _("API key")),)

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.api = VastApi(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        action = "show user"
        user = self.api.read("/api/v0/users/current", action=action, limit="user")
        return AccountIdentity(
            account=str(get(user, "id", int, action=action)),
            principal=get(user, "email", str, action=action, default=""),
        )

    def regions(self) -> Sequence[RegionInfo]:
        return catalog.read_regions(self.api)

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.api, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        """Return nothing made: Vast has neither firewalls nor keys for one machine alone."""
        return LeaseNetwork(region=request.region, firewall_id="", key_name="")

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return machines.launch(self.api, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return machines.find(self.api, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return machines.describe(self.api, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        machines.reclaim(self.api, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Do nothing: :meth:`prepare_lease` made nothing."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(machines.list_owned(self.api, region))

    def remove(self, resource: OwnedResource) -> None:
        machines.remove(self.api, resource)
