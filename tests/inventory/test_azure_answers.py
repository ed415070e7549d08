"""Azure: what its states, errors and catalog mean, and answers that mean nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest
from azure.core import exceptions as core

from inventory.providers.azure import AzureProvider, errors, session, states
from inventory.providers.azure.prices import read_prices
from inventory.providers.base import (
    Availability,
    LaunchGroup,
    LeaseNetworkRequest,
    Machine,
    MachineState,
    PurchaseOption,
)
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.http import JsonApi
from tests.contract import azure_arm
from tests.contract.azure import CREDENTIALS, IMAGE
from tests.contract.azure_arm import GROUP, REGION, SUBSCRIPTION, TYPE, Arm, price_row
from tests.contract.azure_login import LocalAzure, token
from tests.contract.faults import HTML, Answer, FaultyProxy, Request, faulty

ON_DEMAND, SPOT = PurchaseOption.ON_DEMAND, PurchaseOption.SPOT
A100, T4 = "Standard_NC24ads_A100_v4", "Standard_NC4as_T4_v3"


@pytest.fixture
def arm() -> Iterator[Arm]:
    arm = Arm()
    arm.token = token(CREDENTIALS)
    yield arm
    arm.close()


@pytest.fixture
def proxy(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    with faulty(arm.url) as proxy:
        arm.public_url = proxy.url
        yield proxy


@pytest.fixture
def azure(proxy: FaultyProxy) -> AzureProvider:
    return LocalAzure(
        credentials=CREDENTIALS,
        settings={
            "subscription_id": SUBSCRIPTION,
            "resource_group": GROUP,
            "image": IMAGE,
            "endpoint_url": proxy.url,
            "prices_url": proxy.url,
        },
    )


# --- states


def properties(provisioning: str, power: str = "", **failed: str) -> dict[str, Any]:
    view: dict[str, Any] = {"statuses": []}
    if failed:
        code, message = failed.popitem()
        view["statuses"].append(
            {"code": f"ProvisioningState/failed/{code}", "level": "Error", "message": message}
        )
    elif provisioning:
        view["statuses"].append({"code": f"ProvisioningState/{provisioning.lower()}"})
    if power:
        view["statuses"].append({"code": f"PowerState/{power}", "displayStatus": f"VM {power}"})
    return {"provisioningState": provisioning, "instanceView": view}


def test_every_state_that_azure_lists_has_a_meaning() -> None:
    """https://learn.microsoft.com/en-us/azure/virtual-machines/states-billing and the SDK's own list."""
    provisioning = {"creating", "updating", "failed", "succeeded", "deleting", "migrating", "canceled"}
    assert set(states.PROVISIONING) == provisioning
    power = {
        *("creating", "starting", "running", "stopping", "stopped"),
        *("deallocating", "deallocated", "unknown"),
    }
    assert set(states.POWER) == power


