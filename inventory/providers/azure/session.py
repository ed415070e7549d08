"""The clients of one Azure subscription: compute by the SDK, the rest by plain ARM over HTTPS.

Machines are made, read and ended by Microsoft's SDK. Networks are a few calls of create,
read and delete, for which azure-mgmt-network would be one more large package: they go to
Azure Resource Manager (ARM) with a token of the same identity. So do listings, since the
SDK takes most of a millisecond to make a model of each row. One set of limits holds for both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.core.pipeline import PipelineRequest, PipelineResponse, policies
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
from django.utils.translation import gettext as _

from inventory.providers.azure.errors import explain, translated
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError
from inventory.providers.http import ATTEMPTS, LOOPBACK, PAUSE, JsonApi
from inventory.providers.pacing import Limit, Pace

ENDPOINT = "https://management.azure.com"
AUTHORITY = "login.microsoftonline.com"
PRICES = "https://prices.azure.com"

# ARM's token buckets per subscription and service principal, the same in every region:
# https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/request-limits-and-throttling
READS = Limit("reads", per_second=25, burst=250)
WRITES = Limit("writes", per_second=10, burst=200)
DELETES = Limit("deletes", per_second=10, burst=200)
# The compute provider's own, as its answers state them (x-ms-ratelimit-remaining-resource):
# 240 creations, and as many deletions, in three minutes.
LAUNCHES = Limit("launches", per_second=240 / 180, burst=120)
# Nobody states one for the Retail Prices; this is modest.
PRICE_PAGES = Limit("prices", per_second=5, burst=50)

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30  # seconds

GROUPS = "2021-04-01"  # Microsoft.Resources
SUBSCRIPTIONS = "2022-12-01"
NETWORK = "2024-05-01"  # Microsoft.Network
COMPUTE = "2024-11-01"  # Microsoft.Compute, but for:
SKUS = "2021-07-01"  # Microsoft.Compute/skus

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
REGION = re.compile(r"[a-z][a-z0-9]{1,39}")
# https://learn.microsoft.com/en-us/azure/azure-resource-manager/management/resource-name-rules
GROUP_NAME = re.compile(r"[\w().-]{0,89}[\w()-]")


class AzureSession:
    """Credentials and settings of one account, and its clients.

    Credentials: ``tenant_id``, ``client_id``, ``client_secret`` of a service principal.
    Settings that this adapter reads:

    - ``subscription_id`` and ``resource_group``: where everything is made; both required
    - ``image``: an image, or one per region as an object; see :mod:`.images`
    - ``regions``: list of region codes to poll (default: all of the subscription)
    - ``subnet``: a subnet's resource id, or one per region as an object (default: a virtual
      network of its own for every lease)
    - ``public_ip``: false where machines need no public address (default: true)
    - ``user``: the login that machines get (default: ``ubuntu``)
    - ``disk_gib`` and ``disk_sku``: size and storage type of the system disk (default: the
      image's size, ``Premium_LRS``)
    - ``security_type``: ``Standard`` or ``TrustedLaunch`` (default: the subscription's own)
    - ``endpoint_url``, ``authority``, ``prices_url``: those of another Azure cloud

    ``credential`` and ``authentication_policy`` replace the service principal and the way
    its token is sent, for tests; no setting of an account reaches them.
    """

    def __init__(
        self,
        credentials: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        credential: TokenCredential | None = None,
        authentication_policy: Any = None,
    ) -> None:
        wanted = ("tenant_id", "client_id", "client_secret")
        if not all(isinstance(credentials.get(name), str) and credentials.get(name) for name in wanted):
            raise AuthFailed(_("Enter tenant_id, client_id and client_secret for this account."))
        self.settings = settings
        self.subscription = self.text("subscription_id")
        if not UUID.fullmatch(self.subscription):
            raise ProviderError(_("The account setting “subscription_id” must be a subscription’s id."))
        self.resource_group = self.text("resource_group")
        if not GROUP_NAME.fullmatch(self.resource_group):
            raise ProviderError(_("The account setting “resource_group” must name a resource group."))
        self.endpoint = (self.text("endpoint_url") or ENDPOINT).rstrip("/")
        self._pace = Pace(credentials, self.endpoint, usual=READS)
        if credential is None:
            try:
                credential = ClientSecretCredential(
                    *(str(credentials[name]) for name in wanted),
                    authority=self.text("authority") or AUTHORITY,
                    retry_total=1,
                    connection_timeout=CONNECT_TIMEOUT,
                    read_timeout=READ_TIMEOUT,
                )
            except ValueError as error:
                raise AuthFailed(
                    _("tenant_id is no directory’s id or name, or the setting “authority” is no host.")
                ) from error
        scope = self.endpoint + "/.default"
        self.arm = JsonApi(
            base_url=self.endpoint, auth=_Token(credential, scope), explain=explain, pace=self._pace
        )
        self.prices = JsonApi(
            base_url=self.text("prices_url") or PRICES,
            pace=Pace({}, self.text("prices_url") or PRICES, usual=PRICE_PAGES),
        )
        host = urlsplit(self.endpoint)
        # Not the SDK's own chain: it would send a launch again after an error or after having
        # registered a resource provider by itself, wait for minutes, and log addresses.
        self.compute = ComputeManagementClient(
            credential,
            self.subscription,
            base_url=self.endpoint,
            credential_scopes=[scope],
            connection_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            policies=[
                policies.RequestIdPolicy(),
                policies.UserAgentPolicy(user_agent="sublet", user_agent_overwrite=True),
                policies.ContentDecodePolicy(),
                _Calls(self._pace, (host.scheme, host.netloc)),
                authentication_policy or ARMChallengeAuthenticationPolicy(credential, scope),
            ],
        )

    # --- settings

    def text(self, name: str) -> str:
        value = self.settings.get(name) or ""
        if not isinstance(value, str):
            raise ProviderError(_("The account setting “%(name)s” must be a text.") % {"name": name})
        return value.strip()

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one value, or an object with one value per region."""
        value = self.settings.get(name) or ""
        found = value.get(region, "") if isinstance(value, Mapping) else value
        if not isinstance(found, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or an object with one per region.")
                % {"name": name}
            )
        return found.strip()

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.settings.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ProviderError(_("The account setting “%(name)s” must be true or false.") % {"name": name})
        return value

    def number(self, name: str) -> int | None:
        value = self.settings.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ProviderError(
                _("The account setting “%(name)s” must be a whole number above zero.") % {"name": name}
            )
        return value

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(
            isinstance(code, str) and REGION.fullmatch(code) for code in regions
        ):
            raise ProviderError(
                _("The account setting “regions” must be a list of region codes, such as “eastus”.")
            )
        return regions

    # --- paths

    def subscription_path(self, rest: str = "") -> str:
        return f"/subscriptions/{self.subscription}{rest}"

    def group_path(self, rest: str = "") -> str:
        return self.subscription_path(f"/resourceGroups/{quote(self.resource_group, safe='()')}{rest}")

    def resource(self, kind: str, name: str) -> str:
        """Return the id of a resource in our group; ``kind`` is like ``Microsoft.Network/virtualNetworks``."""
        return self.group_path(f"/providers/{kind}/{quote(name, safe='')}")

    # --- plain ARM

    def get(self, path: str, version: str, *, action: str, **query: str) -> Any:
        with translated(action):
            return self.arm.read(path, action=action, params={"api-version": version, **query})

    def list(self, path: str, version: str, *, action: str, **query: str) -> Iterator[Any]:
        """Yield every item of a listing, or raise."""
        with translated(action):
            yield from self.arm.pages(
                path,
                action=action,
                params={"api-version": version, **query},
                items=lambda document: document.get("value") if isinstance(document, Mapping) else None,
                following=lambda document: document.get("nextLink"),
            )

    def put(self, path: str, version: str, document: Mapping[str, Any], *, action: str) -> Any:
        with translated(action):
            return self.arm.write(
                "PUT",
                path,
                action=action,
                limit=WRITES,
                params={"api-version": version},
                json=document,
            )

    def delete(self, path: str, version: str, *, action: str) -> None:
        """Ask for a deletion; it goes on after this returns, and what is gone already is no error."""
        with translated(action):
            self.arm.write(
                "DELETE",
                path,
                action=action,
                limit=DELETES,
                params={"api-version": version},
            )


def ask(call: Callable[[], Any], *, action: str) -> Any:
    """Return the document that an SDK call answers, with our errors."""
    with translated(action):
        return call().as_dict()


def location(document: Any) -> str:
    """Return a document's region as a code: Azure writes “West US” and “westus” alike."""
    value = document.get("location") if isinstance(document, Mapping) else None
    return str(value or "").replace(" ", "").lower()


def name_of(resource_id: Any) -> str:
    """Return the last part of a resource's id, which is its name."""
    return str(resource_id or "").rpartition("/")[2]


def our_items(items: Iterable[Any], region: str) -> Iterator[Any]:
    """Yield the documents of a listing that lie in a region."""
    for item in items:
        if location(item) == region:
            yield item


class _Token(httpx.Auth):
    """Sign calls with the token of the same identity that the SDK uses, which caches and renews it."""

    def __init__(self, credential: TokenCredential, scope: str) -> None:
        self._credential = credential
        self._scope = scope

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = "Bearer " + self._credential.get_token(self._scope).token
        yield request


class _Calls(policies.HTTPPolicy[Any, Any]):
    """Pace every call, try reads again, send the rest once, and only to our own endpoint."""

    def __init__(self, pace: Pace, home: tuple[str, str]) -> None:
        super().__init__()
        self._pace = pace
        self._home = home

    def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        method, target = request.http_request.method, urlsplit(request.http_request.url)
        if (target.scheme, target.netloc) != self._home:
            # An answer's link names another host: our token stays at home.
            raise BadAnswer(_("Azure: a link leads to another host."))
        if target.scheme != "https" and target.hostname not in LOOPBACK:
            raise ProviderError(_("The account’s address must begin with https://."))
        limit = {"GET": None, "DELETE": DELETES, "PUT": LAUNCHES}.get(method, WRITES)
        attempts = ATTEMPTS if method == "GET" else 1
        for attempt in range(1, attempts + 1):
            self._pace.wait(limit, action=_("Azure"))
            try:
                response = self.next.send(request)
                if response.http_response.status_code < 500 or attempt == attempts:
                    return response
            except (ServiceRequestError, ServiceResponseError):
                if attempt == attempts:
                    raise
            time.sleep(PAUSE * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")
