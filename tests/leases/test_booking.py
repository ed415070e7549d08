"""From a request to nodes, and back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leases import booking, lifecycle, search
from leases.errors import HoldLapsed, NotEnoughCapacity, WrongState
from leases.models import Lease
from portal.accounts.models import Event, Outbox
from portal.common.errors import InvalidInput
from portal.common.periods import period
from portal.common.transactions import durable
from tests.factories import (
    NOW,
    make_fleet,
    make_lease,
    make_organization,
    make_project,
    make_request,
    make_ssh_key,
    make_user,
)

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def hold(request=None, *, now=NOW, minutes=15, organization=None, **fields):
    return booking.hold(
        request=request or make_request(),
        organization=organization or make_organization(),
        name="training",
        actor=None,
        now=now,
        expires_at=now + timedelta(minutes=minutes),
        **fields,
    )


def free(request=None, *, now=NOW):
    request = request or make_request()
    return search.free_nodes(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        period=request.period,
        region=request.region,
        now=now,
    )


def test_a_hold_takes_nodes_for_the_period_and_the_turnaround():
    fleet = make_fleet(nodes=3, turnaround=timedelta(minutes=45))
    actor = make_user()
    organization = make_organization(owner=actor)
    request = make_request(nodes=2, hours=48)
    lease = booking.hold(
        request=request,
        organization=organization,
        project=make_project(organization=organization),
        name=" training ",
        actor=actor,
        now=NOW,
        expires_at=NOW + timedelta(minutes=15),
        ssh_keys=[make_ssh_key(organization=organization)],
        allowed_addresses=["203.0.113.7", "198.51.100.9/24", "203.0.113.7/32"],
        image="ami-1",
    )
    lease.refresh_from_db()
    assert (lease.state, lease.name, lease.deadline) == ("held", "training", NOW + timedelta(minutes=15))
    assert lease.allowed_addresses == ["203.0.113.7/32", "198.51.100.0/24"]
    assert lease.ssh_keys.count() == 1
    term = lease.terms.get()
    assert (term.nodes, term.period, term.gpu_model.slug, term.region) == (
        2,
        request.period,
        "h100-sxm5-80gb",
        None,
    )
    allocations = list(lease.allocations.all())
    assert len({allocation.node_id for allocation in allocations}) == 2
    for allocation in allocations:
        assert allocation.period == request.period
        assert allocation.occupied == period(request.start, request.end + timedelta(minutes=45))
        assert allocation.node_available == fleet.nodes[0].available
    event = Event.objects.get(subject_id=lease.uid)
    assert (event.kind, event.actor, event.after["nodes"]) == ("lease.held", actor, 2)
    assert Outbox.objects.filter(event=event).exists()
    assert free(request) == 1


def test_a_request_that_does_not_fit_changes_nothing_and_says_what_does():
    make_fleet(nodes=2)
    with pytest.raises(NotEnoughCapacity) as refused:
        hold(make_request(nodes=3))
    assert refused.value.code == "not-enough-capacity"
    assert {"fewer"} <= {alternative["kind"] for alternative in refused.value.extra["alternatives"]}
    assert not Lease.objects.exists()
    assert not Event.objects.exists()


def test_back_to_back_leases_need_the_turnaround_between_them():
    make_fleet(nodes=1)
    first = make_lease(hours=24)
    end = first.terms.get().period.upper
    with pytest.raises(NotEnoughCapacity):
        make_lease(start=end, hours=24)
    make_lease(start=end + timedelta(minutes=30), hours=24)


def test_a_lapsed_hold_blocks_nobody():
    make_fleet(nodes=2)
    old = make_lease(state="held", nodes=2)
    later = NOW + timedelta(minutes=16)
    assert free() == 0
    assert free(now=later) == 2
    new = hold(make_request(nodes=1), now=later)
    old.refresh_from_db()
    assert (old.state, old.allocations.count(), old.deadline) == ("lapsed", 0, None)
    assert new.allocations.count() == 1
    assert Event.objects.filter(subject_id=old.uid, kind="lease.lapsed").count() == 1


def test_an_unpaid_lease_lapses_at_its_deadline_too():
    make_fleet(nodes=1)
    unpaid = make_lease(state="awaiting")
    assert lifecycle.lapse_holds(now=NOW + 23 * HOUR) == 0
    assert lifecycle.lapse_holds(now=NOW + 24 * HOUR) == 1
    assert lifecycle.lapse_holds(now=NOW + 24 * HOUR) == 0
    unpaid.refresh_from_db()
    assert (unpaid.state, unpaid.allocations.count()) == ("lapsed", 0)


def test_a_lapsed_hold_cannot_be_confirmed():
    make_fleet(nodes=1)
    lease = hold()
    late = NOW + timedelta(minutes=15)
    with durable():
        locked = lifecycle.lock_lease(lease.pk)
        with pytest.raises(HoldLapsed) as refused:
            booking.confirm(locked, to=Lease.State.SCHEDULED, actor=None, now=late)
    assert refused.value.code == "quote-expired"
    lease.refresh_from_db()
    assert (lease.state, lease.allocations.count()) == ("held", 1)


def test_a_confirmed_lease_cannot_be_confirmed_again():
    make_fleet(nodes=1)
    lease = make_lease(state="scheduled")
    with durable(), pytest.raises(WrongState):
        booking.confirm(lifecycle.lock_lease(lease.pk), to="scheduled", actor=None, now=NOW)


def test_cancelling_before_the_start_frees_the_nodes():
    make_fleet(nodes=1)
    lease = make_lease(state="scheduled")
    assert free() == 0
    with durable():
        lifecycle.cancel(lifecycle.lock_lease(lease.pk), actor=None, now=NOW)
    lease.refresh_from_db()
    assert (lease.state, lease.allocations.count(), free()) == ("cancelled", 0, 1)


@pytest.mark.parametrize("health", ["unhealthy", "draining", "retired"])
def test_a_node_that_is_not_healthy_is_not_promised(health):
    make_fleet(nodes=2, health=health)
    assert free() == 0
    with pytest.raises(NotEnoughCapacity) as refused:
        hold()
    assert refused.value.extra["alternatives"] == []


def test_a_lease_stays_within_one_region():
    make_fleet(nodes=1, region="aws/us-east-1")
    make_fleet(nodes=2, region="aws/eu-west-1")
    assert free() == 2
    with pytest.raises(NotEnoughCapacity):
        hold(make_request(nodes=3))
    lease = hold(make_request(nodes=2))
    assert {allocation.node.region.code for allocation in lease.allocations.all()} == {"eu-west-1"}
    with pytest.raises(NotEnoughCapacity) as refused:
        hold(make_request(nodes=1, region="aws/eu-west-1"))
    assert "other_region" in {alternative["kind"] for alternative in refused.value.extra["alternatives"]}


def test_one_fabric_is_kept_where_asked_and_preferred_otherwise():
    fleet = make_fleet(nodes=7, nodes_per_fabric=3)  # 3 + 3 + 1
    lease = hold(make_request(nodes=3))
    assert len({allocation.node.fabric_id for allocation in lease.allocations.all()}) == 1
    with pytest.raises(NotEnoughCapacity):
        hold(make_request(nodes=4, one_fabric=True))
    mixed = hold(make_request(nodes=4))
    assert len({allocation.node.fabric_id for allocation in mixed.allocations.all()}) == 2
    assert len(fleet.fabrics) == 3


def test_the_pick_leaves_the_longest_gaps_whole():
    fleet = make_fleet(nodes=3)
    start = NOW + timedelta(days=1)
    # The first two get other leases in one week, so that a day before leaves them a short gap.
    blocked = make_lease(nodes=2, start=start + timedelta(days=7), hours=24)
    lease = hold(make_request(start=start))
    assert lease.allocations.get().node_id in set(blocked.allocations.values_list("node_id", flat=True))
    assert len(fleet.nodes) == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": NOW - HOUR, "end": NOW + HOUR}, "start"),
        ({"start": NOW + 2 * HOUR, "end": NOW + HOUR}, "end"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": True}, "nodes"),
        ({"gpu_model": "nothing"}, "gpu_model"),
        ({"gpus_per_node": 3}, "gpus_per_node"),
        ({"region": "mars-1"}, "region"),
        ({"start": (NOW + HOUR).replace(tzinfo=None), "end": NOW + 2 * HOUR}, "start"),
        ({"start": NOW + timedelta(days=6 * 366)}, "start"),
        ({"end": NOW + timedelta(days=6 * 366)}, "end"),
    ],
)
def test_bad_input_names_the_field_and_changes_nothing(changes, field):
    make_fleet(nodes=1)
    with pytest.raises(InvalidInput) as refused:
        hold(make_request(**changes))
    assert refused.value.field == field
    assert not Lease.objects.exists()


@pytest.mark.parametrize(
    ("fields", "field"), [({"name": " "}, "name"), ({"allowed_addresses": ["everyone"]}, "allowed_addresses")]
)
def test_a_bad_lease_field_is_refused(fields, field):
    make_fleet(nodes=1)
    with pytest.raises(InvalidInput) as refused:
        booking.hold(
            request=make_request(),
            organization=make_organization(),
            actor=None,
            now=NOW,
            expires_at=NOW + HOUR,
            **{"name": "training", **fields},
        )
    assert refused.value.field == field
    assert not Lease.objects.exists()


def test_keys_and_projects_of_another_organization_are_refused():
    make_fleet(nodes=1)
    other = make_organization()
    with pytest.raises(InvalidInput, match="SSH keys"):
        hold(ssh_keys=[make_ssh_key(organization=other)])
    with pytest.raises(InvalidInput, match="project"):
        hold(project=make_project(organization=other))


def test_a_region_code_that_two_providers_use_needs_the_provider():
    make_fleet(nodes=1, region="aws/one")
    fleet = make_fleet(nodes=1, region="other/one")
    with pytest.raises(InvalidInput) as refused:
        hold(make_request(region="one"))
    assert refused.value.field == "region"
    assert not Lease.objects.exists()
    lease = hold(make_request(region="other/one"))
    assert lease.terms.get().region == fleet.region
    assert lease.allocations.get().node == fleet.nodes[0]
