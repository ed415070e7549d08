"""What happens to promises when a node is shortened, fails or is maintained."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leases import capacity, lifecycle, replacing, search
from leases.audit import CHECKS
from leases.errors import NotEnoughCapacity, WrongState
from leases.models import Allocation, Lease, Shortfall
from portal.accounts.models import Event
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.periods import period
from portal.common.transactions import durable
from tests.factories import H100, NOW, make_fleet, make_lease, make_request, make_user

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = NOW + DAY


def running(**wanted):
    """A lease on its way: provisioning since its start."""
    lease = make_lease(start=NOW + HOUR, **wanted)
    with durable():
        lifecycle.move(lifecycle.lock_lease(lease.pk), "provisioning", actor=None, now=NOW + HOUR)
    lease.refresh_from_db()
    return lease


def shrink(node, until, *, now=NOW):
    return capacity.shrink_node(
        node_id=node.pk, available=period(node.available.lower, until), actor=None, now=now
    )


def fail(node, health="unhealthy", *, now=NOW):
    return capacity.set_health(node_id=node.pk, health=health, actor=None, now=now)


def node_of(lease):
    return lease.allocations.get().node


@pytest.fixture(autouse=True)
def _promises_kept():
    yield
    for check in CHECKS:
        outcome = check.outcome()
        assert outcome.violations == 0, outcome


def test_shortening_a_node_moves_a_lease_that_has_not_started():
    make_fleet(nodes=2)
    lease, actor = make_lease(), make_user()
    old = node_of(lease)
    capacity.shrink_node(node_id=old.pk, available=period(old.available.lower, START), actor=actor, now=NOW)
    new = node_of(lease)
    assert new.pk != old.pk
    assert lease.allocations.get().period == make_request().period
    assert not Shortfall.objects.exists()
    old.refresh_from_db()
    assert old.available.upper == START
    assert set(Event.objects.filter(actor=actor).values_list("kind", flat=True)) == {
        "lease.node_exchanged",
        "node.available_changed",
    }


def test_shortening_the_last_node_keeps_what_fits_and_opens_a_shortfall_for_the_rest():
    make_fleet(nodes=1)
    lease = make_lease(hours=48)
    shrink(node_of(lease), START + DAY)
    allocation, shortfall = lease.allocations.get(), Shortfall.objects.get()
    half = HOUR / 2
    assert allocation.period == period(START, START + DAY - half)
    assert allocation.occupied == period(START, START + DAY)
    assert (shortfall.period, shortfall.cause) == (
        period(START + DAY - half, START + 2 * DAY),
        "node_withdrawn",
    )
    assert shortfall.allocation is None
    assert Event.objects.filter(kind="lease.shortfall_opened", subject_id=lease.uid).count() == 1


def test_a_node_that_comes_later_than_promised_leaves_a_shortfall_at_the_start():
    fleet = make_fleet(nodes=1)
    lease = make_lease(hours=48)
    node = fleet.nodes[0]
    available = period(START + DAY, node.available.upper)
    capacity.shrink_node(node_id=node.pk, available=available, actor=None, now=NOW)
    assert lease.allocations.get().period == period(START + DAY, START + 2 * DAY)
    assert Shortfall.objects.get().period == period(START, START + DAY)


def test_a_hold_on_a_shortened_node_lapses_when_there_is_no_equal_one():
    make_fleet(nodes=2)
    lease = make_lease(nodes=2, state="held")
    shrink(lease.allocations.first().node, START)
    lease.refresh_from_db()
    assert (lease.state, lease.allocations.count(), Shortfall.objects.count()) == ("lapsed", 0, 0)


def test_a_running_lease_keeps_its_node_until_its_new_end_and_is_not_moved():
    make_fleet(nodes=2)
    lease = running(hours=72)
    node, end = node_of(lease), NOW + 24 * HOUR
    shrink(node, end, now=NOW + 2 * HOUR)
    allocation, shortfall = lease.allocations.get(), Shortfall.objects.get()
    assert allocation.node == node
    assert allocation.period == period(NOW + HOUR, end - HOUR / 2)
    assert shortfall.period == period(end - HOUR / 2, NOW + 73 * HOUR)


def test_a_node_cannot_end_before_it_was_used():
    make_fleet(nodes=1)
    lease = running(hours=72)
    node = node_of(lease)
    with pytest.raises(InvalidInput) as refused:
        shrink(node, NOW + HOUR, now=NOW + 2 * HOUR)
    assert refused.value.field == "available"
    node.refresh_from_db()
    assert node.available == lease.allocations.get().node_available
    assert not Shortfall.objects.exists()
    with pytest.raises(NotFound):
        capacity.shrink_node(node_id=0, available=node.available, actor=None, now=NOW)


def test_a_longer_period_can_be_booked_at_once():
    fleet = make_fleet(nodes=1, available=period(NOW, START))
    assert not search.fits(make_request(), now=NOW)
    shrink(fleet.nodes[0], START + 30 * DAY)
    assert search.fits(make_request(), now=NOW)


def test_draining_changes_no_promise_and_takes_nothing_new():
    make_fleet(nodes=1)
    lease = make_lease()
    node = fail(node_of(lease), "draining")
    assert node_of(lease) == node
    assert not Shortfall.objects.exists()
    assert not search.fits(make_request(start=START + 10 * DAY), now=NOW)


@pytest.mark.parametrize("health", ["unhealthy", "retired"])
def test_a_failed_node_is_exchanged_before_the_start(health):
    make_fleet(nodes=2)
    lease = make_lease()
    old = fail(node_of(lease), health)
    assert node_of(lease) != old
    assert not Shortfall.objects.exists()


def test_a_failed_node_without_an_equal_one_is_a_shortfall_until_it_works_again():
    make_fleet(nodes=1)
    make_fleet(nodes=1, region="aws/eu-west-1")
    lease = make_lease(region="aws/us-east-1")
    node = fail(node_of(lease))
    shortfall = Shortfall.objects.get()
    assert (shortfall.allocation.node, shortfall.cause) == (node, "node_failed")
    fail(node, "healthy")
    assert not Shortfall.objects.exists()  # it had not begun
    assert node_of(lease) == node


def test_a_retired_node_without_an_equal_one_leaves_a_shortfall_alone():
    make_fleet(nodes=1)
    lease = make_lease()
    fail(node_of(lease), "retired")
    assert lease.allocations.count() == 0
    shortfall = Shortfall.objects.get()
    assert (shortfall.allocation, shortfall.period) == (None, make_request().period)


def test_a_running_lease_on_a_failed_node_waits_for_its_customer():
    make_fleet(nodes=2)
    lease = running(hours=48)
    failed_at, agreed_at, end = NOW + 5 * HOUR, NOW + 6 * HOUR, NOW + 49 * HOUR
    old = fail(node_of(lease), now=failed_at)
    assert node_of(lease) == old
    shortfall = Shortfall.objects.get()
    assert (shortfall.period, shortfall.allocation.node) == (period(failed_at, end), old)

    capacity.replace_missing(shortfall_id=shortfall.pk, actor=None, now=agreed_at)
    before, after = lease.allocations.order_by("pk")
    assert (before.node, before.period) == (old, period(NOW + HOUR, agreed_at))
    assert before.occupied == before.period
    assert after.node != old
    assert after.period == period(agreed_at, end)
    shortfall = Shortfall.objects.get()
    assert (shortfall.period, shortfall.closed_at) == (period(failed_at, agreed_at), agreed_at)
    with pytest.raises(WrongState):
        capacity.replace_missing(shortfall_id=shortfall.pk, actor=None, now=agreed_at)


def test_agreeing_without_an_equal_node_changes_nothing():
    make_fleet(nodes=1)
    lease = running(hours=48)
    fail(node_of(lease), now=NOW + 5 * HOUR)
    shortfall = Shortfall.objects.get()
    with pytest.raises(NotEnoughCapacity):
        capacity.replace_missing(shortfall_id=shortfall.pk, actor=None, now=NOW + 6 * HOUR)
    assert lease.allocations.get().period == period(NOW + HOUR, NOW + 49 * HOUR)
    assert Shortfall.objects.get().closed_at is None


def test_a_running_lease_on_a_retired_node_gets_an_equal_one_at_once():
    make_fleet(nodes=2)
    lease = running(hours=48)
    at = NOW + 5 * HOUR
    old = fail(node_of(lease), "retired", now=at)
    before, after = lease.allocations.order_by("pk")
    assert (before.node, before.period.upper, after.period.lower) == (old, at, at)
    assert not Shortfall.objects.filter(closed_at=None).exists()


def test_a_missing_node_is_filled_when_there_is_one_again():
    make_fleet(nodes=1)
    lease = running(hours=48)
    fail(node_of(lease), "retired", now=NOW + 5 * HOUR)
    assert replacing.fill_missing(now=NOW + 6 * HOUR) == 0
    make_fleet(nodes=1)
    assert replacing.fill_missing(now=NOW + 7 * HOUR) == 1
    assert replacing.fill_missing(now=NOW + 7 * HOUR) == 0
    assert lease.allocations.order_by("pk").last().period == period(NOW + 7 * HOUR, NOW + 49 * HOUR)
    assert Shortfall.objects.get().period == period(NOW + 5 * HOUR, NOW + 7 * HOUR)


def test_a_running_lease_is_not_moved_before_its_shortfall_begins():
    make_fleet(nodes=2)
    lease = running(hours=72)
    shrink(node_of(lease), NOW + 24 * HOUR, now=NOW + 2 * HOUR)
    assert replacing.fill_missing(now=NOW + 3 * HOUR) == 0
    assert replacing.fill_missing(now=NOW + 24 * HOUR) == 1
    assert lease.allocations.count() == 2


def test_an_exchange_stays_on_the_fabric():
    fabric = make_fleet(nodes=3, nodes_per_fabric=3).fabrics[0]
    make_fleet(nodes=1, nodes_per_fabric=1)
    lease = make_lease(nodes=2, one_fabric=True)
    first, second = lease.allocations.order_by("pk")
    fail(first.node)
    assert {row.node.fabric for row in lease.allocations.all()} == {fabric}
    assert not Shortfall.objects.exists()
    fail(second.node)  # no third node is left on this fabric, and another one will not do
    assert {row.node.fabric for row in lease.allocations.all()} == {fabric}
    assert Shortfall.objects.get().allocation == second


def test_maintenance_keeps_a_node_free_of_leases_and_ends():
    fleet = make_fleet(nodes=1)
    node, when = fleet.nodes[0], period(START + HOUR, START + 3 * HOUR)
    maintenance = capacity.allocate_maintenance(
        node_id=node.pk, period=when, note="GPU 3", actor=None, now=NOW
    )
    assert (maintenance.purpose, maintenance.occupied) == ("maintenance", when)
    assert not search.fits(make_request(), now=NOW)
    with pytest.raises(Conflict, match="maintenance"):
        capacity.allocate_maintenance(node_id=node.pk, period=when, note="", actor=None, now=NOW)
    capacity.release_maintenance(allocation_id=maintenance.pk, actor=None, now=START + 2 * HOUR)
    maintenance.refresh_from_db()
    assert maintenance.period.upper == START + 2 * HOUR
    assert search.fits(make_request(start=START + 2 * HOUR), now=START + 2 * HOUR)
    with pytest.raises(Conflict):
        capacity.release_maintenance(allocation_id=maintenance.pk, actor=None, now=START + 2 * HOUR)


def test_maintenance_waits_for_promises_but_not_for_lapsed_holds():
    make_fleet(nodes=1)
    lease = make_lease(state="held")
    node, when = node_of(lease), make_request().period
    with pytest.raises(Conflict, match=lease.uid):
        capacity.allocate_maintenance(node_id=node.pk, period=when, note="", actor=None, now=NOW)
    capacity.allocate_maintenance(node_id=node.pk, period=when, note="", actor=None, now=NOW + HOUR)
    lease.refresh_from_db()
    assert lease.state == Lease.State.LAPSED


@pytest.mark.parametrize(
    "when", [(NOW - 2 * DAY, NOW - DAY), (NOW + 300 * DAY, NOW + 400 * DAY)], ids=["past", "outside"]
)
def test_maintenance_outside_of_the_nodes_time_is_refused(when):
    fleet = make_fleet(nodes=1)
    with pytest.raises(InvalidInput) as refused:
        capacity.allocate_maintenance(
            node_id=fleet.nodes[0].pk, period=period(*when), note="", actor=None, now=NOW
        )
    assert refused.value.field == "period"
    assert not Allocation.objects.exists()


def test_shortening_cuts_maintenance():
    fleet = make_fleet(nodes=1)
    node = fleet.nodes[0]
    for start in (START, START + 5 * DAY):
        capacity.allocate_maintenance(
            node_id=node.pk, period=period(start, start + DAY), note="", actor=None, now=NOW
        )
    shrink(node, START + DAY / 2)
    assert [row.period for row in Allocation.objects.all()] == [period(START, START + DAY / 2)]


def test_search_finds_nothing_for_another_gpu():
    make_fleet(nodes=1)
    assert search.free_nodes(gpu_model=H100, gpus_per_node=1, period=make_request().period, now=NOW) == 0
