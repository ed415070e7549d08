"""Whatever customers and staff do, in whatever order, C1 to C6 hold after every step."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.models import Node
from leases import booking, capacity, lifecycle, replacing
from leases.audit import CHECKS
from leases.models import Allocation, Lease, Shortfall
from portal.common.errors import DomainError
from portal.common.periods import period
from portal.common.transactions import durable
from tests.factories import NOW, make_fleet, make_organization, make_request
from tests.leases.examples import examples, rolled_back

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
which = st.integers(0, 9)

# One step: what is done, with numbers that choose among what there is. Times are hours; little of
# it, on few nodes, so that steps often meet. Booking comes often, else nothing happens to anybody.
wanted = (st.integers(1, 3), st.integers(0, 12), st.integers(2, 24), st.booleans())
steps = st.one_of(
    st.tuples(st.just("book"), *wanted),
    st.tuples(st.just("book"), *wanted),
    st.tuples(st.just("book"), *wanted),
    st.tuples(st.just("hold"), *wanted),
    st.tuples(st.just("await"), which),
    st.tuples(st.just("cancel"), which),
    st.tuples(st.just("pass"), st.integers(1, 8)),
    st.tuples(st.just("lapse")),
    st.tuples(st.just("start")),
    st.tuples(st.just("end"), which, st.integers(0, 40)),
    st.tuples(st.just("begin"), which, st.integers(0, 20)),
    st.tuples(st.just("health"), which, st.sampled_from(Node.Health.values)),
    st.tuples(st.just("health"), which, st.sampled_from(["healthy", "unhealthy", "retired"])),
    st.tuples(st.just("maintain"), which, st.integers(0, 20), st.integers(1, 10)),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("replace"), which),
    st.tuples(st.just("fill")),
)


class World:
    """What has happened so far, and the time."""

    def __init__(self) -> None:
        self.now = NOW
        self.organization = make_organization()
        self.nodes = [
            node.pk for node in make_fleet(nodes=6, nodes_per_fabric=3, available=self.window(-24, 72)).nodes
        ]
        self.do_book(2, 0, 20, True)
        self.do_start()
        self.do_book(1, 2, 20, False)
        self.do_book(2, 4, 20, True)

    def window(self, start: int, end: int):
        return period(self.now + start * HOUR, self.now + end * HOUR)

    def node(self, number: int) -> int:
        """Return a node, most often one that somebody counts on."""
        live = Allocation.objects.filter(lease__state__in=lifecycle.LIVE, period__endswith__gt=self.now)
        taken = sorted(set(live.values_list("node_id", flat=True)))
        nodes = taken if taken and number else self.nodes
        return nodes[number % len(nodes)]

    def lease(self, number: int, *states: str) -> int | None:
        pks = list(Lease.objects.filter(state__in=states).order_by("pk").values_list("pk", flat=True))
        return pks[number % len(pks)] if pks else None

    def do(self, step: tuple) -> None:
        name, *arguments = step
        try:
            getattr(self, f"do_{name}")(*arguments)
        except DomainError:  # a refusal is an answer; what matters is what it leaves behind
            pass

    def do_hold(self, nodes: int, start: int, hours: int, one_fabric: bool) -> None:
        begin = self.now + start * HOUR
        booking.hold(
            request=make_request(nodes=nodes, start=begin, hours=hours, one_fabric=one_fabric),
            organization=self.organization,
            name="lease",
            actor=None,
            now=self.now,
            expires_at=self.now + 3 * HOUR,
        )

    def do_book(self, nodes: int, start: int, hours: int, one_fabric: bool) -> None:
        self.do_hold(nodes, start, hours, one_fabric)
        self.confirm(-1, "scheduled")

    def confirm(self, number: int, to: str) -> None:
        pk = self.lease(number, "held", "awaiting")
        if pk is not None:
            with durable():
                lease = lifecycle.lock_lease(pk)
                deadline = self.now + 10 * HOUR if to == "awaiting" else None
                booking.confirm(lease, to=to, deadline=deadline, actor=None, now=self.now)

    def do_await(self, number: int) -> None:
        self.confirm(number, "awaiting")

    def do_cancel(self, number: int) -> None:
        pk = self.lease(number, *Lease.State.values)
        if pk is not None:
            with durable():
                lifecycle.cancel(lifecycle.lock_lease(pk), actor=None, now=self.now)

    def do_pass(self, hours: int) -> None:
        self.now += hours * HOUR

    def do_lapse(self) -> None:
        lifecycle.lapse_holds(now=self.now)

    def do_start(self) -> None:
        """What provisioning does at a start and at an end, as far as promises see it."""
        for lease in Lease.objects.filter(state__in=["scheduled", "provisioning"]):
            term = lease.terms.get().period
            with durable():
                locked = lifecycle.lock_lease(lease.pk)
                if locked.state == "scheduled" and term.lower <= self.now < term.upper:
                    lifecycle.move(locked, "provisioning", actor=None, now=self.now)
                elif term.upper <= self.now:
                    to = "failed" if locked.state == "scheduled" else "ending"
                    lifecycle.move(locked, to, actor=None, now=self.now)

    def do_end(self, number: int, until: int) -> None:
        pk = self.node(number)
        start = Node.objects.get(pk=pk).available.lower
        end = max(start + HOUR, NOW + until * HOUR)
        capacity.shrink_node(node_id=pk, available=period(start, end), actor=None, now=self.now)

    def do_begin(self, number: int, since: int) -> None:
        pk = self.node(number)
        end = Node.objects.get(pk=pk).available.upper
        start = min(end - HOUR, NOW + since * HOUR)
        capacity.shrink_node(node_id=pk, available=period(start, end), actor=None, now=self.now)

    def do_health(self, number: int, health: str) -> None:
        capacity.set_health(node_id=self.node(number), health=health, actor=None, now=self.now)

    def do_maintain(self, number: int, start: int, hours: int) -> None:
        capacity.allocate_maintenance(
            node_id=self.node(number),
            period=self.window(start, start + hours),
            note="",
            actor=None,
            now=self.now,
        )

    def do_release(self, number: int) -> None:
        pks = list(Allocation.objects.filter(lease=None).values_list("pk", flat=True))
        if pks:
            pk = pks[number % len(pks)]
            capacity.release_maintenance(allocation_id=pk, actor=None, now=self.now)

    def do_replace(self, number: int) -> None:
        pks = list(Shortfall.objects.filter(closed_at=None).order_by("pk").values_list("pk", flat=True))
        if pks:
            capacity.replace_missing(shortfall_id=pks[number % len(pks)], actor=None, now=self.now)

    def do_fill(self) -> None:
        replacing.fill_missing(now=self.now)


@examples(40)
@given(history=st.lists(steps, min_size=10, max_size=16))
def test_promises_hold_after_every_step(history):
    with rolled_back():
        world = World()
        for step in history:
            world.do(step)
            for check in CHECKS:
                outcome = check.outcome()
                assert outcome.violations == 0, (step, outcome)
        # Nothing is blocked by what has lapsed, and every lease that lapsed has let go of its nodes.
        lifecycle.lapse_holds(now=world.now)
        assert not Allocation.objects.filter(lease__state__in=["lapsed", "cancelled"]).exists()
