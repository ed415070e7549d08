"""The connections of one Google Cloud project: Compute Engine and Cloud Billing, and its settings.

Paths, parameters and documents are those of Google's discovery documents compute v1 and
cloudbilling v1 (https://developers.google.com/discovery), which the tests hold this to.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from inventory.providers.errors import BadAnswer, NotFound, ProviderError
from inventory.providers.fields import get
from inventory.providers.gcp.auth import Signer, read_key
from inventory.providers.gcp.errors import GONE, explain
from inventory.providers.http import LOOPBACK, JsonApi
from inventory.providers.options import Options
from inventory.providers.pacing import Limit, Pace, rate_setting

ENDPOINT = "https://compute.googleapis.com"
BILLING = "https://cloudbilling.googleapis.com"
# Quotas of the API count per minute and project, 1,500 reads and 1,500 lists in most regions
# (https://cloud.google.com/compute/api-quota); others may use the project too.
REQUESTS_PER_SECOND = 15.0
BILLING_CALLS = Limit("billing", per_second=4, burst=40)
PAGE = 500
LARGEST_NUMBER = 65_536
# The regions of one poll are read at once, and all from the same price list.
REUSED = 120.0  # seconds

PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
REGION = re.compile(r"[a-z]+(?:-[a-z]+)+[0-9]{1,2}")
ZONE = re.compile(rf"({REGION.pattern})-[a-z0-9]{{1,8}}")
NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NETWORK = re.compile(
    rf"(?:projects/(?P<project>{PROJECT.pattern})/global/networks/)?(?P<name>{NAME.pattern})"
)
_SUBNET = re.compile(
    rf"(?:projects/(?P<project>{PROJECT.pattern})/regions/(?P<region>{REGION.pattern})/subnetworks/)?"
    rf"(?P<name>{NAME.pattern})"
)

T = TypeVar("T")


class GcpSession:
    """Credentials and settings of one account, and its clients.

    Credentials: ``service_account_key``, the whole JSON key of a service account.
    Settings that this adapter reads, all optional:

    - ``project``: the project's id (default: the key's own)
    - ``regions``: list of regions to poll, such as ``us-central1`` (default: all)
    - ``image``: an image or image family, as a path, or one per region as an object
    - ``network``: a VPC network's name, or ``projects/P/global/networks/NAME`` (default: ``default``)
    - ``subnet``: a subnet's name or path, or one per region as an object
    - ``public_ip``: false where machines need no public address (default: true)
    - ``user``: the login that machines get (default: ``ubuntu``)
    - ``disk_gib`` (100) and ``disk_type``: size and type of the boot disk
    - ``reservation_bound``: true or false where it is not to be read from the reservation
      whether machines end with it
    - ``calendar_prices``: what one machine of a type costs per hour in calendar mode, as an
      object, or by region as an object of objects (default: none, and nothing is bought)
    - ``reservation_projects``: ids of other projects that share reservations with this one
    - ``capacity_advice``: true to ask Google how easily spot machines are had (default: false)
    - ``currency``: that of prices (default: ``USD``)
    - ``requests_per_second``: how often Compute Engine is called (default: 15)
    - ``endpoint_url`` and ``billing_url``: other addresses of the same APIs
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.settings, self.options = settings, Options(settings)
        endpoint = self.text("endpoint_url") or ENDPOINT
        key = read_key(credentials.get("service_account_key"), local=urlsplit(endpoint).hostname in LOOPBACK)
        self.principal = key["client_email"]
        self.project = self.text("project") or key["project_id"]
        if not PROJECT.fullmatch(self.project):
            raise ProviderError(_("The account setting “project” must be a project’s id."))
        signer = Signer(key)
        rate = rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND)
        self.compute = JsonApi(
            base_url=endpoint,
            auth=signer,
            explain=explain,
            pace=Pace(credentials, endpoint, usual=Limit("usual", rate, burst=max(1, int(rate * 4)))),
        )
        billing = self.text("billing_url") or BILLING
        self.billing = JsonApi(
            base_url=billing,
            auth=signer,
            explain=explain,
            pace=Pace(credentials, billing, usual=BILLING_CALLS),
        )
        self._known: dict[Any, tuple[float, Any]] = {}
        self._reading = threading.Lock()

    # --- settings

    def text(self, name: str) -> str:
        return self.options.text(name).strip()

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one text, or an object with one per region."""
        return self.options.by_region(name, region).strip()

    def number(self, name: str, usual: int) -> int:
        return self.options.number(name, usual, least=1, most=LARGEST_NUMBER) or usual

    def flag(self, name: str) -> bool | None:
        """Return a setting that may be true, false, or left to us."""
        value = self.settings.get(name)
        if value is not None and not isinstance(value, bool):
            raise ProviderError(_("The account setting “%(name)s” must be true or false.") % {"name": name})
        return value

    def configured_regions(self) -> list[str]:
        regions = self.options.texts("regions")
        if not all(REGION.fullmatch(code) for code in regions):
            raise ProviderError(
                _("The account setting “regions” must be a list of regions, such as “us-central1”.")
            )
        return regions

    def reservation_projects(self) -> Sequence[str]:
        projects = self.options.texts("reservation_projects")
        if not all(PROJECT.fullmatch(each) for each in projects):
            raise ProviderError(
                _("The account setting “reservation_projects” must be a list of projects’ ids.")
            )
        return projects

    def currency(self) -> str:
        value = self.text("currency").upper() or "USD"
        if not re.fullmatch("[A-Z]{3}", value):
            raise ProviderError(_("The account setting “currency” must be a code such as USD."))
        return value

    def network(self) -> tuple[str, str]:
        """Return project and name of the network; one of another project is a Shared VPC."""
        match = _NETWORK.fullmatch(self.text("network") or "default")
        if match is None:
            raise ProviderError(
                _("The account setting “network” must be a network’s name, or its path projects/….")
            )
        return match["project"] or self.project, match["name"]

    def subnet(self, region: str) -> str:
        """Return the path of the region's subnet, or "" where the network needs none to be named."""
        value = self.by_region("subnet", region)
        if not value:
            return ""
        match = _SUBNET.fullmatch(value)
        if match is None or match["region"] not in (None, region):
            raise ProviderError(
                _("The account setting “subnet” must be a subnet’s name, or its path projects/….")
            )
        project = match["project"] or self.network()[0]
        return f"projects/{project}/regions/{region}/subnetworks/{match['name']}"

    # --- calls

    def path(self, rest: str, *, project: str = "") -> str:
        return f"/compute/v1/projects/{project or self.project}/{rest}"

    def get(self, rest: str, *, action: str, project: str = "") -> Any:
        """Return one resource; :class:`NotFound` only where Google says that this very one is not there."""
        try:
            found = self.compute.read(self.path(rest, project=project), action=action)
        except NotFound as error:
            if error.code == GONE:
                raise
            # A gateway's page, or another address: that proves nothing about the resource.
            raise BadAnswer(str(error)) from error
        return document(found, action)

    def ask(self, rest: str, body: Mapping[str, Any], *, action: str) -> Any:
        """Return the answer of a POST that changes nothing."""
        found = self.compute.read(self.path(rest), action=action, method="POST", json=body)
        return document(found, action)

    def write(
        self,
        method: str,
        rest: str,
        body: Mapping[str, Any] | None = None,
        *,
        action: str,
        request_id: str = "",
        project: str = "",
    ) -> Any:
        """Return the operation that one changing call began; it is sent once."""
        query = {"requestId": request_id} if request_id else None
        extra: dict[str, Any] = {} if body is None else {"json": body}
        found = self.compute.write(
            method, self.path(rest, project=project), action=action, params=query, **extra
        )
        return document(found, action)

    def listing(self, rest: str, *, action: str, project: str = "", **query: str) -> Iterator[Any]:
        """Yield every item of a listing, or raise."""
        return self.compute.pages(
            self.path(rest, project=project),
            action=action,
            params={"maxResults": str(PAGE), **query},
            # Google leaves out an empty list.
            items=lambda page: document(page, action).get("items", []),
            following=lambda page: _next_page(page, action),
        )

    def aggregated(
        self, kind: str, *, region: str, action: str, project: str = "", **query: str
    ) -> Iterator[tuple[str, Any]]:
        """Yield zone (or region, for what is regional) and item of one region, of a listing of all places.

        A place of this region that Google could not reach makes the listing worthless.
        """

        def places(page: Any) -> list[tuple[str, Any]]:
            found = get(document(page, action), "items", dict, action=action, default={})
            for name in get(page, "unreachables", list, action=action, default=[]):
                if in_region(str(name).rpartition("/")[2], region):
                    raise _unreachable(str(name), action)
            return list(found.items())

        listing = self.compute.pages(
            self.path(f"aggregated/{kind}", project=project),
            action=action,
            params={"maxResults": str(PAGE), **query},
            items=places,
            following=lambda page: _next_page(page, action),
        )
        for scope, content in listing:
            place = str(scope).rpartition("/")[2]
            if not in_region(place, region):
                continue
            if get(content, "warning.code", str, action=action, default="") == "UNREACHABLE":
                raise _unreachable(place, action)
            for item in get(document(content, action), kind, list, action=action, default=[]):
                yield place, document(item, action)

    def once(self, key: Any, read: Callable[[], T]) -> T:
        """Return what all regions of one poll share, read at its first need.

        A failure is an answer too: one silence is not waited for again in each region.
        """
        with self._reading:
            asked, outcome = self._known.get(key, (0.0, None))
            if outcome is None or time.monotonic() - asked > REUSED:
                try:
                    outcome = read()
                except ProviderError as error:
                    outcome = error
                self._known[key] = (time.monotonic(), outcome)
            if isinstance(outcome, ProviderError):
                raise outcome
            found: T = outcome
            return found


def document(found: Any, action: str) -> Any:
    if not isinstance(found, Mapping):
        raise BadAnswer(_("%(action)s: the answer is no document.") % {"action": action})
    return found


def _next_page(page: Any, action: str) -> dict[str, str] | None:
    token = get(page, "nextPageToken", str, action=action, default="")
    return {"pageToken": token} if token else None


def _unreachable(place: str, action: str) -> ProviderError:
    return ProviderError(
        _("%(action)s: Google cannot reach %(place)s at the moment.") % {"action": action, "place": place},
        retryable=True,
    )


def in_region(place: str, region: str) -> bool:
    """Tell whether a zone lies in a region, or is that region."""
    return place == region or place.rpartition("-")[0] == region


def last(url: Any) -> str:
    """Return the last part of a resource's URL, which is its name."""
    return str(url or "").rpartition("/")[2]
