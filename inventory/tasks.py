"""Background work on supply; each task is safe twice at once."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from inventory import polling

SWEEP_SECONDS = 60


@shared_task(name="inventory.tasks.poll_due", ignore_result=True)
def poll_due() -> None:
    """Start a poll for every account whose next one is due."""
    for account_id in polling.due_accounts(now=timezone.now()):
        # The next sweep asks again; what lies in the queue so long needs no answer twice.
        poll_provider.apply_async((account_id,), expires=SWEEP_SECONDS)


@shared_task(name="inventory.tasks.poll_provider", ignore_result=True)
def poll_provider(account_id: int) -> None:
    """Poll one account where that is due; does nothing while another worker polls it."""
    polling.poll_account(account_id=account_id, now=timezone.now(), only_due=True)


@shared_task(name="inventory.tasks.forget_old_runs", ignore_result=True)
def forget_old_runs() -> None:
    """Delete old poll runs, but never the last complete one of a region."""
    polling.forget_old_runs(now=timezone.now())