@pytest.mark.parametrize(
    ("document", "state", "raw"),
    [
        (properties("Creating"), MachineState.PENDING, "Creating"),
        (properties("Creating", "starting"), MachineState.PENDING, "Creating/starting"),
        # It boots: its agent has not reported yet.
        (properties("Creating", "running"), MachineState.PENDING, "Creating/running"),
        (properties("Succeeded", "running"), MachineState.RUNNING, "Succeeded/running"),
        (properties("Updating", "running"), MachineState.RUNNING, "Updating/running"),
        (properties("Migrating", "running"), MachineState.RUNNING, "Migrating/running"),
        (properties("Succeeded", "starting"), MachineState.PENDING, "Succeeded/starting"),
        (properties("Succeeded", "stopping"), MachineState.STOPPING, "Succeeded/stopping"),
        (properties("Succeeded", "stopped"), MachineState.STOPPING, "Succeeded/stopped"),
        (properties("Succeeded", "deallocating"), MachineState.STOPPING, "Succeeded/deallocating"),
        (properties("Succeeded", "deallocated"), MachineState.STOPPING, "Succeeded/deallocated"),
        (properties("Deleting", "running"), MachineState.STOPPING, "Deleting/running"),
        (properties("Deleting"), MachineState.STOPPING, "Deleting"),
        # It failed, and runs: somebody can get in, or not, which the probe finds out.
        (
            properties("Failed", "running", OSProvisioningTimedOut="Late."),
            MachineState.RUNNING,
            "Failed/running",
        ),
        (properties("Canceled", "running"), MachineState.RUNNING, "Canceled/running"),
        # It failed and stands still, with somebody's data.
        (
            properties("Failed", "stopped", VMAgentStatusCommunicationError="Gone."),
            MachineState.STOPPING,
            "Failed/stopped",
        ),
        # It never got a host.
        (
            properties("Failed", "deallocated", AllocationFailed="Full."),
            MachineState.TERMINATED,
            "Failed/deallocated",
        ),
        (properties("Failed", ZonalAllocationFailed="Full."), MachineState.TERMINATED, "Failed"),
        (properties("Failed"), MachineState.TERMINATED, "Failed"),
        (properties("Canceled"), MachineState.TERMINATED, "Canceled"),
        # A listing that lacks its view: whatever failed, it may run.
        ({"provisioningState": "Failed", "instanceView": None}, MachineState.UNKNOWN, "Failed"),
        ({"provisioningState": "Canceled"}, MachineState.UNKNOWN, "Canceled"),
        # What nobody has described.
        (properties("Succeeded", "levitating"), MachineState.UNKNOWN, "Succeeded/levitating"),
        (properties("Succeeded"), MachineState.UNKNOWN, "Succeeded"),
        (properties("Hibernating", "running"), MachineState.UNKNOWN, "Hibernating/running"),
        ({}, MachineState.UNKNOWN, ""),
        ({"provisioningState": 5, "instanceView": "x"}, MachineState.UNKNOWN, "5"),
        ({"instanceView": {"statuses": [None, {"code": 7}, {}]}}, MachineState.UNKNOWN, ""),
    ],
)
def test_states_are_mapped(document: Mapping[str, Any], state: MachineState, raw: str) -> None:
    assert states.state_of(document)[:2] == (state, raw)


def test_a_failure_is_told_in_azures_words() -> None:
    document = properties("Failed", "deallocated", AllocationFailed="We do not have capacity.")
    assert states.state_of(document)[2] == "We do not have capacity. (AllocationFailed)"


def test_only_a_ready_agent_is_healthy() -> None:
    def agent(*codes: str, provisioning: str = "Succeeded") -> Any:
        view = {"vmAgent": {"statuses": [{"code": code} for code in codes]}}
        return states.healthy({"provisioningState": provisioning, "instanceView": view})

    assert agent("ProvisioningState/succeeded") is True
    assert agent("ProvisioningState/Unavailable") is None
    assert agent() is None
    assert states.healthy({}) is None
    assert agent("ProvisioningState/succeeded", provisioning="Failed") is False


# --- errors


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable", "doubtful"),
    [
        (409, "AllocationFailed", NoCapacity, True, False),
        (409, "ZonalAllocationFailed", NoCapacity, True, False),
        (400, "OverconstrainedAllocationRequest", NoCapacity, True, False),
        (400, "OverconstrainedZonalAllocationRequest", NoCapacity, True, False),
        (409, "SkuNotAvailable", NoCapacity, True, False),
        (409, "QuotaExceeded", QuotaExceeded, False, False),
        (400, "PublicIPCountLimitReached", QuotaExceeded, False, False),
        (400, "NetworkSecurityGroupCountLimitReached", QuotaExceeded, False, False),
        (401, "InvalidAuthenticationToken", AuthFailed, False, False),
        (401, "ExpiredAuthenticationToken", AuthFailed, False, False),
        (403, "AuthorizationFailed", AuthFailed, False, False),
        (403, "LinkedAuthorizationFailed", AuthFailed, False, False),
        # 404, but not about the machine that was asked for.
        (404, "SubscriptionNotFound", AuthFailed, False, False),
        (404, "ResourceGroupNotFound", ProviderError, False, False),
        (404, "ResourceNotFound", NotFound, False, False),
        (404, "ParentResourceNotFound", NotFound, False, False),
        (429, "TooManyRequests", RateLimited, True, False),
        (429, "OperationNotAllowed", RateLimited, True, False),
        (503, "SubscriptionRequestsThrottled", RateLimited, True, False),
        (409, "MissingSubscriptionRegistration", ProviderError, False, False),
        (409, "OperationNotAllowed", ProviderError, False, False),
        (400, "InvalidParameter", ProviderError, False, False),
        (409, "Conflict", ProviderError, True, False),
        (429, "RetryableError", RateLimited, True, False),
        (409, "AnotherOperationInProgress", ProviderError, True, False),
        (400, "NicReservedForAnotherVm", ProviderError, True, False),
        (400, "InUseNetworkSecurityGroupCannotBeDeleted", ProviderError, True, False),
        (400, "ApplicationSecurityGroupInUse", ProviderError, True, False),
        (412, "PreconditionFailed", ProviderError, True, True),
        (412, "SomethingNew", ProviderError, True, True),
        (500, "InternalServerError", ProviderError, True, True),
        (503, "ServiceUnavailable", ProviderError, True, True),
        (500, "SomethingNew", ProviderError, True, True),
        (409, "SomethingNew", ProviderError, False, False),
    ],
)
def test_error_codes_are_understood(
    status: int, code: str, kind: type[ProviderError], retryable: bool, doubtful: bool
) -> None:
    document = {"error": {"code": code, "message": "In Azure’s words."}}
    found = errors.explain("Launching", status, document, {"retry-after": "17"})
    assert type(found) is kind
    assert found is not None
    assert (found.retryable, found.doubtful, found.code) == (retryable, doubtful, code)
    assert "Launching" in found.message
    if isinstance(found, RateLimited):
        assert found.retry_after == 17


