"""A delivery turns a commitment into nodes that can be promised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from inventory.commitments import ResaleNotAllowed, TooManyNodes, record_delivery
from inventory.fleet import set_available
from inventory.models import Commitment, CommitmentDelivery, Fabric, InstanceType, Node, Region, Zone
from portal.accounts.models import Event, User
from portal.common.errors import Conflict, InvalidInput
from portal.common.periods import period
from tests.concurrency import race
from tests.inventory.conftest import make_account

pytestmark = pytest.mark.usefixtures("supply")

START = datetime(2026, 12, 1, tzinfo=UTC)
END = datetime(2027, 12, 1, tzinfo=UTC)


@pytest.fixture
def commitment(supply) -> Commitment:
    return make_commitment()


def make_commitment(**fields) -> Commitment:
    account = make_account(slug="aws", name=f"account {Commitment.objects.count()}")
    region, _ = Region.objects.get_or_create(provider=account.provider, code="us-east-1")
    zone, _ = Zone.objects.get_or_create(region=region, code="us-east-1a")
    values = {
        "quantity": 8,
        "promised": period(START, END),
        "cost_per_node_hour": Decimal("17.60"),
        "cutoff": timedelta(minutes=30),
        "turnaround": timedelta(minutes=45),
        "fabric_size": 4,
        **fields,
    }
    return Commitment.objects.create(
        account=account, zone=zone, instance_type=InstanceType.objects.get(name="p5.48xlarge"), **values
    )


def deliver(commitment: Commitment, nodes: int, now: datetime, **fields) -> list[Node]:
    values = {"accepted_from": START + timedelta(days=2), "actor": None, **fields}
    return record_delivery(commitment_id=commitment.pk, nodes=nodes, now=now, **values)


def test_what_may_not_be_sublet_is_not_delivered(commitment, now):
    type(commitment.account).objects.update(resale_allowed=False)
    with pytest.raises(ResaleNotAllowed):
        deliver(commitment, 8, now)
    assert not Node.objects.exists() and not CommitmentDelivery.objects.exists()


def test_a_delivery_makes_nodes(commitment, now):
    staff = User.objects.create_user("staff@example.com")
    nodes = deliver(commitment, 8, now, actor=staff, note="Rack 12")

    assert len(nodes) == Node.objects.count() == 8
    node = Node.objects.order_by("name").first()
    assert node.name.startswith("us-east-1a-")
    assert node.name.endswith("-001")
    assert (node.account, node.commitment) == (commitment.account, commitment)
    assert (node.instance_type, node.zone, node.region) == (
        commitment.instance_type,
        commitment.zone,
        commitment.zone.region,
    )
    assert node.available.lower == START + timedelta(days=2)
    assert node.available.upper == END - timedelta(minutes=30) - timedelta(minutes=45)
    assert (node.turnaround, node.health) == (timedelta(minutes=45), "healthy")
    delivery = CommitmentDelivery.objects.get()
    assert (delivery.nodes, delivery.recorded_by, delivery.recorded_at) == (8, staff, now)
    assert delivery.note == "Rack 12"
    event = Event.objects.get(kind="commitment.delivered")
    assert (event.subject_id, event.actor) == (commitment.uid, staff)
    assert (event.before, event.after["delivered"]) == ({"delivered": 0}, 8)


def test_nodes_share_fabrics_of_the_given_size(commitment, now):
    deliver(commitment, 3, now)
    deliver(commitment, 2, now)  # one completes the first fabric
    deliver(commitment, 3, now)

    sizes = [fabric.nodes.count() for fabric in Fabric.objects.order_by("name")]
    assert sizes == [4, 4]
    assert Node.objects.values("name").distinct().count() == 8
    assert {fabric.zone for fabric in Fabric.objects.all()} == {commitment.zone}


def test_single_nodes_have_no_fabric(now, supply):
    deliver(make_commitment(fabric_size=1), 2, now)
    assert set(Node.objects.values_list("fabric", flat=True)) == {None}
    assert not Fabric.objects.exists()


def test_parts_have_their_own_accepted_start(commitment, now):
    deliver(commitment, 5, now, accepted_from=START)
    deliver(commitment, 3, now, accepted_from=START + timedelta(days=10))
    starts = [node.available.lower for node in Node.objects.order_by("name")]
    assert starts == [START] * 5 + [START + timedelta(days=10)] * 3


@pytest.mark.parametrize(
    ("nodes", "fields", "error", "says"),
    [
        (0, {}, InvalidInput, "at least one node"),
        (9, {}, TooManyNodes, "Only 8 of 8 nodes"),
        (1, {"accepted_from": datetime(2026, 12, 1)}, InvalidInput, "needs a time zone"),  # noqa: DTZ001
        (1, {"accepted_from": END - timedelta(minutes=75)}, InvalidInput, "until 2027-11-30 22:45 UTC"),
    ],
)
def test_what_cannot_be_delivered_changes_nothing(commitment, now, nodes, fields, error, says):
    with pytest.raises(error, match=says):
        deliver(commitment, nodes, now, **fields)
    assert not Node.objects.exists()
    assert not Fabric.objects.exists()
    assert not CommitmentDelivery.objects.exists()
    assert not Event.objects.exists()


def test_a_cancelled_commitment_delivers_nothing(now, supply):
    commitment = make_commitment(cancelled_at=now)
    with pytest.raises(Conflict, match="cancelled"):
        deliver(commitment, 1, now)
    assert not Node.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_at_once_never_deliver_more_than_was_bought(commitment, now):
    results = race([lambda: deliver(commitment, 8, now)] * 4)
    assert sum(isinstance(result, TooManyNodes) for result in results) == 3
    assert Node.objects.count() == 8


def test_a_node_s_period_changes_only_inside_a_transaction(commitment, now):
    (node,) = deliver(commitment, 1, now)
    shorter = period(START + timedelta(days=3), END - timedelta(days=30))
    with transaction.atomic():
        set_available(node, shorter)
    node.refresh_from_db()
    assert node.available == shorter


@pytest.mark.django_db(transaction=True)
def test_a_node_s_period_needs_a_transaction_and_both_ends(commitment, now):
    (node,) = deliver(commitment, 1, now)
    with pytest.raises(RuntimeError, match="must run inside"):
        set_available(node, period(START, END))
    with pytest.raises(InvalidInput), transaction.atomic():
        set_available(node, type(node.available)(START, None, "[)"))
    with pytest.raises(IntegrityError), transaction.atomic():
        Node.objects.filter(pk=node.pk).update(available=type(node.available)(START, START, "[)"))
    kept = Node.objects.get(pk=node.pk)
    assert kept.available == node.available
