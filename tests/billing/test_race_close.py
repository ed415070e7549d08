"""A posting against the close of its period: shown without the guard, then with it."""

import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pytest

from billing import ledger
from billing.ledger import Line
from billing.models import AccountingPeriod, Entry
from portal.common.transactions import durable
from tests.concurrency import race

SEPTEMBER = datetime(2026, 9, 10, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONTH = date(2026, 9, 1)

pytestmark = pytest.mark.django_db(transaction=True)


def post(key):
    with durable():
        return ledger.post(
            key=key,
            effective_at=SEPTEMBER,
            description="race",
            lines=[Line("cash", Decimal(1)), Line("wallet", Decimal(-1))],
            currency="USD",
            now=NOW,
        )


def close():
    return ledger.close_period(month=MONTH, actor=None, now=NOW)


def sneak(url: str, *, guarded: bool) -> str:
    """Close in one transaction while another posts; return what became of the posting.

    ``guarded=False`` reads the period the obvious way, without a lock.
    """
    look = "SELECT closed_at FROM billing_accountingperiod WHERE month = %s" + (
        " FOR SHARE" if guarded else ""
    )
    with psycopg.connect(url) as poster, psycopg.connect(url) as closer:
        closer.execute("SET session_replication_role = replica")
        poster.execute("SET session_replication_role = replica")  # the guard in the trigger is off
        closer.execute("SELECT FROM billing_accountingperiod WHERE month = %s FOR UPDATE", [MONTH])
        closer.execute("UPDATE billing_accountingperiod SET closed_at = now() WHERE month = %s", [MONTH])
        seen: list[object] = []

        def read() -> None:
            row = poster.execute(look, [MONTH]).fetchone()
            seen.append(row[0] if row else None)

        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.5)  # the unguarded one has its answer by now, the guarded one waits
        closer.commit()
        reader.join(30)
        if seen[0] is not None:
            return "refused"
        poster.execute(
            "INSERT INTO billing_entry (key, payload_hash, period_id, effective_at, posted_at, description,"
            " lines) SELECT 'sneaked', '', id, %s, now(), '', 2 FROM billing_accountingperiod"
            " WHERE month = %s",
            [SEPTEMBER, MONTH],
        )
        poster.commit()
        return "posted"


@pytest.mark.parametrize(("guarded", "outcome"), [(False, "posted"), (True, "refused")])
def test_without_the_lock_a_posting_lands_in_the_closed_month(superuser_sql, guarded, outcome):
    AccountingPeriod.objects.create(month=MONTH)
    url = superuser_sql.info.dsn
    password = superuser_sql.info.password
    assert sneak(f"{url} password={password}" if password else url, guarded=guarded) == outcome
    assert Entry.objects.filter(period__closed_at__isnull=False).exists() == (outcome == "posted")


@pytest.mark.parametrize("round_", range(5))
def test_racing_postings_and_the_close_never_leave_one_behind(round_):
    post("first")
    results = race([*[lambda key=key: post(f"k{key}") for key in range(8)], close])
    assert not [result for result in results if isinstance(result, Exception)], results
    closed = AccountingPeriod.objects.get(month=MONTH)
    assert closed.closed_at is not None
    late = Entry.objects.exclude(period=closed)
    assert Entry.objects.count() == 9
    assert {entry.period.month for entry in late.select_related("period")} <= {date(2026, 10, 1)}


def test_a_close_waits_for_a_posting_that_has_not_committed():
    post("first")
    posted, may_commit = threading.Event(), threading.Event()

    def slow_poster():
        with durable():
            entry = ledger.post(
                key="slow",
                effective_at=SEPTEMBER,
                description="race",
                lines=[Line("cash", Decimal(1)), Line("wallet", Decimal(-1))],
                currency="USD",
                now=NOW,
            )
            posted.set()
            assert may_commit.wait(30)
            return entry

    def closer():
        assert posted.wait(30)
        threading.Timer(0.3, may_commit.set).start()
        started = time.monotonic()
        close()
        return time.monotonic() - started, may_commit.is_set()

    entry, (_waited, after_commit) = race([slow_poster, closer])
    assert entry.period.month == MONTH
    assert after_commit
