"""EC2's reservations: found, bought in one call, read in every state, and used by launches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.stub import Stubber

from inventory.providers.aws import Ec2Provider, capacity
from inventory.providers.base import TAG_SITE, TAG_TOKEN, CapacityOffering, CapacityRequest, LaunchGroup
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    TimedOut,
)
from tests.inventory.conftest import KEYS
from tests.inventory.test_aws_prices import price_list, product

REGION, ZONE, P5 = "us-east-1", "us-east-1a", "p5.48xlarge"
RESERVATION = "cr-0123456789abcdef0"
NOW = datetime.now(UTC).replace(microsecond=0)
TAGS = {TAG_SITE: "site_1", TAG_TOKEN: "cap_1"}
MARKED = [
    {
        "ResourceType": "capacity-reservation",
        "Tags": [{"Key": "sublet:site", "Value": "site_1"}, {"Key": "sublet:token", "Value": "cap_1"}],
    }
]


def connect(**settings: Any) -> Ec2Provider:
    alone = {"image": "ami-12c6146b", "efa": "none", "regions": [REGION]}
    return Ec2Provider(credentials=KEYS, settings={**alone, **settings})


def request(**changed: Any) -> CapacityRequest:
    values: dict[str, Any] = {
        "instance_type": P5,
        "region": REGION,
        "count": 4,
        "hours": 48,
        "earliest": NOW + timedelta(days=7),
        "latest": NOW + timedelta(days=30),
        **changed,
    }
    return CapacityRequest(**values)


def block(id: str = "cb-1", fee: Any = "3775.68", **changed: Any) -> dict[str, Any]:
    start = NOW + timedelta(days=8)
    return {
        "CapacityBlockOfferingId": id,
        "InstanceType": P5,
        "AvailabilityZone": ZONE,
        "InstanceCount": 4,
        "StartDate": start,
        "EndDate": start + timedelta(hours=48),
        "CapacityBlockDurationHours": 48,
        "UpfrontFee": fee,
        "CurrencyCode": "USD",
        "Tenancy": "default",
        **changed,
    }


def item(state: str = "active", **changed: Any) -> dict[str, Any]:
    return {
        "CapacityReservationId": RESERVATION,
        "InstanceType": P5,
        "AvailabilityZone": ZONE,
        "TotalInstanceCount": 4,
        "AvailableInstanceCount": 1,
        "State": state,
        "StartDate": NOW,
        "EndDate": NOW + timedelta(days=2),
        "ReservationType": "capacity-block",
        "Tags": [{"Key": "sublet:token", "Value": "cap_1"}],
        **changed,
    }


def market(cloud: Ec2Provider, *classes: str) -> Stubber:
    stub = Stubber(cloud.session.ec2(REGION))
    listed = [{"InstanceType": P5, "SupportedUsageClasses": list(classes)}]
    stub.add_response("describe_instance_types", {"InstanceTypes": listed}, {"InstanceTypes": [P5]})
    return stub


def blocks(*found: dict[str, Any], wanted: CapacityRequest | None = None, hours: int = 48) -> list[Any]:
    cloud, wanted = connect(), wanted or request()
    stub = market(cloud, "capacity-block")
    expected = {
        "InstanceType": P5,
        "InstanceCount": wanted.count,
        "StartDateRange": wanted.earliest,
        "EndDateRange": wanted.latest,
        "CapacityDurationHours": hours,
    }
    stub.add_response("describe_capacity_block_offerings", {"CapacityBlockOfferings": list(found)}, expected)
    with stub:
        return list(cloud.capacity_offerings(wanted))


def test_blocks_are_found_the_cheapest_first():
    cheap, dear = block("cb-2", "3000"), block("cb-1", "4000.50")
    first, second = blocks(dear, cheap)
    assert (first.id, first.total, first.upfront, first.currency) == (
        "cb-2",
        Decimal(3000),
        first.total,
        "USD",
    )
    assert (second.id, second.total) == ("cb-1", Decimal("4000.50"))
    assert (first.zone, first.count, first.end - first.start) == (ZONE, 4, timedelta(hours=48))
    assert first.start == NOW + timedelta(days=8)


@pytest.mark.parametrize(
    ("hours", "asked"), [(1, 24), (24, 24), (25, 48), (336, 336), (337, 504), (4368, 4368)]
)
def test_a_block_lasts_whole_days_and_from_two_weeks_on_whole_weeks(hours: int, asked: int):
    wanted = request(hours=hours, latest=NOW + timedelta(days=300))
    end = NOW + timedelta(days=8, hours=asked)
    assert len(blocks(block(EndDate=end), wanted=wanted, hours=asked)) == 1


@pytest.mark.parametrize("changed", [{"hours": 4369}, {"count": 65}, {"earliest": NOW + timedelta(days=31)}])
def test_what_no_block_can_be_is_not_asked(changed: dict[str, Any]):
    cloud = connect()
    with market(cloud, "capacity-block"):
        assert cloud.capacity_offerings(request(**changed)) == []


@pytest.mark.parametrize("code", ["InvalidInstanceType", "Unsupported"])
def test_a_region_that_does_not_sell_it_has_no_offering(code: str):
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_client_error("describe_instance_types", code, http_status_code=400)
    with stub:
        assert cloud.capacity_offerings(request()) == []
    stub = market(cloud, "capacity-block")
    stub.add_client_error("describe_capacity_block_offerings", code, http_status_code=400)
    with stub:
        assert cloud.capacity_offerings(request()) == []


def test_a_search_that_fails_is_no_empty_market():
    cloud = connect()
    stub = market(cloud, "capacity-block")
    stub.add_client_error("describe_capacity_block_offerings", "UnauthorizedOperation", http_status_code=403)
    with stub, pytest.raises(AuthFailed):
        cloud.capacity_offerings(request())


def test_blocks_that_are_several_reservations_or_too_short_are_left_out():
    segments = [{"InstanceType": P5, "InstanceCount": 2}, {"InstanceType": P5, "InstanceCount": 2}]
    short = NOW + timedelta(days=8, hours=46)
    found = blocks(
        block("cb-1", CapacityBlockOfferingSegments=segments),
        block("cb-2", UltraserverType="u-p6e-gb200x72"),
        block("cb-3", EndDate=short),
        block("cb-4", CapacityBlockOfferingSegments=segments[:1]),
    )
    assert [offering.id for offering in found] == ["cb-4"]


@pytest.mark.parametrize("fee", ["NaN", "free", "Infinity"])
def test_a_block_without_a_fee_that_is_a_number_is_no_answer(fee: str):
    with pytest.raises(BadAnswer, match="UpfrontFee"):
        blocks(block(fee=fee))


def test_a_reservation_on_demand_begins_now_and_costs_its_hours():
    cloud = connect()
    stub = market(cloud, "on-demand")
    zones = [{"InstanceType": P5, "Location": zone} for zone in ("us-east-1b", "us-east-1a")]
    stub.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": zones})
    wanted = request(earliest=datetime.now(UTC), latest=datetime.now(UTC) + timedelta(days=3))
    with stub, price_list(cloud, [product(price="50")]):
        first, second = cloud.capacity_offerings(wanted)
    assert (first.id, second.id) == ("on-demand:us-east-1a", "on-demand:us-east-1b")
    assert (first.zone, first.count, first.upfront) == ("us-east-1a", 4, 0)
    assert first.total is not None
    assert round(first.total, 2) == Decimal("50") * 4 * 48
    assert abs(first.end - first.start - timedelta(hours=48)) < timedelta(seconds=5)


def test_without_prices_a_reservation_on_demand_has_none():
    cloud = connect(prices="rate_card")
    stub = market(cloud, "on-demand")
    zones = [{"InstanceType": P5, "Location": ZONE}]
    stub.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": zones})
    with stub:
        [offering] = cloud.capacity_offerings(request(earliest=NOW, latest=NOW + timedelta(days=3)))
    assert offering.total is None


def test_what_the_price_list_does_not_know_is_not_reserved_on_demand():
    cloud = connect()
    wanted = request(earliest=NOW, latest=NOW + timedelta(days=3))
    with market(cloud, "on-demand"), price_list(cloud, []):
        assert cloud.capacity_offerings(wanted) == []


def test_for_a_later_day_nothing_is_reserved_on_demand():
    cloud = connect()
    with market(cloud, "on-demand"):
        assert cloud.capacity_offerings(request()) == []


def offering(id: str = "cb-1") -> CapacityOffering:
    return CapacityOffering(id, P5, REGION, ZONE, 4, NOW, NOW + timedelta(hours=48), Decimal(100), Decimal(0))


def buying(cloud: Ec2Provider) -> Stubber:
    """Purchases go through the client that tries once."""
    return Stubber(cloud.session.ec2(REGION, attempts=1))


def test_a_block_is_bought_once_and_carries_our_token():
    cloud = connect()
    stub = buying(cloud)
    stub.add_response(
        "purchase_capacity_block",
        {"CapacityReservation": item("payment-pending")},
        {
            "CapacityBlockOfferingId": "cb-1",
            "InstancePlatform": "Linux/UNIX",
            "TagSpecifications": MARKED,
        },
    )
    with stub:
        bought = cloud.buy_capacity(offering(), client_token="cap_1", tags={TAG_SITE: "site_1"})
    assert (bought.id, bought.state, bought.raw_state) == (RESERVATION, "pending", "payment-pending")
    assert bought.cutoff == timedelta(minutes=30)


def test_a_reservation_on_demand_is_for_our_launches_only_and_ends_by_itself():
    cloud = connect()
    stub = buying(cloud)
    stub.add_response(
        "create_capacity_reservation",
        {"CapacityReservation": item("active", ReservationType="default")},
        {
            "InstanceType": P5,
            "InstancePlatform": "Linux/UNIX",
            "InstanceCount": 4,
            "AvailabilityZone": ZONE,
            "EndDateType": "limited",
            "EndDate": NOW + timedelta(hours=48),
            "InstanceMatchCriteria": "targeted",
            "ClientToken": "cap_1",
            "TagSpecifications": MARKED,
        },
    )
    with stub:
        bought = cloud.buy_capacity(offering("on-demand:us-east-1a"), client_token="cap_1", tags=TAGS)
    assert (bought.state, bought.cutoff) == ("active", timedelta())


@pytest.mark.parametrize("id", ["cb-1", "on-demand:us-east-1a"])
@pytest.mark.parametrize(
    ("code", "status", "error", "doubtful"),
    [
        ("InsufficientInstanceCapacity", 500, NoCapacity, False),
        ("UnfulfillableCapacity", 400, NoCapacity, False),
        ("InstanceLimitExceeded", 400, QuotaExceeded, False),
        ("CapacityReservationLimitExceeded", 400, QuotaExceeded, False),
        ("UnauthorizedOperation", 403, AuthFailed, False),
        ("InvalidCapacityBlockOfferingId.NotFound", 400, NotFound, False),
        ("InvalidParameterValue", 400, ProviderError, False),
        ("InternalError", 500, ProviderError, True),
    ],
)
def test_a_purchase_that_is_refused_says_what_may_be_done(
    id: str, code: str, status: int, error: type[ProviderError], doubtful: bool
):
    cloud = connect()
    stub = buying(cloud)
    operation = "purchase_capacity_block" if id == "cb-1" else "create_capacity_reservation"
    stub.add_client_error(operation, code, "Their words.", http_status_code=status)
    with stub, pytest.raises(ProviderError) as refusal:
        cloud.buy_capacity(offering(id), client_token="cap_1", tags=TAGS)
    assert type(refusal.value) is error
    assert refusal.value.doubtful is doubtful
    stub.assert_no_pending_responses()


def test_a_purchase_without_a_reservation_in_its_answer_is_a_doubt():
    cloud = connect()
    stub = buying(cloud)
    stub.add_response("purchase_capacity_block", {})
    with stub, pytest.raises(BadAnswer) as refusal:
        cloud.buy_capacity(offering(), client_token="cap_1", tags=TAGS)
    assert refusal.value.doubtful


def test_a_purchase_without_an_answer_is_tried_once():
    cloud = connect()
    calls = []

    def silent(**_: Any) -> None:
        calls.append(1)
        raise ReadTimeoutError(endpoint_url="https://ec2.example")

    cloud.session.ec2(REGION, attempts=1).meta.events.register("before-send.ec2", silent)
    with pytest.raises(TimedOut) as refusal:
        cloud.buy_capacity(offering(), client_token="cap_1", tags=TAGS)
    assert refusal.value.doubtful
    assert calls == [1]


def listed(*items: dict[str, Any]) -> list[Any]:
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_response("describe_capacity_reservations", {"CapacityReservations": list(items)}, {})
    with stub:
        return list(cloud.reservations(region=REGION))


def test_every_state_that_aws_describes_is_known():
    cloud = connect()
    shape = cloud.session.ec2(REGION).meta.service_model.shape_for("CapacityReservationState")
    assert set(shape.enum) == set(capacity.STATES)
    assert set(capacity.STATES.values()) == {"pending", "scheduled", "active", "ended", "failed"}
    found = {one.raw_state: one.state for one in listed(*(item(state) for state in shape.enum))}
    assert found == capacity.STATES


def test_a_reservation_is_read():
    [one] = listed(item())
    assert (one.id, one.instance_type, one.region, one.zone) == (RESERVATION, P5, REGION, ZONE)
    assert (one.count, one.used, one.cutoff) == (4, 3, timedelta(minutes=30))
    assert (one.start, one.end) == (NOW, NOW + timedelta(days=2))
    assert one.tags == {TAG_TOKEN: "cap_1"}
    endless_item = item(ReservationType="default", EndDateType="unlimited")
    del endless_item["EndDate"]
    [endless] = listed(endless_item)
    assert (endless.end, endless.cutoff) == (None, timedelta())


def test_a_state_that_aws_does_not_describe_promises_nothing():
    [one] = listed(item("levitating"))
    assert (one.state, one.raw_state, one.used) == ("pending", "levitating", None)


def test_a_reservation_without_its_count_is_no_answer():
    broken = item()
    del broken["TotalInstanceCount"]
    with pytest.raises(BadAnswer, match="TotalInstanceCount"):
        listed(broken)


# --- launches on a reservation


def launched(cloud: Ec2Provider, group: LaunchGroup, stub: Stubber | None = None) -> dict[str, Any]:
    """Launch, after what ``stub`` answers; returns the parameters of the launch."""
    client, seen = cloud.session.ec2(REGION, attempts=1), dict[str, Any]()
    client.meta.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: seen.update(params)
    )
    stub = stub or Stubber(client)
    instances = [{"InstanceId": f"i-{number}"} for number in range(group.count)]
    stub.add_response("run_instances", {"Instances": instances})
    with stub:
        cloud.launch(group)
    stub.assert_no_pending_responses()
    return seen


def on_reservation(id: str = RESERVATION, count: int = 1) -> LaunchGroup:
    return LaunchGroup("lau_1", count, P5, REGION, zone=ZONE, reservation_id=id)


@pytest.mark.parametrize(("kind", "market_type"), [("capacity-block", "capacity-block"), ("default", None)])
def test_a_launch_finds_out_whether_its_reservation_is_a_block(kind: str, market_type: str | None):
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION, attempts=1))
    stub.add_response(
        "describe_capacity_reservations",
        {"CapacityReservations": [item(ReservationType=kind)]},
        {"CapacityReservationIds": [RESERVATION]},
    )
    # Looked up once for both launches.
    seen = [launched(cloud, on_reservation(count=2), stub) for _ in range(2)]
    for parameters in seen:
        options = parameters.get("InstanceMarketOptions")
        assert options == ({"MarketType": market_type} if market_type else None)
        assert parameters["CapacityReservationSpecification"] == {
            "CapacityReservationTarget": {"CapacityReservationId": RESERVATION}
        }


def test_a_group_of_reservations_and_an_endpoint_without_them_are_not_asked():
    arn = "arn:aws:resource-groups:us-east-1:123456789012:group/h100"
    for cloud, id in ((connect(), arn), (connect(buying="none"), RESERVATION)):
        assert "InstanceMarketOptions" not in launched(cloud, on_reservation(id))


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("InvalidCapacityReservationId.NotFound", 400, NotFound),
        ("UnauthorizedOperation", 403, AuthFailed),
        ("InternalError", 400, ProviderError),
    ],
)
def test_a_reservation_that_cannot_be_looked_up_launches_nothing(
    code: str, status: int, error: type[ProviderError]
):
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION, attempts=1))
    stub.add_client_error("describe_capacity_reservations", code, http_status_code=status)
    with stub, pytest.raises(error) as refusal:
        cloud.launch(on_reservation())
    assert refusal.value.doubtful is False  # no launch was called


def test_a_reservation_that_has_not_begun_is_tried_again():
    cloud = connect(buying="none")
    stub = Stubber(cloud.session.ec2(REGION, attempts=1))
    stub.add_client_error("run_instances", "InvalidCapacityReservationState", http_status_code=400)
    with stub, pytest.raises(ProviderError) as refusal:
        cloud.launch(on_reservation())
    assert (refusal.value.retryable, refusal.value.doubtful) == (True, False)


# --- EFA and placement


def card(index: int, *kinds: str) -> dict[str, Any]:
    return {"NetworkCardIndex": index, "InterfaceTypes": list(kinds)}


def with_cards(mode: str, *cards: dict[str, Any], supported: bool = True, **settings: Any) -> dict[str, Any]:
    cloud = connect(efa=mode, **settings)
    stub = Stubber(cloud.session.ec2(REGION, attempts=1))
    info = {"EfaSupported": supported, "NetworkCards": list(cards)}
    listed_types = [{"InstanceType": P5, "NetworkInfo": info}]
    stub.add_response("describe_instance_types", {"InstanceTypes": listed_types}, {"InstanceTypes": [P5]})
    return launched(cloud, LaunchGroup("lau_1", 1, P5, REGION, zone=ZONE, firewall_id="sg-1"), stub)


ALL = ("interface", "efa", "efa-only")


def test_the_first_card_of_a_type_with_efa_has_it():
    parameters = with_cards("primary", card(1, *ALL), card(0, *ALL), subnets={ZONE: "subnet-1"})
    assert parameters["NetworkInterfaces"] == [
        {
            "NetworkCardIndex": 0,
            "DeviceIndex": 0,
            "InterfaceType": "efa",
            "DeleteOnTermination": True,
            "SubnetId": "subnet-1",
            "Groups": ["sg-1"],
        }
    ]
    assert not {"SubnetId", "SecurityGroupIds"} & parameters.keys()


def test_all_cards_have_efa_and_the_first_the_address():
    interfaces = with_cards("all", card(0, "interface"), card(1, *ALL), card(2, *ALL))["NetworkInterfaces"]
    assert [(one["NetworkCardIndex"], one["DeviceIndex"], one["InterfaceType"]) for one in interfaces] == [
        (0, 0, "interface"),
        (1, 1, "efa-only"),
        (2, 1, "efa-only"),
    ]
    assert all(one["Groups"] == ["sg-1"] and one["DeleteOnTermination"] for one in interfaces)


@pytest.mark.parametrize(
    ("mode", "cards", "supported"),
    [("primary", [card(0, "interface"), card(1, *ALL)], True), ("all", [card(0, *ALL)], False)],
)
def test_without_efa_there_nothing_changes(mode: str, cards: list[dict[str, Any]], supported: bool):
    parameters = with_cards(mode, *cards, supported=supported)
    assert "NetworkInterfaces" not in parameters
    assert parameters["SecurityGroupIds"] == ["sg-1"]


def test_a_placement_group_of_the_zone_is_used():
    cloud = connect(placement_groups={ZONE: "gpus"})
    group = LaunchGroup("lau_1", 1, P5, REGION, zone=ZONE)
    assert launched(cloud, group)["Placement"] == {"AvailabilityZone": ZONE, "GroupName": "gpus"}
    other = LaunchGroup("lau_2", 1, P5, REGION, zone="us-east-1b")
    assert launched(cloud, other)["Placement"] == {"AvailabilityZone": "us-east-1b"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"placement_groups": "gpus"}, "“placement_groups” must be an object"),
        ({"subnets": {ZONE: 7}}, "“subnets” must be an object"),
        ({"image": ["ami-1"]}, "“image” must be a text"),
        ({"efa": "some"}, "“efa” must be one of: primary, all, none"),
    ],
)
def test_a_setting_that_cannot_be_launches_nothing(settings: dict[str, Any], words: str):
    cloud = connect(**settings)
    with Stubber(cloud.session.ec2(REGION, attempts=1)), pytest.raises(ProviderError, match=words):
        cloud.launch(LaunchGroup("lau_1", 1, P5, REGION, zone=ZONE))
