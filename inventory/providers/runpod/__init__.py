"""RunPod's pods, by its REST API (https://docs.runpod.io/api-reference-v2)."""

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
from inventory.providers.runpod import catalog, pods
from inventory.providers.runpod.api import RunPodApi


class RunPodProvider:
    """One RunPod account. :class:`RunPodApi` lists its credentials and settings.

    A machine is a pod: a container with some GPUs of a host. RunPod has no idempotency key
    and no tags: our token is in the name of every pod, and ``find`` decides after a doubt.
    """

    kind: ClassVar[str] = "runpod"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.PRICES,
            Capability.AVAILABILITY,
            Capability.IMAGES,
            Capability.MACHINE_STATUS,
            Capability.OWNED_VOLUMES,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (CredentialField("api_key", _("API key")),)

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.api = RunPodApi(credentials, settings)

    def test_connection(self) -> AccountIdentity:
        """List the pods: whose key it is, RunPod does not say."""
        self.api.read_list(pods.PODS, "pods", action=pods.LIST)
        return AccountIdentity(account="", principal="RunPod")

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured data centers, or all of RunPod's."""
        found = catalog.read_regions(self.api, fresh=True)
        chosen = self.api.options.texts("regions")
        names = {info.code: info.name for info in found}
        return [RegionInfo(code=code, name=names.get(code, "")) for code in chosen or names]

    def offers(self, region: str) -> Catalog:
        return catalog.read_catalog(self.api, region)

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        """Return nothing made: RunPod has no firewall, and keys go into the pod itself."""
        return LeaseNetwork(region=request.region, firewall_id="", key_name="")

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        return pods.launch(self.api, group)

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        return pods.find(self.api, tag, value)

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        return pods.describe(self.api, ids)

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        pods.reclaim(self.api, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Do nothing: :meth:`prepare_lease` made nothing."""

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(pods.list_owned(self.api, region))

    def remove(self, resource: OwnedResource) -> None:
        pods.remove(self.api, resource)