def test_what_means_many_things_means_the_quota_where_it_says_so() -> None:
    text = "Operation could not be completed as it results in exceeding approved standardNDSH100v5Family Cores quota."
    found = errors.explain("Launching", 409, {"error": {"code": "OperationNotAllowed", "message": text}}, {})
    assert type(found) is QuotaExceeded


def test_the_inner_of_nested_errors_decides() -> None:
    inner = {"code": "ZonalAllocationFailed", "message": "No capacity in zone 1."}
    document = {"error": {"code": "DeploymentFailed", "message": "At least one failed.", "details": [inner]}}
    found = errors.explain("Launching", 409, document, {})
    assert type(found) is NoCapacity
    assert "zone 1" in str(found)


@pytest.mark.parametrize(
    "document", [None, [], {}, {"error": None}, {"error": []}, {"error": {"code": None}}, "x", 5]
)
def test_documents_without_a_code_are_told_by_their_status(document: Any) -> None:
    assert errors.explain("Reading", 500, document, {}) is None


def test_a_long_text_is_shortened() -> None:
    found = errors.explain("Reading", 400, {"error": {"code": "Bad", "message": "x\n" * 9_000}}, {})
    assert found is not None
    assert len(found.message) < 600
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("raised", "kind", "doubtful"),
    [
        (core.ServiceRequestError("x"), TimedOut, False),
        (core.ServiceRequestTimeoutError("x"), TimedOut, False),
        (core.ServiceResponseError("x"), TimedOut, True),
        (core.ServiceResponseTimeoutError("x"), TimedOut, True),
        (core.IncompleteReadError("x"), BadAnswer, True),
        (core.DecodeError("x"), BadAnswer, True),
        (
            core.ClientAuthenticationError("Authentication failed: AADSTS7000215: Invalid secret."),
            AuthFailed,
            False,
        ),
        (core.ClientAuthenticationError("Authentication failed: AADSTS90033: Busy."), ProviderError, False),
        (ValueError("x"), BadAnswer, True),
        (TypeError("x"), BadAnswer, True),
        (AttributeError("x"), BadAnswer, True),
        (RateLimited("ours"), RateLimited, False),
    ],
)
def test_failures_of_the_sdk_are_understood(
    raised: Exception, kind: type[ProviderError], doubtful: bool
) -> None:
    with pytest.raises(ProviderError) as found, errors.translated("Launching"):
        raise raised
    assert type(found.value) is kind
    assert found.value.doubtful == doubtful
    if isinstance(raised, core.ClientAuthenticationError):
        assert found.value.code.startswith("AADSTS")
        assert "secret" not in str(found.value)


