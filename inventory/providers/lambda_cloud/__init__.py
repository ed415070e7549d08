"""Lambda's on-demand cloud, by its REST API (https://docs.lambda.ai/api/cloud)."""

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
from inventory.providers.lambda_cloud import catalog, machines, network
from inventory.providers.lambda_cloud.api import LambdaApi


class LambdaProvider:
    """One Lambda workspace. :class:`LambdaApi` lists its credentials and settings.

    Lambda has no idempotency key: our token is in a tag and in the name of every instance,
    and ``find`` decides after a doubt.
    """

    kind: ClassVar[str] = "lambda"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.AVAILABILITY,
            Capability.IMAGES,
            Capability.FIREWALL,
            Capability.KEY_PAIRS,
            Capability.USER_DATA,
            Capability.MACHINE_STATUS,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_NETWORKS,
            Capability.OWNED_KEYS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", _("API key")),)

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.api = LambdaApi(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """Read the audit log, which names the account: the API has no other place that does."""
        action = "list audit events"
        events = self.api.read("/audit-events", action=action, kind=list)
        owners = [get(event, "resource_owner_lrn", str, action=action, default="") for event in events]
        # Without events it stays open whose it is: a name of ours would later read as another account.
        return AccountIdentity(account=next(filter(None, owners), ""), principal="Lambda")

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured regions, or all of Lambda's; it has no zones."""
        found = catalog.read_regions(self.api, fresh=True)
        chosen = self.api.configured_regions()
        if not chosen:
            return found
        names = {info.code: info.name for info in found}
        return [RegionInfo(code=code, name=names.get(code, "")) for code in chosen]

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.api, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        return network.prepare(self.api, request)

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return machines.launch(self.api, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return machines.find(self.api, region, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return machines.describe(self.api, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        machines.reclaim(self.api, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        network.remove(self.api, network_)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(machines.list_owned(self.api, region))

    def remove(self, resource: OwnedResource) -> None:
        machines.remove(self.api, resource)
