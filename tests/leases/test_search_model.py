"""Search against a model in plain Python that tries every half hour on every node."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.models import Fabric, Node
from leases import booking, search
from leases.models import Allocation, Lease
from portal.common.periods import period
from tests.factories import H100, NOW, make_fleet, make_organization, make_request, make_zone
from tests.leases.examples import examples, rolled_back

pytestmark = pytest.mark.django_db

STEP = timedelta(minutes=30)
HORIZON = 48  # half hours: little time, so that ends often meet
HELD, LAPSED, MAINTENANCE = "scheduled", "lapsed hold", "maintenance"


@dataclass
class ModelNode:
    """A node as the model sees it; times in half hours from NOW."""

    region: str
    fabric: int | None
    start: int
    end: int
    turnaround: int
    healthy: bool
    taken: list[tuple[int, int, str]] = field(default_factory=list)

    def serves(self, start: int, length: int) -> bool:
        end = start + length + self.turnaround
        return (
            self.healthy
            and self.start <= start
            and end <= self.end
            and all(end <= a or b <= start for a, b, kind in self.taken if kind != LAPSED)
        )


@st.composite
def model_nodes(draw):
    start = draw(st.integers(-12, 12))
    node = ModelNode(
        region=draw(st.sampled_from(["us-east-1", "eu-west-1"])),
        fabric=draw(st.sampled_from([None, 1, 2])),
        start=start,
        end=start + draw(st.integers(10, HORIZON)),
        turnaround=draw(st.integers(0, 3)),
        healthy=draw(st.integers(0, 9)) > 0,
    )
    at = node.start
    for gap, length, kind in draw(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(1, 8), st.sampled_from([HELD, LAPSED, MAINTENANCE])),
            max_size=4,
        )
    ):
        at += gap
        if at + length <= node.end:
            node.taken.append((at, at + length, kind))
            at += length
    return node


fleets = st.lists(model_nodes(), min_size=1, max_size=6)


def at(half_hours: int) -> datetime:
    return NOW + half_hours * STEP


def write(fleet: list[ModelNode]) -> None:
    """Write the model's nodes and what takes them."""
    first = make_fleet(nodes=1).nodes[0]
    organization = make_organization()
    zones = {code: make_zone(region=f"aws/{code}") for code in ("us-east-1", "eu-west-1")}
    fabrics = {
        (code, number): Fabric.objects.create(zone=zone, name=f"{code}-{number}")
        for code, zone in zones.items()
        for number in (1, 2)
    }
    for number, node in enumerate(fleet):
        row = Node.objects.create(
            name=f"node-{number}",
            account=first.account,
            commitment=first.commitment,
            instance_type=first.instance_type,
            region=zones[node.region].region,
            zone=zones[node.region],
            fabric=fabrics.get((node.region, node.fabric)),
            available=period(at(node.start), at(node.end)),
            turnaround=node.turnaround * STEP,
            health="healthy" if node.healthy else "unhealthy",
        )
        for start, end, kind in node.taken:
            lease = None
            if kind != MAINTENANCE:
                lease = Lease.objects.create(
                    organization=organization,
                    name=kind,
                    state="held" if kind == LAPSED else kind,
                    deadline=NOW - STEP if kind == LAPSED else None,
                )
            when = period(at(start), at(end))
            Allocation.objects.create(
                node=row,
                node_available=row.available,
                period=when,
                occupied=when,
                lease=lease,
                purpose="lease" if lease else "maintenance",
            )
    Node.objects.filter(pk=first.pk).update(health="retired")


def groups(fleet: list[ModelNode], *, one_fabric: bool) -> dict[tuple[object, ...], list[ModelNode]]:
    """Return the nodes that one lease can have together."""
    found = defaultdict(list)
    for number, node in enumerate(fleet):
        alone = one_fabric and node.fabric is None
        found[(node.region, node.fabric if one_fabric else None, number if alone else None)].append(node)
    return found


