"""Money's background work: each task calls one function, and running twice changes nothing."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from billing import auditing, checkout, invoicing, ledger, metering
from billing.vendor import accrual, sweep


@shared_task
def meter() -> None:
    """Charge what was delivered since the last run."""
    metering.meter_due(now=timezone.now())


@shared_task
def settle_awaiting() -> None:
    """Schedule leases whose funds arrived, pay open invoices from wallets, mark lapsed quotes."""
    now = timezone.now()
    checkout.settle_awaiting(now=now)
    invoicing.pay_due(now=now)
    checkout.lapse_quotes(now=now)


@shared_task
def draft_last_month() -> None:
    """Meter to the end, then draft last month's invoices; staff look at them and finalize."""
    now = timezone.now()
    metering.meter_due(now=now, thorough=True)
    invoicing.draft_month(month=ledger.last_month(now), now=now)


@shared_task
def close_last_month() -> None:
    """Close the books of last month; facts that come later go to the open month and keep their date."""
    now = timezone.now()
    try:
        ledger.close_period(month=ledger.last_month(now), actor=None, now=now)
    except ledger.PeriodClosed:  # staff were first, or an earlier run
        return


@shared_task
def reconcile_bills() -> None:
    """Classify bills that only landed, and look again at what their providers may have billed late."""
    sweep.reconcile_due(now=timezone.now())


@shared_task
def accrue_upstream() -> None:
    """Accrue what providers will bill for last month and for this one so far."""
    now = timezone.now()
    for month in (ledger.last_month(now), ledger.month_of(now)):
        accrual.accrue_month(month=month, now=now)


@shared_task
def audit() -> None:
    """Check every invariant; a violation is an event for staff."""
    auditing.audit_and_report(now=timezone.now())
