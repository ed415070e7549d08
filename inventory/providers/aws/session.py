"""Clients of one AWS account: bounded retries, short timeouts, a configurable endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from django.utils.translation import gettext as _

from inventory.providers.aws.errors import translated
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError

CONNECT_TIMEOUT = 5  # seconds
READ_TIMEOUT = 30
ATTEMPTS = 3  # of a read; a launch is tried once, then looked for by its tag (P1)

# EC2's description is 10 MB of JSON. One loader reads it once per process; a loader of its own would
# read it again for every session, which is every sweep of every account.
LOADER: Any = botocore.loaders.create_loader()

# What EC2 takes as values of one filter.
FILTER_VALUES = 100
# Partitions that have neither the Price List nor the same account as the rest of AWS:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
WITHOUT_PRICE_LIST = ("us-gov-", "cn-", "us-iso", "eu-isoe-", "eusc-")


class AwsSession:
    """Credentials and settings of one account, and its clients by service and region.

    Credentials: ``access_key_id``, ``secret_access_key``, optionally ``session_token``.
    Settings that this adapter reads, all optional:

    - ``regions``: list of region codes to poll (default: the account's enabled regions)
    - ``endpoint_url``: another EC2-compatible endpoint
    - ``image``: an AMI id, or one per region as an object; or instead
    - ``image_ssm_parameter``: an SSM parameter that holds an AMI id
    - ``vpc_id``: a VPC id, or one per region as an object (default: the default VPC)
    - ``subnets``: an object from zone to subnet id (default: the zone's default subnet)
    - ``placement_groups``: an object from zone to a placement group of yours
    - ``prices``: ``api`` or ``rate_card`` (GovCloud and China have no price list)
    - ``buying``: ``api`` or ``none``: reservations are found, bought and looked up by API
    - ``efa``: ``primary`` (one EFA on the first network card), ``all`` (one on each; such a
      machine has no public address) or ``none``

    The last three are ``api``, ``api`` and ``primary`` at AWS. At another endpoint they are
    off unless they are set, since hardly any has these calls.
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        key, secret = credentials.get("access_key_id"), credentials.get("secret_access_key")
        if not key or not secret:
            raise AuthFailed(_("Enter access_key_id and secret_access_key for this account."))
        self.settings = settings
        # Untyped on purpose: one of boto3's 400 overloads cannot be picked by a variable.
        core: Any = botocore.session.get_session()
        core.register_component("data_loader", LOADER)
        self._session: Any = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=str(key),
            aws_secret_access_key=str(secret),
            aws_session_token=credentials.get("session_token") or None,
        )
        self._clients: dict[tuple[str, str, int], Any] = {}
        # What does not change while it is used: see launching.
        self.known: dict[tuple[str, str, str], Any] = {}

    @property
    def home_region(self) -> str:
        """The region for calls that are not about one region."""
        regions = self.configured_regions()
        return regions[0] if regions else "us-east-1"

    @property
    def _at_aws(self) -> bool:
        return not self.settings.get("endpoint_url")

    @property
    def reads_prices(self) -> bool:
        listed = self._at_aws and not self.home_region.startswith(WITHOUT_PRICE_LIST)
        return self._choice("prices", "api" if listed else "rate_card", "api", "rate_card") == "api"

    @property
    def buys(self) -> bool:
        return self._choice("buying", "api" if self._at_aws else "none", "api", "none") == "api"

    @property
    def efa(self) -> str:
        return self._choice("efa", "primary" if self._at_aws else "none", "primary", "all", "none")

    def _choice(self, name: str, default: str, *allowed: str) -> str:
        value = self.settings.get(name) or default
        if value not in allowed:
            raise ProviderError(
                _("The account setting “%(name)s” must be one of: %(allowed)s.")
                % {"name": name, "allowed": ", ".join(allowed)}
            )
        return str(value)

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(isinstance(code, str) for code in regions):
            raise ProviderError(_("The account setting “regions” must be a list of region codes."))
        return regions

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one value, or an object with one value per region."""
        value = self.settings.get(name) or ""
        if isinstance(value, Mapping):
            value = value.get(region) or ""
        if not isinstance(value, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or an object with one text per region.")
                % {"name": name}
            )
        return value

    def by_zone(self, name: str, zone: str) -> str:
        """Return a setting that is an object with one value per zone."""
        values = self.settings.get(name) or {}
        value = (values.get(zone) or "") if isinstance(values, Mapping) else None
        if not isinstance(value, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be an object with one text per zone.") % {"name": name}
            )
        return value

    def client(self, service: str, region: str, *, attempts: int = ATTEMPTS) -> Any:
        key = (service, region, attempts)
        if key not in self._clients:
            with translated(service):
                self._clients[key] = self._session.client(
                    service,
                    region_name=region,
                    endpoint_url=self.settings.get("endpoint_url") or None,
                    config=Config(
                        connect_timeout=CONNECT_TIMEOUT,
                        read_timeout=READ_TIMEOUT,
                        retries={"mode": "standard", "total_max_attempts": attempts},
                    ),
                )
        return self._clients[key]

    def ec2(self, region: str, *, attempts: int = ATTEMPTS) -> Any:
        return self.client("ec2", region, attempts=attempts)

    def pages(
        self,
        region: str,
        operation: str,
        result: str,
        *,
        service: str = "ec2",
        attempts: int = ATTEMPTS,
        **parameters: Any,
    ) -> Iterator[Any]:
        """Yield every item of every page of a listing; a few listings have one page only.

        Items of EC2 are objects as its description says; of others they are left as they came.
        """
        with translated(operation):
            client = self.client(service, region, attempts=attempts)
            pages = (
                client.get_paginator(operation).paginate(**parameters)
                if client.can_paginate(operation)
                else [getattr(client, operation)(**parameters)]
            )
            for page in pages:
                items = page.get(result) or []
                if not isinstance(items, list):
                    raise BadAnswer(
                        _("%(action)s: “%(field)s” is no list.") % {"action": operation, "field": result}
                    )
                yield from items


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def utc(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value else None


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags") or []}
