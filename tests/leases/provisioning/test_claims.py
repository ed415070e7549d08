"""Claims: one holder at a time, given up by time, and never inside a transaction of the caller."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.providers.errors import TimedOut
from leases.models import LaunchIntent, Lease, Turnover
from leases.provisioning import claims, sweep, upstream
from leases.provisioning.claims import CALL_TIME, CLAIM, LISTING_LAG, Clock, backoff, claim_next
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import Fleet, make_fleet
from tests.leases.provisioning.conftest import END, START, Cloud, Faults, at, book, run_until_active

pytestmark = pytest.mark.django_db(transaction=True)


def test_one_of_many_gets_the_row(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    rows = LaunchIntent.objects.order_by("pk")
    claimed = race([lambda: claim_next(rows, clock=Clock(at(1)))] * 8)
    assert sum(found is not None for found in claimed) == 1


def test_a_claim_outlives_a_call_and_the_listings_lag_and_then_ends(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    rows = LaunchIntent.objects.order_by("pk")
    first = claim_next(rows, clock=Clock(at(1)))
    assert first is not None
    assert claim_next(rows, clock=Clock(at(1) + CALL_TIME + LISTING_LAG - timedelta(seconds=1))) is None
    assert first.extend(Clock(at(3)))
    assert claim_next(rows, clock=Clock(at(1) + CLAIM + timedelta(seconds=1))) is None
    second = claim_next(rows, clock=Clock(at(3) + CLAIM + timedelta(seconds=1)))
    assert second is not None
    assert not first.extend(Clock(at(9)))
    with durable():
        assert first.still_ours() is None
        assert second.still_ours() is not None


def test_a_provider_is_never_called_inside_a_transaction(cloud: Cloud, faults: Faults) -> None:
    of = upstream.Providers().of
    with durable(), pytest.raises(RuntimeError, match="never called inside"), of(cloud.account):
        pass
    assert faults.calls == []


def test_a_sweep_stops_after_its_time_and_the_next_one_goes_on(
    cloud: Cloud, fleet: Fleet, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    book(nodes=2)
    sweep.start_due(now=at(1))
    sweep.networks.prepare_due(now=at(1))
    with monkeypatch.context() as patch:
        patch.setattr(claims, "SWEEP_TIME", timedelta(seconds=-1))
        assert sweep.launch_due(now=at(1)) == 0
    assert LaunchIntent.objects.filter(state=LaunchIntent.State.PENDING, attempts=0).count() == 2
    assert sweep.launch_due(now=at(1)) == 2


def test_a_cloud_that_is_silent_does_not_hold_up_a_sweep(cloud: Cloud, faults: Faults) -> None:
    make_fleet(nodes=5, account=cloud.account, reservation_id="cr-1")
    lease = book(nodes=5)
    run_until_active(lease)
    sweep.end_due(now=END)
    faults.before["reclaim"] = [TimedOut("no answer in time") for _number in range(5)]
    sweep.turnover_due(now=END)
    assert faults.count("reclaim") == upstream.SILENT_CALLS
    assert Turnover.objects.filter(completed_at=None, attempts=1).exclude(last_error="").count() == 5
    # The next sweep does not wait for it again; a later one asks.
    assert sweep.turnover_due(now=END + timedelta(seconds=40)) == 0
    assert faults.count("reclaim") == upstream.SILENT_CALLS
    faults.before["reclaim"] = []
    assert sweep.turnover_due(now=END + timedelta(minutes=5)) == 5


def test_waits_double_with_jitter_and_are_bounded() -> None:
    base, longest = timedelta(seconds=10), timedelta(minutes=10)
    for attempts, most in ((0, 10), (1, 10), (2, 20), (3, 40), (7, 600), (500, 600)):
        waits = {backoff(attempts, base=base, longest=longest).total_seconds() for _number in range(50)}
        assert most / 2 <= min(waits) <= max(waits) <= most
        assert len(waits) > 10


def test_the_clock_goes_on_from_the_given_time() -> None:
    clock = Clock(START)
    first, second = clock(), clock()
    assert START <= first <= second < START + timedelta(minutes=1)
