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
from inventory.providers.errors import AuthFailed, ProviderError

CONNECT_TIMEOUT = 5  # seconds
READ_TIMEOUT = 30
ATTEMPTS = 3  # of a read; a launch is tried once, then looked for by its tag (P1)

# EC2's description is 10 MB of JSON. One loader reads it once per process; a loader of its own would
# read it again for every session, which is every sweep of every account.
LOADER: Any = botocore.loaders.create_loader()

# What EC2 takes as values of one filter.
FILTER_VALUES = 100


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
    - ``capacity_blocks``: reservation ids that are Capacity Blocks for ML
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

    @property
    def home_region(self) -> str:
        """The region for calls that are not about one region."""
        regions = self.configured_regions()
        return regions[0] if regions else "us-east-1"

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(isinstance(code, str) for code in regions):
            raise ProviderError(_("The account setting “regions” must be a list of region codes."))
        return regions

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one value, or an object with one value per region."""
        value = self.settings.get(name) or ""
        return str(value.get(region, "") if isinstance(value, Mapping) else value)

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

    def pages(self, region: str, operation: str, result: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield every item of every page of an EC2 listing; a few listings have one page only."""
        with translated(operation):
            ec2 = self.ec2(region)
            if not ec2.can_paginate(operation):
                yield from getattr(ec2, operation)(**parameters).get(result) or []
                return
            for page in ec2.get_paginator(operation).paginate(**parameters):
                yield from page.get(result) or []


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def utc(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value else None


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags") or []}
