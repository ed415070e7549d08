"""A lease with software never gets a node without its image: when it is booked, moved or made whole."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import ProtectedError
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from inventory.models import InstanceType, Node, SoftwareStack, StackImage
from inventory.software import image_for
from leases import booking, capacity, lifecycle, replacing, search
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease, Shortfall
from leases.software import nodes_without_image, offered_stacks
from portal.common.errors import DomainError, InvalidInput
from portal.common.periods import period
from portal.common.transactions import durable
from tests.factories import (
    H100,
    NOW,
    make_fleet,
    make_gpu_model,
    make_image,
    make_instance_type,
    make_lease,
    make_organization,
    make_request,
    make_stack,
)
from tests.leases.examples import examples, rolled_back

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EAST, WEST, LAMBDA = "aws/us-east-1", "aws/us-west-2", "lambda/us-east-1"
ASKED = {"gpu_model": H100, "gpus_per_node": 8}
DAY_ONE = period(NOW + DAY, NOW + 2 * DAY)


def free(stack: str | None = None, **wanted) -> int:
    return search.free_nodes(**ASKED, period=DAY_ONE, now=NOW, stack=stack, **wanted)


def starts(stack: str | None = None) -> dict[str, int]:
    slots = search.find_starts(
        **ASKED, nodes=1, hours=24, earliest=NOW + DAY, latest=NOW + 2 * DAY, now=NOW, stack=stack
    )
    return {slot.region: slot.nodes_free for slot in slots}


def start(lease: Lease, now=NOW + DAY) -> None:
    with durable():
        lifecycle.move(lifecycle.lock_lease(lease.pk), "provisioning", actor=None, now=now)


def test_search_counts_only_nodes_that_have_the_image():
    for region, nodes in ((EAST, 2), (WEST, 3), (LAMBDA, 5)):
        make_fleet(nodes=nodes, region=region)
    make_stack(images={"aws": "everywhere", WEST: "west"})
    assert (free(), free("pytorch"), free("pytorch", region=LAMBDA)) == (5, 3, 0)
    assert starts() == {EAST: 2, WEST: 3, LAMBDA: 5}
    assert starts("pytorch") == {EAST: 2, WEST: 3}
    rows = search.calendar(days=2, start=NOW, now=NOW, stack="pytorch")
    assert {row.region for row in rows} == {EAST, WEST}
    StackImage.objects.filter(reference="west").update(enabled=False)
    assert (free("pytorch"), starts("pytorch")) == (2, {EAST: 2})
    assert free("unheard-of") == 0


def test_search_is_one_statement_with_software_too():
    make_fleet(nodes=2)
    make_stack()
    for question in (lambda: free("pytorch"), lambda: starts("pytorch")):
        with CaptureQueriesContext(connection) as captured:
            question()
        assert len(captured) == 1


def test_without_software_its_tables_are_not_asked():
    make_fleet(nodes=2)
    with CaptureQueriesContext(connection) as captured:
        free()
        starts()
        make_lease()
    assert not any("stackimage" in query["sql"] for query in captured)


def test_booking_takes_a_node_with_the_image():
    make_fleet(nodes=3, region=EAST)
    west = make_fleet(nodes=1, region=WEST)
    stack = make_stack(images={WEST: "ami-west"})
    lease = make_lease(stack="pytorch")
    assert lease.allocations.get().node == west.nodes[0]
    assert Lease.objects.get().stack == stack


def test_what_has_no_image_is_refused_with_alternatives_that_have():
    make_fleet(nodes=4, region=EAST)
    make_fleet(nodes=1, region=WEST)
    make_stack(images={"aws": "everywhere", EAST: "east"})
    StackImage.objects.filter(reference="east").update(enabled=False)
    with pytest.raises(NotEnoughCapacity) as refused:
        make_lease(stack="pytorch", nodes=2, region=None)
    near = refused.value.extra["alternatives"]
    assert {alternative["kind"] for alternative in near} == {"fewer", "longer"}
    assert {alternative["stack"] for alternative in near} == {"pytorch"}
    assert not Allocation.objects.exists() and not Lease.objects.exists()

    with pytest.raises(NotEnoughCapacity) as refused:
        make_lease(stack="pytorch", region=EAST)
    assert [(near["kind"], near["region"]) for near in refused.value.extra["alternatives"]] == [
        ("other_region", WEST)
    ]
    for alternative in search.near_misses(make_request(stack="pytorch", region=EAST), NOW):
        assert search.fits(alternative.request(), now=NOW)


def test_other_software_that_fits_the_very_same_is_offered_instead():
    make_fleet(nodes=3, region=EAST, nodes_per_fabric=2)
    make_fleet(nodes=1, region=WEST)
    for position, (slug, place) in enumerate(
        (
            ("asked", LAMBDA),
            ("both", "aws"),
            ("west", WEST),
            ("east", EAST),
            ("off", "aws"),
            ("arm", "aws//arm64"),
        )
    ):
        make_stack(slug=slug, position=position, images={place: "ami"}, enabled=slug != "off")

    def instead(**wanted) -> list[str | None]:
        near = search.near_misses(make_request(stack="asked", **wanted), NOW)
        assert {found.stack for found in near if found.kind != "other_stack"} <= {"asked"}
        for found in near:
            assert search.fits(found.request(), now=NOW)
        return [found.stack for found in near if found.kind == "other_stack"]

    assert instead() == ["both", "west", "east"]
    assert instead(nodes=3) == ["both", "east"]
    assert instead(nodes=3, one_fabric=True) == []
    assert instead(nodes=2, one_fabric=True) == ["both", "east"]
    assert instead(region=WEST) == ["both", "west"]
    assert instead(nodes=4) == []  # a lease never spreads over two regions
    assert "other_stack" not in {found.kind for found in search.near_misses(make_request(nodes=9), NOW)}


@pytest.mark.parametrize("slug", ["unheard-of", "withdrawn", "x" * 200, "'; --"])
def test_software_that_is_not_offered_is_named(slug):
    make_fleet(nodes=1)
    make_stack(slug="withdrawn", enabled=False)
    request = make_request(stack=slug)
    with pytest.raises(InvalidInput) as refused:
        request.clean(NOW)
    assert refused.value.field == "stack"
    with pytest.raises(InvalidInput) as refused:
        make_lease(stack=slug)
    assert refused.value.field == "stack"
    assert not Lease.objects.exists() and not Allocation.objects.exists()


def test_an_arm_node_needs_an_arm_image():
    make_gpu_model(slug=H100)
    arm = make_instance_type(name="arm-type")
    InstanceType.objects.filter(pk=arm.pk).update(architecture="arm64")
    make_fleet(nodes=2, instance_type=arm)
    stack = make_stack()
    assert (free(), free("pytorch")) == (2, 0)
    make_image(stack=stack, architecture="arm64", reference="ami-arm")
    assert free("pytorch") == 2


def test_a_lapsed_hold_where_there_is_no_image_is_left_alone():
    make_fleet(nodes=1, region=EAST)
    make_fleet(nodes=1, region=WEST)
    make_stack(images={WEST: "ami-west"})
    here = make_lease(region=EAST, state="held")
    make_lease(region=WEST, state="held")
    later = NOW + 2 * HOUR
    lease = booking.hold(
        request=make_request(stack="pytorch"),
        organization=make_organization(),
        name="training",
        actor=None,
        now=later,
        expires_at=later + HOUR,
    )
    assert lease.allocations.get().node.region.code == "us-west-2"
    here.refresh_from_db()
    assert here.state == "held"


def two_types() -> tuple[InstanceType, InstanceType]:
    """Two types with the same GPUs in one region; the stack has an image for the first only."""
    plain, arm = make_instance_type(), make_instance_type(name="arm-type")
    InstanceType.objects.filter(pk=arm.pk).update(architecture="arm64")
    arm.refresh_from_db()
    make_stack()
    return plain, arm


@pytest.mark.parametrize("how", ["shrink", "unhealthy", "retired"])
def test_a_lease_moves_only_to_a_node_with_its_image(how):
    plain, arm = two_types()
    make_fleet(nodes=1, instance_type=plain)
    make_fleet(nodes=3, instance_type=arm)
    lease, other = make_lease(stack="pytorch"), make_lease()
    for node in (lease.allocations.get().node, other.allocations.get().node):
        if how == "shrink":
            capacity.shrink_node(
                node_id=node.pk, available=period(node.available.lower, NOW + DAY), actor=None, now=NOW
            )
        else:
            capacity.set_health(node_id=node.pk, health=how, actor=None, now=NOW)
    assert Shortfall.objects.get(closed_at=None).lease == lease  # the other one has moved
    assert other.allocations.get().node.instance_type == arm
    assert replacing.fill_missing(now=NOW) == 0

    make_fleet(nodes=1, instance_type=plain)
    if how == "unhealthy":
        replacing.replace_missing(shortfall_id=Shortfall.objects.get().pk, actor=None, now=NOW)
    else:
        assert replacing.fill_missing(now=NOW) == 1
    assert lease.allocations.get(period=DAY_ONE).node.instance_type == plain


def test_a_running_lease_is_not_given_a_node_without_its_image():
    plain, arm = two_types()
    make_fleet(nodes=1, instance_type=plain)
    make_fleet(nodes=1, instance_type=arm)
    lease = make_lease(stack="pytorch")
    start(lease)
    now = NOW + DAY + HOUR
    capacity.set_health(node_id=lease.allocations.get().node_id, health="unhealthy", actor=None, now=now)
    shortfall = Shortfall.objects.get()
    with pytest.raises(NotEnoughCapacity):
        replacing.replace_missing(shortfall_id=shortfall.pk, actor=None, now=now)
    assert Allocation.objects.filter(node__instance_type=arm).count() == 0
    shortfall.refresh_from_db()
    assert shortfall.closed_at is None


def test_a_promise_outlives_the_offer():
    """Software that is no longer offered still counts for a lease that was promised it."""
    make_fleet(nodes=2)
    make_stack()
    lease = make_lease(stack="pytorch")
    SoftwareStack.objects.update(enabled=False)
    capacity.set_health(node_id=lease.allocations.get().node_id, health="retired", actor=None, now=NOW)
    assert not Shortfall.objects.exists()
    assert lease.allocations.get().node.health == "healthy"


def test_software_in_use_cannot_be_deleted():
    make_fleet(nodes=1)
    make_stack()
    lease = make_lease(stack="pytorch")
    with pytest.raises(ProtectedError):
        SoftwareStack.objects.get().delete()
    assert Lease.objects.get() == lease
    assert StackImage.objects.count() == 1


def test_promised_nodes_whose_image_went_away_are_counted_for_staff():
    make_fleet(nodes=2, region=EAST)
    make_fleet(nodes=2, region=WEST)
    make_stack(images={"aws": "everywhere", WEST: "west"})
    make_lease(stack="pytorch", nodes=2, region=EAST)
    make_lease(stack="pytorch", nodes=2, region=WEST)
    make_lease(stack="pytorch", region=WEST, start=NOW + 9 * DAY, state="held")
    make_lease(region=EAST, start=NOW + 9 * DAY)
    assert nodes_without_image(now=NOW) == 0
    StackImage.objects.filter(reference="west").update(enabled=False)
    SoftwareStack.objects.update(enabled=False)
    assert nodes_without_image(now=NOW) == 2
    assert nodes_without_image(now=NOW + 5 * DAY) == 0


def test_confidential_stock_and_retired_nodes_offer_nothing():
    fleet = make_fleet(nodes=1)
    make_stack()
    [offered] = offered_stacks()
    assert (offered.gpu_models, offered.regions) == (("H100 SXM 80 GB",), (EAST,))
    fleet.account.stock_confidential = True
    fleet.account.save()
    assert offered_stacks() == []
    assert len(offered_stacks(confidential=True)) == 1
    Node.objects.update(health="retired")
    assert offered_stacks(confidential=True) == []


steps = st.one_of(
    st.tuples(st.just("book"), st.sampled_from(["a", "b", None]), st.integers(1, 2), st.integers(0, 20)),
    st.tuples(st.just("book"), st.sampled_from(["a", "b"]), st.integers(1, 2), st.integers(0, 20)),
    st.tuples(st.just("health"), st.integers(0, 9), st.sampled_from(["unhealthy", "retired", "healthy"])),
    st.tuples(st.just("health"), st.integers(0, 9), st.sampled_from(["unhealthy", "retired"])),
    st.tuples(st.just("shrink"), st.integers(0, 9), st.integers(1, 60)),
    st.tuples(st.just("replace"), st.integers(0, 5)),
    st.tuples(st.just("start")),
    st.tuples(st.just("fill")),
    st.tuples(st.just("image"), st.integers(0, 9)),
)


@given(mapped=st.lists(st.booleans(), min_size=8, max_size=8), taken=st.lists(steps, max_size=12))
@examples(40)
def test_whatever_happens_every_node_had_the_image_when_it_was_given(mapped, taken):
    with rolled_back():
        World(mapped).play(taken)


class World:
    """Two stacks, two regions, two architectures; which of the eight images exist is drawn."""

    def __init__(self, mapped: list[bool]) -> None:
        self.now, self.organization = NOW, make_organization()
        arm = make_instance_type(name="arm-type")
        InstanceType.objects.filter(pk=arm.pk).update(architecture="arm64")
        for region in (EAST, WEST):
            make_fleet(nodes=2, region=region)
            make_fleet(nodes=2, region=region, instance_type=arm)
        places = ["aws", "aws//arm64", WEST, f"{WEST}/arm64"]
        for slug, some in (("a", mapped[:4]), ("b", mapped[4:])):
            make_stack(
                slug=slug, images={place: "ami" for place, there in zip(places, some, strict=True) if there}
            )
        self.nodes = list(Node.objects.order_by("pk").values_list("pk", flat=True))
        self.known: set[tuple[int, int]] = set()
        for slug in ("a", "b"):  # so that there is somebody to move from the first step on
            self.do(("book", slug, 2, 1))
        self.check()

    def play(self, taken) -> None:
        for step in taken:
            self.do(step)
            self.check()

    def do(self, step) -> None:
        name, *arguments = step
        try:
            getattr(self, f"do_{name}")(*arguments)
        except DomainError:  # a refusal is an answer; what matters is what it leaves behind
            pass

    def check(self) -> None:
        """Every place that a lease has newly got has an enabled image of its software now."""
        rows = Allocation.objects.exclude(lease__stack=None).select_related(
            "lease__stack", "node__instance_type", "node__region__provider"
        )
        for row in rows:
            if (row.lease_id, row.node_id) not in self.known:
                self.known.add((row.lease_id, row.node_id))
                assert image_for(
                    stack=row.lease.stack, instance_type=row.node.instance_type, region=row.node.region
                )

    def do_book(self, stack, nodes, hours) -> None:
        begin = self.now + hours * HOUR
        lease = booking.hold(
            request=make_request(stack=stack, nodes=nodes, start=begin, hours=24),
            organization=self.organization,
            name="lease",
            actor=None,
            now=self.now,
            expires_at=self.now + HOUR,
        )
        with durable():
            booking.confirm(lifecycle.lock_lease(lease.pk), to="scheduled", actor=None, now=self.now)

    def node(self, number: int) -> int:
        live = Allocation.objects.filter(period__endswith__gt=self.now).order_by("node_id")
        taken = list(live.values_list("node_id", flat=True).distinct())
        nodes = taken if taken and number else self.nodes
        return nodes[number % len(nodes)]

    def do_health(self, number, health) -> None:
        capacity.set_health(node_id=self.node(number), health=health, actor=None, now=self.now)

    def do_shrink(self, number, hours) -> None:
        pk = self.node(number)
        lower = Node.objects.get(pk=pk).available.lower
        capacity.shrink_node(
            node_id=pk, available=period(lower, NOW + hours * HOUR), actor=None, now=self.now
        )

    def do_replace(self, number) -> None:
        open_ones = list(Shortfall.objects.filter(closed_at=None).order_by("pk"))
        if open_ones:
            chosen = open_ones[number % len(open_ones)]
            replacing.replace_missing(shortfall_id=chosen.pk, actor=None, now=self.now)

    def do_start(self) -> None:
        self.now += 2 * HOUR
        for lease in Lease.objects.filter(state="scheduled", terms__period__contains=self.now):
            start(lease, self.now)

    def do_fill(self) -> None:
        replacing.fill_missing(now=self.now)

    def do_image(self, number) -> None:
        images = list(StackImage.objects.order_by("pk"))
        if images:
            row = images[number % len(images)]
            StackImage.objects.filter(pk=row.pk).update(enabled=not row.enabled)
