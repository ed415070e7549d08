"""Google Cloud's reserved capacity: advised, asked for in one call, and read in every state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from inventory.providers import naming
from inventory.providers.base import TAG_SITE, TAG_TOKEN, CapacityOffering, CapacityRequest, Reservation
from inventory.providers.errors import AuthFailed, BadAnswer, NoCapacity, ProviderError
from inventory.providers.gcp import operations, reservations
from tests.contract.discovery import Discovery
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp import DOCUMENTS
from tests.contract.gcp_data import PROJECT, REGION, RESERVATION, WWW, ZONES
from tests.contract.prism import vendor_document
from tests.inventory.test_gcp_prices import provider

ZONE, A3 = ZONES[0], "a3-ultragpu-8g"
START = datetime(2026, 12, 1, 8, tzinfo=UTC)
REQUEST = CapacityRequest(A3, REGION, 4, 48, START, START + timedelta(days=10))
OFFERING = CapacityOffering("id", A3, REGION, ZONE, 4, START, START + timedelta(days=2))
TAGS = {TAG_SITE: "Site One", TAG_TOKEN: "cap_0123456789abcdef"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcp]:
    monkeypatch.setattr(operations, "LOOKS", (0.0, 0.0))
    fake = FakeGcp()
    yield fake
    fake.close()


def future(name: str = "fr-1", status: str = "APPROVED", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "reservationName": f"{name}-res",
        "specificSkuProperties": {"totalCount": "4", "instanceProperties": {"machineType": A3}},
        "timeWindow": {"startTime": "2026-12-01T08:00:00Z", "endTime": "2026-12-03T08:00:00Z"},
        "status": {"procurementStatus": status},
        **fields,
    }


def held(name: str, **fields: Any) -> dict[str, Any]:
    count = {"count": "4", "inUseCount": "1", "instanceProperties": {"machineType": A3}}
    return {"name": name, "status": "READY", "specificReservation": count, **fields}


def read(fake: FakeGcp, **settings: Any) -> dict[str, Reservation]:
    return {each.id: each for each in provider(fake, **settings).reservations(region=REGION)}


# --- what Google advises


def test_advice_is_asked_for_whole_days_that_end_in_time(fake: FakeGcp) -> None:
    [found] = provider(fake).capacity_offerings(replace(REQUEST, hours=30))
    [call] = [call for call in fake.calls if call.path.endswith("/calendarMode")]
    [wanted] = call.body["futureResourcesSpecs"].values()
    assert wanted["targetResources"] == {"specificSkuResources": {"machineType": A3, "instanceCount": "4"}}
    assert wanted["timeRangeSpec"] == {
        "minDuration": "172800s",
        "maxDuration": "172800s",
        "startTimeNotEarlierThan": "2026-12-01T08:00:00Z",
        "startTimeNotLaterThan": "2026-12-09T08:00:00Z",
    }
    assert (found.zone, found.count, found.start) == (ZONE, 4, START)
    assert found.end == START + timedelta(days=2)


@pytest.mark.parametrize(
    ("prices", "total"),
    [
        (None, None),
        ({}, None),
        ({"a4-highgpu-8g": 90}, None),
        ({A3: "53.5"}, Decimal("53.5") * 4 * 48),
        ({A3: 50}, Decimal(9_600)),
        ({A3: {REGION: 50.5}}, Decimal("50.5") * 192),
        ({A3: {"us-east1": 50}}, None),
    ],
)
def test_google_states_no_price_so_the_settings_may(
    fake: FakeGcp, prices: Any, total: Decimal | None
) -> None:
    [found] = provider(fake, calendar_prices=prices).capacity_offerings(REQUEST)
    assert found.total == total


@pytest.mark.parametrize("prices", [{A3: "x"}, {A3: -1}, {A3: True}, {A3: "NaN"}, {A3: []}, 7])
def test_a_price_that_is_none_is_said(fake: FakeGcp, prices: Any) -> None:
    with pytest.raises(ProviderError, match="calendar_prices"):
        provider(fake, calendar_prices=prices).capacity_offerings(REQUEST)


@pytest.mark.parametrize(
    "changed",
    [{"hours": 24 * 91}, {"latest": START + timedelta(days=1)}, {"earliest": START + timedelta(days=9)}],
)
def test_what_calendar_mode_cannot_do_is_not_asked(fake: FakeGcp, changed: dict[str, Any]) -> None:
    assert provider(fake).capacity_offerings(replace(REQUEST, **changed)) == []
    assert fake.calls == []


def test_no_recommendation_is_no_offering(fake: FakeGcp) -> None:
    nowhere = {f"zones/{ZONE}": {"status": "NO_CAPACITY", "details": "Sold out."}}
    fake.advice = [{"recommendationId": "x", "otherLocations": nowhere}]
    assert provider(fake).capacity_offerings(REQUEST) == []


# --- asking for it


def test_capacity_is_asked_for_in_one_call_that_carries_our_tags(fake: FakeGcp) -> None:
    google = provider(fake)
    bought = google.buy_capacity(OFFERING, client_token=TAGS[TAG_TOKEN], tags={TAG_SITE: "Site One"})
    [call] = [call for call in fake.calls if call.method == "POST"]
    name = naming.name_for(TAGS, limit=63)
    assert call.path.endswith(f"/zones/{ZONE}/futureReservations")
    assert call.body == {
        "name": name,
        "reservationName": name,
        "description": call.body["description"],
        "reservationMode": "CALENDAR",
        "planningStatus": "SUBMITTED",
        "specificReservationRequired": True,
        "autoDeleteAutoCreatedReservations": True,
        "specificSkuProperties": {"totalCount": "4", "instanceProperties": {"machineType": A3}},
        "timeWindow": {"startTime": "2026-12-01T08:00:00Z", "endTime": "2026-12-03T08:00:00Z"},
    }
    assert call.query["requestId"]
    assert (bought.id, bought.state, bought.count) == (name, "pending", 4)
    [listed] = [each for each in google.reservations(region=REGION) if each.id == name]
    # The token comes back as it is, not as a digest: that is how a purchase is found again.
    assert listed.tags[TAG_TOKEN] == bought.tags[TAG_TOKEN] == TAGS[TAG_TOKEN]
    assert (listed.start, listed.end) == (OFFERING.start, OFFERING.end)


@pytest.mark.parametrize(("how", "error"), [("forbidden", AuthFailed), ("stockout", NoCapacity)])
def test_a_refused_request_bought_nothing(fake: FakeGcp, how: str, error: type[ProviderError]) -> None:
    fake.refuse.append(how)
    with pytest.raises(error) as refused:
        provider(fake).buy_capacity(OFFERING, client_token="cap_1", tags={TAG_SITE: "site-one"})
    assert not refused.value.doubtful
    assert fake.future == {}


# --- what is held


def test_every_state_that_google_lists_means_something() -> None:
    schemas = json.loads(vendor_document(DOCUMENTS[0]).read_text())["schemas"]
    status = schemas["FutureReservationStatus"]["properties"]["procurementStatus"]["enum"]
    assert set(status) == set(reservations.STATES)
    assert len(status) == 13
    assert set(schemas["Reservation"]["properties"]["status"]["enum"]) == set(reservations.RESERVATION_STATES)


@pytest.mark.parametrize(
    ("raw", "state"),
    [*reservations.STATES.items(), ("SOMETHING_NEW", "pending"), ("", "pending")],
)
def test_states_of_future_reservations(fake: FakeGcp, raw: str, state: str) -> None:
    status = {"procurementStatus": raw, "fulfilledCount": "3"}
    fake.future[f"{ZONE}/fr-1"] = future(status=raw) | {"status": status}
    found = read(fake)["fr-1-res"]
    assert (found.state, found.raw_state, found.instance_type, found.zone) == (state, raw, A3, ZONE)
    assert found.count == (3 if raw == "FAILED_PARTIALLY_FULFILLED" else 4)
    assert (found.start, found.end) == (START, START + timedelta(days=2))


@pytest.mark.parametrize(("raw", "state"), reservations.RESERVATION_STATES.items())
def test_states_of_reservations(fake: FakeGcp, raw: str, state: str) -> None:
    fake.reservations = {f"{ZONE}/r": held("r", status=raw, deleteAtTime="2026-12-03T08:00:00Z")}
    [found] = read(fake).values()
    assert (found.id, found.state, found.raw_state, found.used) == ("r", state, raw, 1)
    assert found.end == START + timedelta(days=2)


def test_a_future_reservation_and_what_it_was_delivered_as_are_one(fake: FakeGcp) -> None:
    made = [f"{WWW}projects/{PROJECT}/zones/{ZONE}/reservations/fr-1-res"]
    status = {"procurementStatus": "FULFILLED", "autoCreatedReservations": made}
    fake.future[f"{ZONE}/fr-1"] = future(description=f"{TAG_SITE}=site-one") | {"status": status}
    fake.reservations[f"{ZONE}/fr-1-res"] = held("fr-1-res")
    found = read(fake)
    assert set(found) == {RESERVATION, "fr-1-res"}
    assert (found["fr-1-res"].state, found["fr-1-res"].used) == ("active", 1)
    assert found["fr-1-res"].end == START + timedelta(days=2)


def test_a_reservation_that_was_made_at_the_approval_has_not_begun(fake: FakeGcp) -> None:
    fake.future[f"{ZONE}/fr-1"] = future()
    fake.reservations = {f"{ZONE}/fr-1-res": held("fr-1-res")}
    [found] = read(fake).values()
    assert (found.id, found.state) == ("fr-1-res", "scheduled")


def test_reservations_of_others_are_read_where_the_settings_name_them(
    fake: FakeGcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "authorize", lambda _call: None)
    found = read(fake, reservation_projects=["other-project"])
    assert set(found) == {RESERVATION, f"projects/other-project/reservations/{RESERVATION}"}
    with pytest.raises(ProviderError, match="reservation_projects"):
        read(fake, reservation_projects="other-project")


def test_tpus_and_storage_are_left_out(fake: FakeGcp) -> None:
    fake.reservations = {f"{ZONE}/tpu": {"name": "tpu", "aggregateReservation": {}}}
    fake.future = {f"{ZONE}/disk": {"name": "disk", "storagePoolProperties": {}}}
    assert read(fake) == {}


@pytest.mark.parametrize("count", [4, "x", "-1", "9" * 40, None])
def test_a_garbled_count_spoils_the_answer(fake: FakeGcp, count: Any) -> None:
    fake.reservations[f"{ZONE}/{RESERVATION}"]["specificReservation"]["count"] = count
    with pytest.raises(BadAnswer):
        read(fake)


def test_what_is_asked_and_read_is_what_google_describes(fake: FakeGcp) -> None:
    fake.documents = Discovery(*(vendor_document(path) for path in DOCUMENTS))
    google = provider(fake, calendar_prices={A3: 50})
    [offering] = google.capacity_offerings(REQUEST)
    google.buy_capacity(offering, client_token="cap_1", tags={TAG_SITE: "site-one"})
    assert len(google.reservations(region=REGION)) == 2
    assert fake.documents.problems == []
