"""M5: every delivered second is charged once, whenever metering runs."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger, metering
from billing.models import Charge, Entry, FundsHold, UsageRecord
from leases.models import Allocation, Lease, Shortfall
from portal.common.periods import period
from tests.billing.helpers import (
    account_of,
    deliver,
    make_booking,
    make_customer,
    make_rule,
    owed_by_ledger,
)
from tests.concurrency import race
from tests.factories import NOW, make_fleet

pytestmark = pytest.mark.django_db

START = NOW + timedelta(days=1)
END = START + timedelta(hours=24)
HOUR = timedelta(hours=1)
HOURLY = Decimal(16)  # 8 GPUs at 2.00


@pytest.fixture
def lease():
    make_fleet(nodes=2)
    make_rule()
    return make_booking(make_customer(funds="20000"))


def charged():
    return sum(Charge.objects.values_list("amount", flat=True), Decimal(0))


def recorded_seconds(allocation):
    return sum((record.period.upper - record.period.lower for record in allocation.usage.all()), timedelta(0))


def test_an_hour_of_eight_gpus(lease):
    deliver(lease, START)
    done = metering.meter_due(now=START + HOUR)
    assert (done.records, done.gpu_seconds) == (1, 8 * 3600)
    record = UsageRecord.objects.get()
    assert record.period == period(START, START + HOUR) and record.gpus == 8
    charge = record.charge
    assert (charge.amount, charge.quantity, charge.unit) == (HOURLY, 28800, "gpu_second")
    assert charge.entry.effective_at == START
    account = account_of(lease.organization)
    assert (account.owed, account.reserved) == (HOURLY, 384 - HOURLY)
    assert FundsHold.objects.get().remaining == 384 - HOURLY
    assert owed_by_ledger(lease.organization) == HOURLY == -ledger.balance("revenue", currency="USD")


def test_running_again_adds_only_what_is_new(lease):
    deliver(lease, START)
    for minutes in (0, 60, 60, 59, 90):
        metering.meter_due(now=START + timedelta(minutes=minutes))
    assert charged() == HOURLY * Decimal("1.5")
    assert UsageRecord.objects.count() == 2


def test_nothing_undelivered_is_charged(lease):
    assert metering.meter_due(now=END) == metering.Metered()
    deliver(lease, START + 2 * HOUR, START + 5 * HOUR)
    metering.meter_due(now=END + 10 * HOUR)
    assert charged() == 3 * HOURLY


def test_nothing_past_the_paid_period_is_charged(lease):
    deliver(lease, START - HOUR)
    metering.meter_due(now=END + 10 * HOUR)
    assert charged() == 24 * HOURLY


def test_shortfalls_are_not_charged(lease):
    (allocation,) = deliver(lease, START)
    Shortfall.objects.create(
        lease=lease,
        allocation=allocation,
        cause="node_failed",
        period=period(START + HOUR, START + 3 * HOUR),
        closed_at=START + 3 * HOUR,
    )
    metering.meter_due(now=START + 4 * HOUR)
    assert charged() == 2 * HOURLY
    assert [record.period for record in allocation.usage.order_by("period")] == [
        period(START, START + HOUR),
        period(START + 3 * HOUR, START + 4 * HOUR),
    ]


def test_a_machine_that_ended_earlier_than_was_known_is_credited(lease):
    (allocation,) = deliver(lease, START)
    metering.meter_due(now=START + 3 * HOUR)
    deliver(lease, START, START + 2 * HOUR + timedelta(minutes=30))
    done = metering.meter_due(now=START + 4 * HOUR)
    assert (done.records, done.taken_back) == (1, 1)
    assert charged() == HOURLY * Decimal("2.5")
    assert recorded_seconds(allocation) == 2.5 * HOUR
    wrong = Charge.objects.get(kind="credit")
    assert wrong.amount == -3 * HOURLY and wrong.entry.reverses is not None
    assert (
        account_of(lease.organization).owed == owed_by_ledger(lease.organization) == HOURLY * Decimal("2.5")
    )
    assert metering.meter_due(now=START + 5 * HOUR) == metering.Metered()


def test_a_late_shortfall_and_nothing_delivered_at_all_are_credited(lease):
    (allocation,) = deliver(lease, START)
    metering.meter_due(now=START + 3 * HOUR)
    Shortfall.objects.create(
        lease=lease, allocation=allocation, cause="node_failed", period=period(START + HOUR, END)
    )
    metering.meter_due(now=START + 4 * HOUR)
    assert charged() == HOURLY
    Allocation.objects.update(delivered=None)
    metering.meter_due(now=START + 4 * HOUR)
    assert charged() == 0 and not UsageRecord.objects.exists()
    assert account_of(lease.organization).owed == 0 == owed_by_ledger(lease.organization)
    assert account_of(lease.organization).reserved == 384


def test_a_gap_before_charged_time_is_found_by_the_thorough_way(lease):
    (allocation,) = deliver(lease, START)
    missing = Shortfall.objects.create(
        lease=lease, allocation=allocation, cause="late", period=period(START, START + HOUR)
    )
    metering.meter_due(now=START + 2 * HOUR)
    missing.delete()  # a mistake of the record
    assert metering.due(now=START + 2 * HOUR) == []
    metering.meter_due(now=START + 2 * HOUR, thorough=True)
    assert charged() == 2 * HOURLY


def test_a_clock_behind_takes_nothing_back(lease):
    deliver(lease, START)
    metering.meter_due(now=START + 3 * HOUR)
    assert metering.meter_due(now=START + HOUR) == metering.Metered()
    metering.meter_due(now=START + 4 * HOUR)
    assert charged() == 4 * HOURLY


def test_months_are_charged_apart(lease):
    make_fleet(nodes=1)
    start = datetime(2026, 12, 31, 20, tzinfo=UTC)
    lease = make_booking(lease.organization, start=start, hours=8)
    deliver(lease, start)
    metering.meter_due(now=start + 8 * HOUR)
    charges = list(Charge.objects.filter(lease=lease).order_by("period"))
    assert [charge.amount for charge in charges] == [4 * HOURLY, 4 * HOURLY]
    assert [charge.entry.period.month.month for charge in charges] == [12, 1]
    assert [charge.entry.effective_at for charge in charges] == [start, start + 4 * HOUR]


@pytest.mark.django_db(transaction=True)
def test_late_facts_keep_their_date_and_go_to_the_open_period(lease):
    deliver(lease, START)
    later = datetime(2027, 1, 5, tzinfo=UTC)
    ledger.close_period(month=START.date(), actor=None, now=later)
    metering.meter_due(now=later)
    entry = Entry.objects.get(key__startswith="charge:usage")
    assert entry.effective_at == START and entry.period.month.month == 1


def test_funds_are_released_when_the_lease_is_over_and_metered(lease):
    deliver(lease, START, START + 10 * HOUR)
    Lease.objects.update(state=Lease.State.ENDED)
    metering.meter_due(now=START + 5 * HOUR)  # this clock has not seen the end yet
    assert account_of(lease.organization).reserved == 384 - 5 * HOURLY
    metering.meter_due(now=END)
    account = account_of(lease.organization)
    assert (account.reserved, account.owed) == (0, 10 * HOURLY)
    assert FundsHold.objects.get().released_at == END
    assert metering.release_finished(now=END) == 0


def test_funds_that_were_used_to_the_last_cent_are_released_too(lease):
    deliver(lease, START, END)
    Lease.objects.update(state=Lease.State.ENDED)
    metering.meter_due(now=END)
    account = account_of(lease.organization)
    assert (account.reserved, account.owed) == (0, 24 * HOURLY)
    hold = FundsHold.objects.get()
    assert (hold.remaining, hold.released_at) == (0, END)


def test_facts_that_come_after_the_release_are_charged_too(lease):
    deliver(lease, START, START + 10 * HOUR)
    Lease.objects.update(state=Lease.State.ENDED)
    metering.meter_due(now=END)
    deliver(lease, START, START + 9 * HOUR)
    metering.meter_due(now=END + HOUR)
    assert charged() == 9 * HOURLY
    assert account_of(lease.organization).reserved == 0


def test_a_lease_without_a_price_is_not_metered(lease):
    lease.terms.update(rate_per_gpu_hour=None)
    deliver(lease, START)
    assert metering.meter_due(now=END).records == 0
    assert not Charge.objects.exists()


def test_one_allocation_that_fails_does_not_stop_the_others(lease, monkeypatch, caplog):
    make_fleet(nodes=2)
    other = make_booking(lease.organization)
    deliver(lease, START)
    deliver(other, START)
    first = lease.allocations.get()
    real = metering.meter_allocation

    def breaks(*, allocation_id, now):
        if allocation_id == first.pk:
            raise RuntimeError("broken")
        return real(allocation_id=allocation_id, now=now)

    monkeypatch.setattr(metering, "meter_allocation", breaks)
    assert metering.meter_due(now=START + HOUR).records == 1
    assert "metering_failed" in caplog.text


# --- PostgreSQL refuses ---------------------------------------------------------------------------


def raw_record(allocation, start, end, source="raw"):
    with transaction.atomic():
        charge = Charge.objects.create(
            organization=allocation.lease.organization,
            lease=allocation.lease,
            kind="usage",
            source=source,
            period=period(start, end),
            quantity=0,
            unit="gpu_second",
            unit_price=0,
            amount=0,
            currency="USD",
        )
        return UsageRecord.objects.create(
            allocation=allocation, period=period(start, end), gpus=8, charge=charge
        )


def test_records_never_overlap(lease):
    (allocation,) = deliver(lease, START)
    raw_record(allocation, START, START + HOUR)
    with pytest.raises(IntegrityError, match="usage_never_overlaps"):
        raw_record(allocation, START + HOUR / 2, START + 2 * HOUR, source="other")
    raw_record(allocation, START + HOUR, START + 2 * HOUR, source="next")
    assert UsageRecord.objects.count() == 2


@pytest.mark.parametrize(
    ("start", "end"), [(START - HOUR, START), (START, START + 3 * HOUR), (START + 4 * HOUR, END)]
)
def test_records_never_leave_the_delivered_time(lease, start, end):
    (allocation,) = deliver(lease, START, START + 2 * HOUR)
    with pytest.raises(IntegrityError, match="leaves the delivered time"):
        raw_record(allocation, start, end)
    assert not UsageRecord.objects.exists() and not Charge.objects.exists()


def test_an_allocation_that_was_not_delivered_has_no_usage(lease):
    with pytest.raises(IntegrityError, match="leaves the delivered time"):
        raw_record(lease.allocations.get(), START, START + HOUR)


def test_records_are_neither_changed_nor_deleted(lease):
    (allocation,) = deliver(lease, START)
    record = raw_record(allocation, START, START + HOUR)
    for statement in (
        "UPDATE billing_usagerecord SET gpus = 1",
        "DELETE FROM billing_usagerecord",
        "UPDATE billing_charge SET description = 'x'",
        "DELETE FROM billing_charge",
    ):
        with (
            pytest.raises(IntegrityError, match=r"M5|M6"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
    assert UsageRecord.objects.get() == record


def test_a_source_is_charged_once(lease):
    (allocation,) = deliver(lease, START)
    raw_record(allocation, START, START + HOUR)
    with pytest.raises(IntegrityError, match="source"):
        raw_record(allocation, START + HOUR, START + 2 * HOUR)


# --- twice at once --------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_many_meters_at_once_charge_each_second_once(lease):
    (allocation,) = deliver(lease, START)
    for hour in range(1, 4):
        moments = [START + hour * HOUR - timedelta(minutes=minutes) for minutes in (0, 7, 20, 0)]
        results = race(
            [
                *[lambda now=now: metering.meter_due(now=now) for now in moments],
                *[
                    lambda now=now: metering.meter_allocation(allocation_id=allocation.pk, now=now)
                    for now in moments
                ],
            ]
        )
        assert not [result for result in results if isinstance(result, Exception)], results
        assert charged() == hour * HOURLY
        assert recorded_seconds(allocation) == hour * HOUR


@pytest.mark.django_db(transaction=True)
def test_without_the_wallets_lock_two_meters_meet(lease, monkeypatch):
    """The race exists: with the lock off, the exclusion constraint must refuse one of them."""
    import threading

    from billing import accounts
    from billing.models import BillingAccount

    (allocation,) = deliver(lease, START)
    both_read = threading.Barrier(2)

    def unlocked(organization):
        return BillingAccount.objects.select_related("organization").get(organization=organization)

    real = metering._difference

    def read_together(*args, **kwargs):
        found = real(*args, **kwargs)
        both_read.wait(10)
        return found

    monkeypatch.setattr(accounts, "lock_account", unlocked)
    monkeypatch.setattr(accounts, "lock_hold", lambda lease_id: None)
    monkeypatch.setattr(metering, "_difference", read_together)
    monkeypatch.setattr(metering, "retry_conflicts", lambda attempt: attempt())
    results = race(
        [
            lambda: metering.meter_allocation(allocation_id=allocation.pk, now=START + HOUR),
            lambda: metering.meter_allocation(allocation_id=allocation.pk, now=START + HOUR),
        ]
    )
    assert sum(isinstance(result, IntegrityError) for result in results) == 1, results
    assert charged() == HOURLY


# --- any order, any time --------------------------------------------------------------------------

minutes = st.integers(min_value=-60, max_value=60 * 24 * 40)
moments = st.builds(
    lambda minute, micro: START + timedelta(minutes=minute, microseconds=micro),
    minutes,
    st.sampled_from([0, 0, 1, 333_333, 999_999]),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    calls=st.lists(moments, min_size=1, max_size=8),
    starts=moments,
    lasts=st.integers(min_value=1, max_value=60 * 24 * 40),
    gaps=st.lists(st.tuples(minutes, st.integers(1, 60 * 24 * 5)), max_size=2),
    known_early=st.booleans(),
)
def test_any_sequence_of_runs_ends_at_the_delivered_seconds(lease, calls, starts, lasts, gaps, known_early):
    savepoint = transaction.savepoint()  # each example starts from the same rows
    try:
        long = make_booking(lease.organization, start=START, hours=24 * 30)
        (allocation,) = deliver(long, starts, starts + timedelta(minutes=lasts) if known_early else None)
        for minute, length in gaps:
            Shortfall.objects.create(
                lease=long,
                allocation=allocation,
                cause="node_failed",
                period=period(START + timedelta(minutes=minute), START + timedelta(minutes=minute + length)),
                closed_at=NOW,
            )
        before = charged()
        end = max(calls)
        for now in calls:
            metering.meter_allocation(allocation_id=allocation.pk, now=now)
        if not known_early:  # the end becomes known after the fact
            deliver(long, starts, starts + timedelta(minutes=lasts))
            metering.meter_allocation(allocation_id=allocation.pk, now=end)
        assert allocation.pk not in metering.due(now=end)
        assert allocation.pk not in metering.due(now=end, thorough=True)

        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT coalesce(sum(extract(epoch FROM upper(p) - lower(p))), 0)
                FROM leases_allocation a, unnest(
                    tstzmultirange(a.delivered * a.period * tstzrange(NULL, %s))
                    - coalesce((SELECT range_agg(s.period) FROM leases_shortfall s
                                WHERE s.allocation_id = a.id), '{}')
                ) p WHERE a.id = %s
                """,
                [end, allocation.pk],
            )
            (delivered,) = cursor.fetchone()
        records = sorted((record.period for record in allocation.usage.all()), key=lambda p: p.lower)
        assert all(a.upper <= b.lower for a, b in pairwise(records))
        assert all(r.lower.month == (r.upper - timedelta(microseconds=1)).month for r in records)
        assert recorded_seconds(allocation) == timedelta(microseconds=int(delivered * 1_000_000))
        # To the last digit what one run at the end would have charged, per stretch of time.
        stretches = 1 + sum(a.upper != b.lower for a, b in pairwise(records))
        exact = HOURLY * delivered / 3600
        assert abs(charged() - before - exact) <= Decimal("0.00000001") * stretches
        assert owed_by_ledger(lease.organization) == account_of(lease.organization).owed
    finally:
        transaction.savepoint_rollback(savepoint)
