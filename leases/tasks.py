"""Thin Celery tasks: each runs one sweep with the time of now."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from leases import lifecycle, replacing
from leases.buying import held, inquiries, purchases, unmet
from leases.provisioning import sweep


@shared_task
def lapse_holds() -> None:
    """Free the nodes of holds and unpaid leases whose deadline has passed."""
    lifecycle.lapse_holds(now=timezone.now())


@shared_task
def fill_missing() -> None:
    """Give leases an equal free node where one is missing and nothing more can be lost."""
    replacing.fill_missing(now=timezone.now())


@shared_task
def start_due() -> None:
    """Start leases whose term has begun."""
    sweep.start_due(now=timezone.now())


@shared_task
def launch_due() -> None:
    """Launch machines, and settle launches whose answer was lost."""
    sweep.launch_due(now=timezone.now())


@shared_task
def probe_due() -> None:
    """Look at machines, and deliver those whose access works."""
    sweep.probe_due(now=timezone.now())


@shared_task
def end_due() -> None:
    """End leases whose term is over."""
    sweep.end_due(now=timezone.now())


@shared_task
def turnover_due() -> None:
    """End machines until they are gone, then free their nodes and networks."""
    sweep.turnover_due(now=timezone.now())


@shared_task
def notify_due() -> None:
    """Announce ends that are near."""
    sweep.notify_due(now=timezone.now())


@shared_task
def find_orphans() -> None:
    """Find and remove what nobody owns at the providers."""
    sweep.find_orphans(now=timezone.now())


@shared_task
def answer_inquiries() -> None:
    """Ask the clouds what they would charge for capacity that staff look for."""
    inquiries.answer_due(now=timezone.now())


@shared_task
def settle_purchases() -> None:
    """Buy the capacity that staff decided to buy, and settle purchases in doubt."""
    purchases.settle_due(now=timezone.now())


@shared_task
def check_reservations() -> None:
    """Tell staff where a provider's reservations are not what our commitments say."""
    held.check_reservations(now=timezone.now())


@shared_task
def forget_searches() -> None:
    """Delete old unmet searches and inquiries."""
    unmet.forget_old(now=timezone.now())
    inquiries.forget_old(now=timezone.now())
