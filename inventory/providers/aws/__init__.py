"""AWS EC2, and whatever speaks its API at another endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _

from inventory.providers.aws import capacity, catalog, launching, machines, network
from inventory.providers.aws.errors import translated
from inventory.providers.aws.session import AwsSession
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


class Ec2Provider:
    """One AWS account. :class:`AwsSession` lists its credentials and settings.

    EC2 has an idempotency token, and it is sent, but it is never relied on: it expires,
    and not every EC2-compatible endpoint honours it. ``find`` by tag decides.
    """

    kind: ClassVar[str] = "aws"
    # Of an account at AWS; one at another endpoint has what its settings say.
    capabilities: frozenset[Capability] = frozenset(
        {
            Capability.PRICES,
            Capability.SPOT,
            Capability.COMMITTED_CAPACITY,
            Capability.BUYABLE_CAPACITY,
            Capability.IMAGES,
            Capability.GROUP_LAUNCH,
            Capability.FIREWALL,
            Capability.KEY_PAIRS,
            Capability.USER_DATA,
            Capability.MACHINE_STATUS,
            Capability.OWNED_VOLUMES,
            Capability.OWNED_ADDRESSES,
            Capability.OWNED_NETWORKS,
            Capability.OWNED_KEYS,
        }
    )

    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("access_key_id", _("Access key ID")),
        CredentialField("secret_access_key", _("Secret access key")),
        CredentialField("session_token", _("Session token"), required=False),
    )

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.session = AwsSession(credentials, settings)
        if not self.session.reads_prices:
            self.capabilities -= {Capability.PRICES}
        if not self.session.buys:
            self.capabilities -= {Capability.BUYABLE_CAPACITY}

    def test_connection(self) -> AccountIdentity:
        with translated("get_caller_identity"):
            # Once: a person is waiting for the answer.
            answer = self.session.client("sts", self.session.home_region, attempts=1).get_caller_identity()
        return AccountIdentity(account=str(answer.get("Account", "")), principal=str(answer.get("Arn", "")))

    def regions(self) -> Sequence[RegionInfo]:
        """Return the configured regions, or those enabled; zones come with :meth:`offers`."""
        codes = self.session.configured_regions()
        if not codes:
            with translated("describe_regions"):
                answer = self.session.ec2(self.session.home_region).describe_regions()
            codes = sorted(item["RegionName"] for item in answer.get("Regions") or [])
        return [RegionInfo(code=code) for code in codes]

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
        machines.reclaim(self.session, region, ids)

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        network.remove(self.session, network_)

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        return list(machines.list_owned(self.session, region))

    def remove(self, resource: OwnedResource) -> None:
        machines.remove(self.session, resource)

    def capacity_offerings(self, request: CapacityRequest) -> Sequence[CapacityOffering]:
        return capacity.offerings(self.session, request)

    def buy_capacity(
        self, offering: CapacityOffering, *, client_token: str, tags: Mapping[str, str]
    ) -> Reservation:
        return capacity.buy(self.session, offering, client_token, tags)

    def reservations(self, *, region: str) -> Sequence[Reservation]:
        return list(capacity.reservations(self.session, region))
