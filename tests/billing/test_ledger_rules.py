"""M1-M4: PostgreSQL refuses, whatever the product's role tries."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import IntegrityError, ProgrammingError, connection, transaction

from billing import ledger
from billing.ledger import Line
from billing.models import AccountingPeriod, Entry, LedgerAccount, Posting
from tests.factories import make_organization

SEPTEMBER = datetime(2026, 9, 10, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def post(key="k1", amount="10", effective_at=SEPTEMBER, organization=None, now=NOW, **more):
    with transaction.atomic():
        return ledger.post(
            key=key,
            effective_at=effective_at,
            description="A top-up",
            lines=[
                Line("cash", Decimal(amount)),
                Line("wallet", -Decimal(amount), organization=organization),
            ],
            currency="USD",
            now=now,
            **more,
        )


def check_deferred():
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def sql(statement, *values):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def raw_entry(key="raw", lines=2, month=date(2026, 9, 1), effective_at=SEPTEMBER):
    period, _ = AccountingPeriod.objects.get_or_create(month=month)
    return Entry.objects.create(
        key=key, payload_hash="", period=period, effective_at=effective_at, description="raw", lines=lines
    )


def account(kind="cash", currency="USD"):
    return LedgerAccount.objects.get_or_create(kind=kind, currency=currency)[0]


def snapshot():
    return (
        list(Entry.objects.order_by("pk").values()),
        list(Posting.objects.order_by("pk").values()),
        list(AccountingPeriod.objects.order_by("pk").values()),
    )


# --- M1 -------------------------------------------------------------------------------------------


def test_a_balanced_entry_is_accepted():
    entry = post()
    check_deferred()
    assert [posting.amount for posting in entry.postings.order_by("pk")] == [Decimal(10), Decimal(-10)]


@pytest.mark.parametrize("amounts", [["10", "-9"], ["10"], []])
def test_an_unbalanced_entry_is_refused(amounts):
    with pytest.raises(IntegrityError, match="M1"), transaction.atomic():
        entry = raw_entry()
        for amount in amounts:
            Posting.objects.create(entry=entry, account=account(), currency="USD", amount=Decimal(amount))
        check_deferred()
    assert not Entry.objects.exists() and not Posting.objects.exists()


def test_each_currency_balances_for_itself():
    with pytest.raises(IntegrityError, match="does not balance"), transaction.atomic():
        entry = raw_entry()
        for currency, amount in [("USD", 10), ("EUR", -10)]:
            Posting.objects.create(
                entry=entry, account=account(currency=currency), currency=currency, amount=amount
            )
        check_deferred()


def test_a_posting_is_in_its_accounts_currency():
    with pytest.raises(IntegrityError, match="another currency"), transaction.atomic():
        entry = raw_entry()
        for amount in (10, -10):
            Posting.objects.create(
                entry=entry, account=account(currency="EUR"), currency="USD", amount=amount
            )
        check_deferred()


@pytest.mark.parametrize("amounts", [["5"], ["5", "-5"]])
def test_a_late_posting_is_refused_even_when_a_pair_balances(amounts):
    entry = post()
    check_deferred()
    before = snapshot()
    with pytest.raises(IntegrityError, match="made with 2 lines"), transaction.atomic():
        for amount in amounts:
            Posting.objects.create(entry=entry, account=account(), currency="USD", amount=Decimal(amount))
        check_deferred()
    assert snapshot() == before


def test_post_refuses_lines_that_are_not_money():
    for lines in (
        [Line("cash", Decimal(1))],
        [Line("cash", 1.5), Line("wallet", -1.5)],  # type: ignore[arg-type]
        [Line("cash", Decimal(0)), Line("wallet", Decimal(0))],
        [Line("cash", Decimal("0.000000001")), Line("wallet", Decimal("-0.000000001"))],
        [Line("cash", Decimal("NaN")), Line("wallet", Decimal(1))],
        [Line("cash", Decimal(2)), Line("wallet", Decimal(-1))],
    ):
        with pytest.raises(ValueError), transaction.atomic():
            ledger.post(
                key="bad", effective_at=SEPTEMBER, description="", lines=lines, currency="USD", now=NOW
            )
    assert not Entry.objects.exists()


# --- M2 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["billing_entry", "billing_posting"])
@pytest.mark.parametrize("verb", ["UPDATE {0} SET id = id", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
def test_the_product_may_not_change_the_ledger(table, verb):
    post()
    before = snapshot()
    with pytest.raises(ProgrammingError, match="permission denied"):
        sql(verb.format(table))
    assert snapshot() == before


@pytest.mark.parametrize("table", ["billing_entry", "billing_posting"])
@pytest.mark.parametrize("verb", ["UPDATE {0} SET id = id", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
@pytest.mark.django_db(transaction=True)
def test_nor_may_someone_with_every_right(table, verb, superuser_sql):
    import psycopg

    post()
    before = snapshot()
    with pytest.raises(psycopg.errors.RestrictViolation, match="reversal"):
        superuser_sql.execute(verb.format(table))
    assert snapshot() == before


def test_an_account_keeps_its_owner():
    post(organization=make_organization())
    with pytest.raises(IntegrityError, match="M2"):
        sql("UPDATE billing_ledgeraccount SET organization_id = NULL")


def test_the_triggers_cannot_be_switched_off():
    with pytest.raises(ProgrammingError, match="must be owner"):
        sql("ALTER TABLE billing_entry DISABLE TRIGGER entry_append_only")
    with pytest.raises(ProgrammingError, match="permission denied"):
        sql("SET session_replication_role = replica")


def test_a_correction_is_a_reversal_and_happens_once():
    organization = make_organization()
    entry = post(organization=organization)
    with transaction.atomic():
        first = ledger.reverse(entry, description="Typed wrong", effective_at=NOW, now=NOW)
        again = ledger.reverse(entry, description="Typed wrong", effective_at=NOW, now=NOW)
    assert first == again and first.reverses == entry
    assert ledger.balance("wallet", currency="USD", organization=organization) == 0
    assert ledger.balance("cash", currency="USD") == 0
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.reverse(entry, description="Typed wrong", effective_at=NOW, now=NOW, key="another key")
    check_deferred()


# --- M3 -------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_nothing_is_posted_into_a_closed_period():
    post()
    ledger.close_period(month=date(2026, 9, 1), actor=None, now=NOW)
    before = snapshot()
    period = AccountingPeriod.objects.get(month=date(2026, 9, 1))
    with pytest.raises(IntegrityError, match="2026-09 is closed"), transaction.atomic():
        Entry.objects.create(
            key="x", payload_hash="", period=period, effective_at=SEPTEMBER, description="x", lines=2
        )
    assert snapshot() == before


@pytest.mark.django_db(transaction=True)
def test_late_facts_keep_their_date_and_go_to_the_open_period():
    ledger.close_period(month=date(2026, 9, 1), actor=None, now=NOW)
    late = post(key="late")
    assert late.effective_at == SEPTEMBER
    assert late.period.month == date(2026, 10, 1)
    long_ago = post(key="long ago", effective_at=datetime(2025, 1, 31, 23, tzinfo=UTC))
    assert long_ago.period.month == date(2026, 10, 1)


@pytest.mark.django_db(transaction=True)
def test_closing_closes_everything_before_and_only_once():
    post(effective_at=datetime(2026, 7, 5, tzinfo=UTC))
    closed = ledger.close_period(month=date(2026, 9, 15), actor=None, now=NOW)
    assert closed.month == date(2026, 9, 1)
    assert not AccountingPeriod.objects.filter(month__lte=closed.month, closed_at=None).exists()
    for month in (date(2026, 9, 1), date(2026, 7, 1), date(2026, 3, 1)):
        with pytest.raises(ledger.PeriodClosed):
            ledger.close_period(month=month, actor=None, now=NOW)
    assert AccountingPeriod.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_month_that_is_not_over_stays_open():
    with pytest.raises(ledger.InvalidInput) as refused:
        ledger.close_period(month=date(2026, 11, 1), actor=None, now=NOW)
    assert refused.value.field == "month" and "2026-12-01" in refused.value.message
    assert not AccountingPeriod.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_closed_is_for_good():
    ledger.close_period(month=date(2026, 9, 1), actor=None, now=NOW)
    for statement in (
        "UPDATE billing_accountingperiod SET closed_at = NULL",
        "DELETE FROM billing_accountingperiod",
        "INSERT INTO billing_accountingperiod (month) VALUES ('2026-08-01')",
    ):
        with pytest.raises(IntegrityError, match="M3"):
            sql(statement)


def test_an_entry_is_not_posted_before_it_happened():
    with pytest.raises(IntegrityError, match="earlier period"), transaction.atomic():
        raw_entry(month=date(2026, 8, 1))


# --- M4 -------------------------------------------------------------------------------------------


def test_the_same_key_posts_once():
    first = post()
    assert post(now=NOW.replace(hour=13)) == first
    assert Entry.objects.count() == 1 and Posting.objects.count() == 2


def test_the_same_key_with_other_content_is_a_conflict():
    post()
    before = snapshot()
    with pytest.raises(ledger.EntryConflict, match="k1"):
        post(amount="11")
    assert snapshot() == before


def test_a_part_wants_its_callers_transaction(transactional_db):
    with pytest.raises(RuntimeError, match="transaction"):
        ledger.post(
            key="k",
            effective_at=NOW,
            description="",
            lines=[Line("cash", Decimal(1)), Line("wallet", Decimal(-1))],
            currency="USD",
            now=NOW,
        )


def test_posting_takes_the_same_few_statements_however_many_lines(django_assert_num_queries):
    organizations = [make_organization() for _ in range(5)]

    def several(key, owners):
        with transaction.atomic():
            ledger.post(
                key=key,
                effective_at=NOW,
                description="",
                lines=[
                    Line("cash", Decimal(len(owners))),
                    *[Line("wallet", Decimal(-1), organization=organization) for organization in owners],
                ],
                currency="USD",
                now=NOW,
            )

    several("opens the accounts", organizations)
    for number in (1, 5):
        with django_assert_num_queries(6):  # two of them the test's savepoint
            several(f"{number} owners", organizations[:number])
