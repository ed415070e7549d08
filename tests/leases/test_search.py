"""What is free when."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from leases import booking, search
from leases.errors import NotEnoughCapacity
from portal.common.errors import InvalidInput
from portal.common.periods import period
from tests.factories import H100, NOW, make_account, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MIDNIGHT = NOW.replace(hour=0)


def starts(**changes):
    wanted = {
        "gpu_model": H100,
        "gpus_per_node": 8,
        "nodes": 1,
        "hours": 24,
        "earliest": NOW,
        "latest": NOW + 14 * DAY,
        "now": NOW,
    }
    return search.find_starts(**{**wanted, **changes})


def near(request):
    return {alternative.kind: alternative for alternative in search.near_misses(request, NOW)}


def test_starts_lie_in_the_gaps_and_leave_time_for_the_turnaround():
    make_fleet(nodes=1)
    make_lease(start=NOW + 2 * DAY, hours=24)
    first, second = starts()
    assert (first.start, first.end, first.region, first.nodes_free) == (NOW, NOW + DAY, "aws/us-east-1", 1)
    assert first.latest_start == NOW + DAY - 30 * timedelta(minutes=1)
    assert (second.start, second.latest_start) == (NOW + 3 * DAY + 30 * timedelta(minutes=1), NOW + 14 * DAY)


def test_starts_count_nodes_over_every_possible_start():
    make_fleet(nodes=3)
    make_lease(nodes=2, start=NOW + 2 * DAY, hours=24)
    assert [slot.start for slot in starts(nodes=1)] == [NOW]
    assert [slot.nodes_free for slot in starts(nodes=2)] == [3, 3]
    assert starts(nodes=4) == []


def test_starts_on_one_fabric_need_one_that_is_large_enough():
    make_fleet(nodes=4, nodes_per_fabric=2)
    assert starts(nodes=3, one_fabric=True) == []
    assert [slot.nodes_free for slot in starts(nodes=2, one_fabric=True)] == [2]
    assert [slot.nodes_free for slot in starts(nodes=1, one_fabric=True)] == [4]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"nodes": 0}, "nodes"), ({"hours": 0}, "hours"), ({"latest": NOW - HOUR}, "latest")],
)
def test_bad_search_names_the_field(changes, field):
    with pytest.raises(InvalidInput) as refused:
        starts(**changes)
    assert refused.value.field == field


def test_the_calendar_counts_whole_days():
    make_fleet(nodes=2)
    make_fleet(nodes=1, region="aws/eu-west-1", gpu_model="a100-sxm4-80gb")
    make_lease(start=MIDNIGHT + 2 * DAY + 12 * HOUR, hours=24, gpu_model=H100)
    a100, h100 = search.calendar(days=5, start=MIDNIGHT, now=NOW)
    assert (a100.gpu_name, a100.gpus_per_node, a100.region) == ("A100 SXM 80 GB", 8, "aws/eu-west-1")
    assert [day.nodes_free for day in a100.days] == [1] * 5
    assert [day.nodes_free for day in h100.days] == [2, 2, 1, 1, 2]
    assert [day.nodes_held for day in h100.days] == [2] * 5
    assert h100.gpus_free(2) == 8
    assert h100.days[2].start == MIDNIGHT + 2 * DAY


def test_a_calendar_day_can_be_booked_with_its_turnaround():
    make_fleet(nodes=1)
    make_lease(start=MIDNIGHT + 3 * DAY, hours=24)
    (row,) = search.calendar(days=5, start=MIDNIGHT, now=NOW)
    assert [day.nodes_free for day in row.days] == [1, 1, 0, 0, 0]  # the lease's end needs its turnaround too


def test_days_past_count_nothing_and_today_counts_what_is_left():
    make_fleet(nodes=1)
    (row,) = search.calendar(days=4, start=MIDNIGHT - 2 * DAY, now=NOW)
    assert [day.nodes_free for day in row.days] == [0, 0, 1, 1]


def test_the_calendar_follows_what_we_hold():
    make_fleet(nodes=1, available=period(NOW - DAY, MIDNIGHT + 2 * DAY))
    (row,) = search.calendar(days=4, start=MIDNIGHT, now=NOW)
    assert [(day.nodes_free, day.nodes_held) for day in row.days] == [(1, 1), (0, 0), (0, 0), (0, 0)]


def test_a_lapsed_hold_is_not_in_the_way_of_any_search():
    make_fleet(nodes=1)
    make_lease(state="held", start=NOW + DAY, hours=24 * 13)
    later = NOW + HOUR
    assert [slot.latest_start for slot in starts(now=later)] == [NOW + 14 * DAY]
    assert search.calendar(days=3, start=MIDNIGHT, now=later)[0].days[2].nodes_free == 1
    assert search.free_nodes(gpu_model=H100, gpus_per_node=8, period=make_request().period, now=later) == 1


def test_confidential_stock_can_be_booked_but_is_not_shown(settings):
    make_fleet(nodes=2, account=make_account(stock_confidential=True))
    window = {"gpu_model": H100, "gpus_per_node": 8, "period": make_request().period, "now": NOW}
    assert search.free_nodes(**window) == 0
    assert search.free_nodes(**window, confidential=True) == 2
    assert search.calendar(days=2, start=MIDNIGHT, now=NOW) == []
    assert starts() == []
    with pytest.raises(NotEnoughCapacity) as refused:
        make_lease(nodes=3)
    assert refused.value.extra["alternatives"] == []
    make_lease(nodes=1)
    settings.SUBLET_SHOW_CONFIDENTIAL_STOCK = True
    assert search.free_nodes(**window) == 1


def test_near_misses_name_every_way_to_differ():
    make_fleet(nodes=4)
    make_fleet(nodes=4, region="aws/eu-west-1")
    make_fleet(nodes=8, gpu_model="a100-sxm4-80gb")
    start = NOW + 3 * DAY
    make_lease(nodes=2, start=start + 12 * HOUR, hours=24, region="aws/us-east-1")
    found = near(make_request(nodes=4, start=start, hours=24, region="aws/us-east-1"))
    assert set(found) == {"later", "earlier", "shorter", "fewer", "longer", "other_region", "other_gpu"}
    assert found["later"].start == start + 36 * HOUR + HOUR / 2
    assert found["earlier"].start == start - 13 * HOUR
    assert found["shorter"].end == start + 11 * HOUR
    assert found["fewer"].nodes == 2
    assert (found["longer"].nodes, found["longer"].end) == (2, start + 48 * HOUR)
    assert found["other_region"].region == "aws/eu-west-1"
    assert (found["other_gpu"].gpu_model, found["other_gpu"].nodes) == ("a100-sxm4-80gb", 4)


@pytest.mark.parametrize("nodes", [10, 100])
def test_each_question_is_one_statement_whatever_the_fleet(nodes):
    make_fleet(nodes=nodes)
    make_lease(nodes=nodes // 2)
    for question, statements in [
        (lambda: starts(nodes=2), 1),
        (lambda: search.calendar(days=30, start=MIDNIGHT, now=NOW), 1),
        (lambda: search.fits(make_request(nodes=nodes), now=NOW), 1),
        (lambda: search.near_misses(make_request(nodes=nodes), NOW), 3),
    ]:
        with CaptureQueriesContext(connection) as captured:
            question()
        assert len(captured) == statements


def test_alternatives_are_plain_facts_that_make_a_request_again():
    make_fleet(nodes=2)
    fewer = near(make_request(nodes=3))["fewer"]
    assert fewer.as_dict()["start"] == make_request().start.isoformat()
    booking.hold(
        request=fewer.request(),
        organization=make_organization(),
        name="fewer",
        actor=None,
        now=NOW,
        expires_at=NOW + HOUR,
    )