def most_free(fleet: list[ModelNode], start: int, length: int, *, one_fabric: bool = False) -> int:
    return max(
        sum(node.serves(start, length) for node in together)
        for together in groups(fleet, one_fabric=one_fabric).values()
    )


@examples(60)
@given(fleet=fleets, start=st.integers(0, 24), length=st.integers(1, 12), one_fabric=st.booleans())
def test_free_nodes_is_what_the_model_counts(fleet, start, length, one_fabric):
    with rolled_back():
        write(fleet)
        found = search.free_nodes(
            gpu_model=H100,
            gpus_per_node=8,
            period=period(at(start), at(start + length)),
            one_fabric=one_fabric,
            now=NOW,
        )
    assert found == most_free(fleet, start, length, one_fabric=one_fabric)


@examples(60)
@given(
    fleet=fleets,
    nodes=st.integers(1, 3),
    length=st.integers(1, 16),
    earliest=st.integers(0, 16),
    span=st.integers(0, 48),
    one_fabric=st.booleans(),
)
def test_every_start_is_found_and_no_other(fleet, nodes, length, earliest, span, one_fabric):
    with rolled_back():
        write(fleet)
        slots = search.find_starts(
            gpu_model=H100,
            gpus_per_node=8,
            nodes=nodes,
            hours=length / 2,
            earliest=at(earliest),
            latest=at(earliest + span),
            one_fabric=one_fabric,
            now=NOW,
        )
    assert [slot.start for slot in slots] == sorted(slot.start for slot in slots)
    by_fabric = one_fabric and nodes > 1
    for start in range(earliest, earliest + span + 1):
        for region in ("us-east-1", "eu-west-1"):
            here = [node for node in fleet if node.region == region]
            free = most_free(here, start, length, one_fabric=by_fabric) if here else 0
            open_here = [
                slot
                for slot in slots
                if slot.region == f"aws/{region}" and slot.start <= at(start) <= slot.latest_start
            ]
            assert len(open_here) == (free >= nodes), (start, region)
            if open_here and open_here[0].start == at(start):
                assert open_here[0].nodes_free == free
                assert open_here[0].end == at(start + length)


@examples(60)
@given(fleet=fleets, first=st.integers(-60, 40), days=st.integers(1, 4))
def test_the_calendar_is_what_the_model_counts(fleet, first, days):
    with rolled_back():
        write(fleet)
        lines = search.calendar(days=days, start=at(first), now=NOW)
    found = {line.region: [day.nodes_free for day in line.days] for line in lines}
    for region in ("us-east-1", "eu-west-1"):
        expected = []
        for day in range(days):
            start, end = first + 48 * day, first + 48 * (day + 1)
            begin = max(start, 0)  # of a day that has begun, the rest counts
            here = [node for node in fleet if node.region == region]
            expected.append(sum(node.serves(begin, end - begin) for node in here) if end > 0 else 0)
        assert found.get(f"aws/{region}", [0] * days) == expected


@examples(60)
@given(
    fleet=fleets,
    start=st.integers(1, 30),
    length=st.integers(2, 16),
    nodes=st.integers(1, 4),
    region=st.sampled_from([None, "aws/us-east-1", "eu-west-1"]),
    one_fabric=st.booleans(),
)
def test_each_near_miss_can_really_be_booked(fleet, start, length, nodes, region, one_fabric):
    request = make_request(
        nodes=nodes, start=at(start), end=at(start + length), region=region, one_fabric=one_fabric
    )
    with rolled_back():
        write(fleet)
        make_fleet(nodes=2, gpu_model="a100-sxm4-80gb")
        organization = make_organization()
        for alternative in search.near_misses(request, NOW):
            assert alternative.request() != request
            with rolled_back():
                lease = booking.hold(
                    request=alternative.request(),
                    organization=organization,
                    name=alternative.kind,
                    actor=None,
                    now=NOW,
                    expires_at=NOW + STEP,
                )
                assert lease.allocations.count() == alternative.nodes
