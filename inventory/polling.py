"""Ask a provider what it sells, and keep what it said with its age.

A poll is claimed with a token, so that two workers never poll one account at once. The
network is used outside of transactions; each region is stored in one, and only where
the claim is still ours. A poll that fails or returns half deletes nothing (P4).
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, Max, Min, Q
from django.utils.translation import gettext as _

from inventory.answers import check_catalog
from inventory.models import PollRun, ProviderAccount, Region
from inventory.poll_store import store_catalog
from inventory.providers.base import Catalog, Provider
from inventory.providers.errors import AuthFailed, ProviderError, RateLimited
from inventory.providers.registry import provider_for
from portal.common.transactions import durable

log = logging.getLogger(__name__)

# Longer than the slowest region takes with every retry; renewed before each region.
CLAIM = timedelta(minutes=10)
LONGEST_PAUSE = timedelta(hours=6)


class ClaimLost(Exception):
    """The claim ran out and another worker took over: whatever we know is not stored."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """Our right to poll an account, and the clock that began at ``now``."""

    account: ProviderAccount
    token: uuid.UUID
    began: datetime
    monotonic: float

    def now(self) -> datetime:
        return self.began + timedelta(seconds=time.monotonic() - self.monotonic)


def poll_account(*, account_id: int, now: datetime) -> list[PollRun]:
    """Poll every region of an account and return one finished run per region.

    Returns nothing when the account is disabled or another worker polls it now. Never
    raises for what a provider does wrong: the run's state and error say it.
    """
    claim = _claim(account_id, now)
    if claim is None:
        return []
    runs: list[PollRun] = []
    pause = timedelta()
    regions: list[str] = []
    try:
        with _failing_run(claim, None, runs) as failure:
            provider = provider_for(claim.account)
            regions = [region.code for region in provider.regions()]
        pause = failure.pause
        for code in regions:
            failure = _poll_region(claim, provider, code, runs)
            pause = max(pause, failure.pause)
            if failure.of_account:
                break
    except ClaimLost:
        log.warning("poll_claim_lost", extra={"account": account_id})
    finally:
        _release(claim, runs, pause)
    return runs


def due_accounts(*, now: datetime) -> list[int]:
    """Return the accounts whose next poll is due and that nobody polls now."""
    return list(
        ProviderAccount.objects.filter(_free(now), enabled=True)
        .exclude(provider__kind="")
        .filter(Q(next_poll_at=None) | Q(next_poll_at__lte=now))
        .order_by(F("next_poll_at").asc(nulls_first=True), "pk")
        .values_list("pk", flat=True)
    )


def forget_old_runs(*, now: datetime, keep: timedelta = timedelta(days=30)) -> int:
    """Delete finished runs older than ``keep``, but never a region's last complete one."""
    with durable():
        last = (
            PollRun.objects.filter(state=PollRun.State.COMPLETE)
            .values("account", "region")
            .annotate(last=Max("pk"))
            .values("last")
        )
        old = PollRun.objects.filter(finished_at__lt=now - keep).exclude(pk__in=last)
        return old.delete()[0]


def _free(now: datetime) -> Q:
    return Q(claim_token=None) | Q(claim_expires_at__lte=now)


def _claim(account_id: int, now: datetime) -> _Claim | None:
    token = uuid.uuid4()
    with durable():
        mine = ProviderAccount.objects.filter(_free(now), pk=account_id, enabled=True).update(
            claim_token=token, claim_expires_at=now + CLAIM
        )
        if not mine:
            return None
        # Runs of a worker that died before it could finish them.
        PollRun.objects.filter(account_id=account_id, state=PollRun.State.RUNNING).update(
            state=PollRun.State.FAILED, finished_at=now, error=_("The worker stopped before the poll ended.")
        )
        account = ProviderAccount.objects.select_related("provider").get(pk=account_id)
    return _Claim(account, token, now, time.monotonic())


def _held(claim: _Claim) -> None:
    """Part: lock the account and renew our claim, or raise :class:`ClaimLost`."""
    account = (
        ProviderAccount.objects.select_for_update(no_key=True, of=("self",))
        .filter(pk=claim.account.pk, claim_token=claim.token)
        .first()
    )
    if account is None:
        raise ClaimLost
    account.claim_expires_at = claim.now() + CLAIM
    account.save(update_fields=["claim_expires_at"])


@dataclass(slots=True)
class _Failure:
    """What went wrong, as far as it decides how to go on."""

    of_account: bool = False  # the other regions would fail too
    pause: timedelta = timedelta()


@contextmanager
def _failing_run(claim: _Claim, run: PollRun | None, runs: list[PollRun]) -> Iterator[_Failure]:
    """Turn whatever the provider raises into a failed run with a readable error."""
    failure = _Failure()
    try:
        yield failure
        return
    except ClaimLost:
        if run is not None:
            _fail(claim, run, _("The poll took too long, and another worker took over."))
        raise
    except ProviderError as error:
        message = str(error)
        failure.of_account = isinstance(error, (RateLimited, AuthFailed))
        if isinstance(error, RateLimited):
            failure.pause = timedelta(seconds=error.retry_after)
    except Exception as error:
        # An adapter may come from another package: its bug must show in the run, and not end the poll.
        log.exception("poll_adapter_failed", extra={"account": claim.account.pk})
        message = _("The poll failed unexpectedly (%(error)s); the worker’s log says where.") % {
            "error": type(error).__name__
        }
    if run is None:
        run = PollRun(account=claim.account, started_at=claim.began)
    _fail(claim, run, message)
    runs.append(run)


def _fail(claim: _Claim, run: PollRun, message: str) -> None:
    run.state = PollRun.State.FAILED
    run.error = message
    run.finished_at = claim.now()
    with durable():
        run.save()


def _poll_region(claim: _Claim, provider: Provider, code: str, runs: list[PollRun]) -> _Failure:
    with durable():
        _held(claim)
        region, _created = Region.objects.get_or_create(provider=claim.account.provider, code=code)
        run = PollRun.objects.create(account=claim.account, region=region, started_at=claim.now())
    with _failing_run(claim, run, runs) as failure:
        answer: Catalog = provider.offers(code)
        checked = check_catalog(answer, region=region, capabilities=provider.capabilities)
        with durable():
            _held(claim)
            store_catalog(run=run, checked=checked, now=claim.now())
        runs.append(run)
    return failure


def _release(claim: _Claim, runs: list[PollRun], pause: timedelta) -> None:
    now = claim.now()
    wait = max(_interval(claim.account, runs, now), pause)
    # Some jitter, so that accounts with one interval do not meet every time.
    wait *= random.uniform(1.0, 1.1)  # noqa: S311
    with durable():
        ProviderAccount.objects.filter(pk=claim.account.pk, claim_token=claim.token).update(
            claim_token=None, claim_expires_at=None, next_poll_at=now + wait
        )


def _interval(account: ProviderAccount, runs: list[PollRun], now: datetime) -> timedelta:
    """Return the time to the next poll: after failures, as long again as they have lasted.

    That doubles the pause with every failed poll, up to six hours.
    """
    if any(run.state != PollRun.State.FAILED for run in runs):
        return account.poll_interval
    history = PollRun.objects.filter(account=account)
    last_good = history.exclude(state=PollRun.State.FAILED).aggregate(at=Max("started_at"))["at"]
    failed = history.filter(started_at__gt=last_good) if last_good else history
    since = failed.aggregate(at=Min("started_at"))["at"] or now
    return max(min(now - since, LONGEST_PAUSE), account.poll_interval)