def test_microsoft_entra_that_refuses_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sign-in of azure-identity, whose answers come from here."""
    sent: list[str] = []

    class Response:
        status_code = 401
        headers: Mapping[str, str] = {"content-type": "application/json"}

        def __init__(self, document: Any, status: int) -> None:
            self.status_code, self._text = status, json.dumps(document)
            self.content_type, self.reason = "application/json", ""

        def text(self, encoding: str | None = None) -> str:
            return self._text

        def body(self) -> bytes:
            return self._text.encode()

    class Transport:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            """Nothing to close."""

        def open(self) -> None:
            """Nothing to open."""

        def close(self) -> None:
            """Nothing to close."""

        def send(self, request: Any, **_: Any) -> Response:
            sent.append(request.url)
            if "/oauth2/v2.0/token" in request.url:
                text = "AADSTS7000215: Invalid client secret provided. Trace ID: 5f"
                return Response({"error": "invalid_client", "error_description": text}, 401)
            home = f"https://login.microsoftonline.com/{CREDENTIALS['tenant_id']}"
            return Response(
                {
                    "tenant_discovery_endpoint": home,
                    "metadata": [],
                    "authorization_endpoint": f"{home}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{home}/oauth2/v2.0/token",
                    "issuer": home,
                },
                200,
            )

    made = session.ClientSecretCredential
    monkeypatch.setattr(
        session,
        "ClientSecretCredential",
        lambda *names, **options: made(*names, **options, transport=Transport()),
    )
    cloud = AzureProvider(
        credentials=CREDENTIALS,
        settings={"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "image": IMAGE},
    )
    with pytest.raises(AuthFailed, match="Microsoft Entra refused these credentials") as refusal:
        cloud.test_connection()
    assert refusal.value.code == "AADSTS7000215"
    with pytest.raises(AuthFailed):
        cloud.describe(region=REGION, ids=["x"])
    assert any("/oauth2/v2.0/token" in url for url in sent)
    assert CREDENTIALS["client_secret"] not in repr(refusal.value)


def test_the_sdk_itself_sends_no_token_over_plain_http(arm: Arm) -> None:
    """Only the way in for tests makes that possible; an account's settings cannot."""
    from tests.contract.azure_login import PlainCredential

    cloud = AzureProvider(
        credentials=CREDENTIALS,
        settings={"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "endpoint_url": arm.url},
        credential=PlainCredential(CREDENTIALS),
    )
    with pytest.raises(ProviderError):
        cloud.describe(region=REGION, ids=["x"])
    assert arm.calls == []


# --- the catalog


def offers(azure: AzureProvider) -> dict[tuple[str, PurchaseOption], Any]:
    return {(offer.instance_type, offer.purchase_option): offer for offer in azure.offers(REGION).offers}


def test_the_catalog_of_a_region(azure: AzureProvider) -> None:
    catalog = azure.offers(REGION)
    found = {(offer.instance_type, offer.purchase_option): offer for offer in catalog.offers}
    # Not the machine without a GPU, and no spot where the size has none.
    assert set(found) == {(TYPE, ON_DEMAND), (TYPE, SPOT), (A100, ON_DEMAND), (A100, SPOT), (T4, ON_DEMAND)}
    assert {key: str(offer.price) for key, offer in found.items()} == {
        (TYPE, ON_DEMAND): "98.32",
        (TYPE, SPOT): "39.33",
        (A100, ON_DEMAND): "3.673",
        (A100, SPOT): "1.1",
        (T4, ON_DEMAND): "0.526",
    }
    assert {offer.availability for offer in catalog.offers} == {Availability.UNKNOWN}
    assert found[TYPE, ON_DEMAND].zones == ("1", "2")
    # Without zones it is placed by Azure; the region stands for that.
    assert found[T4, ON_DEMAND].zones == (REGION,)
    assert [zone.code for zone in catalog.region.zones] == ["1", "2", "3", REGION]
    [info] = [item for item in catalog.instance_types if item.name == TYPE]
    assert (info.gpu_count, info.vcpus, info.memory_mib) == (8, 96, 1900 * 1024)
    assert (info.gpu_name, info.network, info.architecture) == (TYPE, "RDMA", "x86_64")


def test_what_the_subscription_is_refused_is_unavailable(arm: Arm, azure: AzureProvider) -> None:
    def restriction(kind: str, *zones: str) -> dict[str, Any]:
        return {
            "type": kind,
            "values": [REGION],
            "restrictionInfo": {"locations": [REGION], "zones": list(zones)},
            "reasonCode": "NotAvailableForSubscription",
        }

    arm.restrictions = {
        TYPE: [restriction("Location")],
        A100: [restriction("Zone", "1", "3")],
        T4: [{**restriction("Location"), "values": ["westeurope"]}],
    }
    found = offers(azure)
    assert found[TYPE, ON_DEMAND].availability == Availability.UNAVAILABLE
    assert found[TYPE, SPOT].availability == Availability.UNAVAILABLE
    assert found[A100, ON_DEMAND].zones == ("2",)
    assert found[A100, ON_DEMAND].availability == Availability.UNKNOWN
    assert found[T4, ON_DEMAND].availability == Availability.UNKNOWN

    arm.restrictions = {A100: [restriction("Zone", "1", "2", "3")]}
    found = offers(azure)
    assert (found[A100, ON_DEMAND].zones, found[A100, ON_DEMAND].availability) == (
        (REGION,),
        Availability.UNKNOWN,
    )


def test_a_quota_below_one_machine_is_unavailable(arm: Arm, azure: AzureProvider) -> None:
    arm.limits["standardndsh100v5family"] = 95
    arm.limits["lowprioritycores"] = 24
    found = offers(azure)
    assert found[TYPE, ON_DEMAND].availability == Availability.UNAVAILABLE
    assert found[TYPE, SPOT].availability == Availability.UNAVAILABLE
    assert found[A100, SPOT].availability == Availability.UNKNOWN
    # A family without a limit of its own is not called unavailable.
    arm.limits = {}
    assert {offer.availability for offer in offers(azure).values()} == {Availability.UNKNOWN}


def test_a_size_without_a_retail_price_is_known_and_not_offered(arm: Arm, azure: AzureProvider) -> None:
    del arm.prices[TYPE, ""], arm.prices[TYPE, " Spot"]
    catalog = azure.offers(REGION)
    assert TYPE in {info.name for info in catalog.instance_types}
    assert TYPE not in {offer.instance_type for offer in catalog.offers}


def test_a_region_without_machines_asks_for_no_prices(proxy: FaultyProxy, azure: AzureProvider) -> None:
    assert azure.offers("atlantis").offers == ()
    assert proxy.count(lambda request: "/retail/" in request.path) == 0


@pytest.mark.parametrize("region", ["East US", "x' or 1 eq 1", "", "eastus/../x"])
def test_what_is_no_region_is_refused_before_any_call(
    proxy: FaultyProxy, azure: AzureProvider, region: str
) -> None:
    with pytest.raises(ProviderError, match="no region of Azure"):
        azure.offers(region)
    assert proxy.requests == []


def rows_give(arm: Arm, azure: AzureProvider, monkeypatch: pytest.MonkeyPatch, *rows: Any) -> dict[Any, str]:
    monkeypatch.setattr(arm, "price_rows", lambda: iter(rows))
    found = read_prices(azure.session, REGION, [TYPE])
    return {option: str(price.amount) for (_name, option), price in found.items()}


def test_only_linux_by_the_hour_is_a_price(
    arm: Arm, azure: AzureProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ND96isr H100 v5"
    rows = [
        price_row(TYPE, name, 1.0, product="Virtual Machines NDsrH100 v5 Series Windows"),
        price_row(TYPE, f"{name} Low Priority", 2.0),
        price_row(TYPE, name, 3.0, type="DevTestConsumption"),
        price_row(TYPE, name, 4.0, type="Reservation", reservationTerm="1 Year"),
        price_row(TYPE, name, 5.0, unitOfMeasure="1 Month"),
        price_row(TYPE, name, 6.0, tierMinimumUnits=100),
        price_row(TYPE, name, 7.0, product="NDsrH100 v5 Series Cloud Services"),
        price_row(TYPE, name, 8.0, product="NDsrH100v5 Dedicated Host"),
        price_row(TYPE, f"{name} Expired", 9.0),
        price_row(TYPE, name, 10.0, armRegionName="westeurope"),
        price_row(T4, name, 11.0),
        price_row(TYPE, name, 98.32),
        # Spot is said in either of two fields.
        price_row(TYPE, name, 39.33, meterName=f"{name} Spot"),
    ]
    assert rows_give(arm, azure, monkeypatch, *rows) == {ON_DEMAND: "98.32", SPOT: "39.33"}


def test_of_several_rows_the_latest_counts_and_then_the_dearest(
    arm: Arm, azure: AzureProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(price: float, since: Any) -> dict[str, Any]:
        return price_row(TYPE, "ND96isr H100 v5", price, effectiveStartDate=since)

    old, new = "2023-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
    assert rows_give(arm, azure, monkeypatch, row(98.0, old), row(60.0, new)) == {ON_DEMAND: "60.0"}
    assert rows_give(arm, azure, monkeypatch, row(60.0, new), row(98.0, old)) == {ON_DEMAND: "60.0"}
    assert rows_give(arm, azure, monkeypatch, row(60.0, new), row(61.5, new)) == {ON_DEMAND: "61.5"}
    assert rows_give(arm, azure, monkeypatch, row(60.0, "yesterday"), row(98.0, old)) == {ON_DEMAND: "98.0"}


@pytest.mark.parametrize(
    "changed",
    [
        {"retailPrice": None},
        {"retailPrice": "a lot"},
        {"retailPrice": True},
        {"currencyCode": 5},
        {"armSkuName": ["x"]},
        {"tierMinimumUnits": "none"},
    ],
)
def test_a_garbled_price_fails_the_poll(
    arm: Arm, azure: AzureProvider, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    with pytest.raises(BadAnswer):
        rows_give(arm, azure, monkeypatch, price_row(TYPE, "ND96isr H100 v5", 98.32, **changed))


@pytest.mark.parametrize("amount", [-1, 0])
def test_an_impossible_price_is_handed_on_for_the_poll_to_refuse(
    arm: Arm, azure: AzureProvider, monkeypatch: pytest.MonkeyPatch, amount: int
) -> None:
    monkeypatch.setattr(arm, "price_rows", lambda: iter([price_row(TYPE, "ND96isr H100 v5", amount)]))
    assert [offer.price for offer in azure.offers(REGION).offers] == [Decimal(amount)]


def test_the_next_page_of_prices_may_spell_out_the_port(
    arm: Arm, azure: AzureProvider, proxy: FaultyProxy
) -> None:
    """``https://prices.azure.com:443/…`` is the same host as without the port."""
    assert len(list(arm.price_rows())) > 4
    assert offers(azure)[T4, ON_DEMAND].price == Decimal("0.526")
    pages = [request.path for request in proxy.requests if "/retail/" in request.path]
    assert len(pages) == 5
    assert all("filter" in path for path in pages)
    proxy.plant(
        lambda request: "/retail/" in request.path,
        times=9,
        change=lambda _, answer: Answer(
            200, answer.body.replace(proxy.url.encode(), b"https://prices.example"), answer.headers
        ),
    )
    with pytest.raises(BadAnswer, match="another host"):
        azure.offers(REGION)


def is_sizes(request: Request) -> bool:
    return "/skus" in request.path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"GPUs", "value": "8"', b'"GPUs", "value": "many"'),
        (b'"GPUs", "value": "8"', b'"GPUs", "value": "NaN"'),
        (b'"GPUs", "value": "8"', b'"GPUs", "value": "-8"'),
        (b'"vCPUs", "value": "96"', b'"vCPUs", "value": ""'),
        (b'"MemoryGB"', b'"Memory"'),
        (b'"locations": ["eastus"]', b'"locations": "eastus"'),
        (b'"capabilities": [', b'"capabilities": 5, "x": ['),
        (b'"name": "Standard_ND96isr_H100_v5"', b'"name": 5'),
        (b'"value": [{"resourceType"', b'"value": [null, {"resourceType"'),
        (b'"value": [', b'"value": "x", "y": ['),
        (b"{", b"["),
    ],
)
def test_garbled_sizes_fail_the_poll(
    azure: AzureProvider, proxy: FaultyProxy, before: bytes, after: bytes
) -> None:
    def garble(_request: Request, answer: Answer) -> Answer:
        assert before in answer.body
        return Answer(answer.status, answer.body.replace(before, after, 1), answer.headers)

    proxy.plant(is_sizes, times=9, change=garble)
    with pytest.raises(BadAnswer):
        azure.offers(REGION)


def test_a_fraction_of_a_gpu_is_left_out(azure: AzureProvider, proxy: FaultyProxy) -> None:
    def part(_request: Request, answer: Answer) -> Answer:
        return Answer(
            answer.status,
            answer.body.replace(b'"GPUs", "value": "8"', b'"GPUs", "value": "0.5"'),
            answer.headers,
        )

    proxy.plant(is_sizes, times=9, change=part)
    assert TYPE not in {info.name for info in azure.offers(REGION).instance_types}


@pytest.mark.parametrize("status", [200, 500])
def test_a_proxys_page_instead_of_an_answer(azure: AzureProvider, proxy: FaultyProxy, status: int) -> None:
    page = Answer(status, HTML, {"content-type": "text/html"})
    proxy.plant(lambda _: True, times=1_000, answer=page)
    calls: list[Any] = [
        lambda: azure.offers(REGION),
        lambda: azure.describe(region=REGION, ids=["x"]),
        lambda: azure.list_owned(region=REGION),
        lambda: azure.find(region=REGION, tag="sublet:token", value="x"),
        azure.test_connection,
    ]
    for call in calls:
        with pytest.raises(ProviderError) as refusal:
            call()
        assert refusal.value.retryable
        assert not isinstance(refusal.value, NotFound)


def test_reads_are_tried_again_and_each_page_too(azure: AzureProvider, proxy: FaultyProxy) -> None:
    broken = azure_arm.error(503, "ServiceUnavailable", "Later.")
    answer = Answer(503, json.dumps(broken.document).encode())
    proxy.plant(lambda request: is_sizes(request) and "skiptoken" in request.path, times=2, answer=answer)
    proxy.plant(
        lambda request: "/retail/" in request.path and "skip=8" in request.path, times=2, answer=answer
    )
    assert len(azure.offers(REGION).offers) == 5


def test_a_hundred_thousand_rows_are_read(arm: Arm, azure: AzureProvider, proxy: FaultyProxy) -> None:
    """Rows of other kinds and without a GPU: the listing has hundreds of them for each size that counts."""
    row = json.dumps(arm.sku(azure_arm.SIZES[3]))
    body = ('{"value": [' + ",".join([row] * 100_000) + "]}").encode()
    proxy.plant(is_sizes, times=1, answer=Answer(200, body))
    assert azure.offers(REGION).offers == ()


def test_machines_with_odd_documents_do_not_hide_the_others(arm: Arm, azure: AzureProvider) -> None:
    for name, body in (
        ("odd-1", {"location": "East US", "tags": None, "properties": {}}),
        ("odd-2", {"location": REGION, "properties": {"networkProfile": {"networkInterfaces": [None, {}]}}}),
        ("odd-3", {"location": REGION, "zones": [], "properties": {"instanceView": None}}),
    ):
        arm.keep("virtualMachines", name, body, provider="Microsoft.Compute")
    found: list[Machine] = list(azure.describe(region=REGION, ids=["odd-1", "odd-2", "odd-3"]))
    assert [machine.id for machine in found] == ["odd-1", "odd-2", "odd-3"]
    assert {machine.state for machine in found} == {MachineState.UNKNOWN}


@pytest.mark.parametrize(
    "change",
    [
        lambda body: HTML,
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: b"[]",
        lambda body: b'{"name": "another"}',
        lambda body: b'{"name": 5, "properties": 5}',
    ],
)
def test_a_launch_with_a_garbled_answer_is_doubted(
    arm: Arm, azure: AzureProvider, proxy: FaultyProxy, change: Any
) -> None:
    tags = {"sublet:site": "site-one", "sublet:lease": "lse_abcdefghjkmnpqrs"}
    made = azure.prepare_lease(LeaseNetworkRequest(tags["sublet:lease"], REGION, (), (), tags))
    proxy.plant(
        lambda request: request.method == "PUT",
        change=lambda _, answer: Answer(answer.status, change(answer.body), answer.headers),
    )
    group = LaunchGroup(
        client_token="lau_abcdefghjkmnpqrs",
        count=1,
        instance_type=TYPE,
        region=REGION,
        zone="1",
        tags=tags,
        firewall_id=made.firewall_id,
    )
    with pytest.raises(ProviderError) as refusal:
        azure.launch(group)
    assert refusal.value.doubtful
    # What was made is found by its token.
    [machine] = azure.find(region=REGION, tag="sublet:token", value=group.client_token)
    assert ("virtualmachines", machine.id) in arm.resources


def test_a_pages_own_link_keeps_its_query() -> None:
    """What :meth:`JsonApi.pages` asks for when a vendor names the next page by its whole path."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        after = "/things?marker=2" if len(asked) == 1 else None
        return httpx.Response(200, json={"value": [len(asked)], "next": after})

    api = JsonApi(base_url="http://127.0.0.1:1")
    api._client = httpx.Client(transport=httpx.MockTransport(answer))
    found = api.pages(
        "/things", action="Things", items=lambda page: page["value"], following=lambda page: page["next"]
    )
    assert list(found) == [1, 2]
    assert asked == ["/things", "/things?marker=2"]
