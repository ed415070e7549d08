"""Ask a provider what it sells, and keep what it said with its age.

A poll is claimed with a token, so that two workers never poll one account at once. The
network is used outside of transactions, in threads with a time limit; each region is
stored in one transaction, and only where the claim is still ours. A poll that fails or
returns half deletes nothing (P4).
"""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db.models import F, Max, Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inventory import circuit
from inventory.answers import CURRENCY, check_catalog, is_code
from inventory.fetching import Answer, Calls
from inventory.models import PollRun, ProviderAccount, Region
from inventory.poll_store import store_catalog
from inventory.providers.base import Provider, RegionInfo
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, RateLimited, TimedOut
from inventory.providers.registry import provider_for
from portal.common.secrecy import without_secrets
from portal.common.text import one_line
from portal.common.transactions import durable

log = logging.getLogger(__name__)

CLAIM = timedelta(minutes=5)  # without renewal; a dead worker's account waits as long
RENEWAL = timedelta(minutes=1)
PATIENCE = timedelta(minutes=5)  # for one region
WHOLE_POLL = timedelta(minutes=15)  # below Celery's time limits
MOST_REGIONS = 500
MOST_AT_ONCE = 8
LONGEST_ERROR = 4_000  # characters


class ClaimLost(Exception):
    """The claim ran out and another worker took over: whatever we know is not stored."""


@dataclass(slots=True)
class _Poll:
    """Our right to poll an account, the clock that began at ``began``, and what came of it."""

    account: ProviderAccount
    token: uuid.UUID
    began: datetime
    monotonic: float
    renewed: datetime
    trial: bool
    runs: list[PollRun] = field(default_factory=list)
    stored: int = 0  # regions
    refusals: int = 0  # of the credentials
    asked: timedelta = timedelta()  # the pause that the provider asked for
    over: bool = False  # the other regions would fail too

    def now(self) -> datetime:
        return self.began + timedelta(seconds=time.monotonic() - self.monotonic)


def poll_account(*, account_id: int, now: datetime, only_due: bool = False) -> list[PollRun]:
    """Poll every region of an account and return one finished run per region.

    Returns nothing when the account is disabled, another worker polls it now, or, with
    ``only_due``, its next poll is not due. After failures one region is tried first. Never
    raises for what a provider does wrong: the run's state and error say it.
    """
    poll = _claim(account_id, now, only_due)
    if poll is None:
        return []
    try:
        _poll(poll)
    except ClaimLost:
        log.warning("poll_claim_lost", extra={"account": account_id})
    finally:
        _release(poll)
    return poll.runs


def due_accounts(*, now: datetime) -> list[int]:
    """Return the accounts whose next poll is due and that nobody polls now."""
    return list(
        ProviderAccount.objects.filter(_free(now), _due(now), enabled=True)
        .exclude(provider__kind="")
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
    # A claim that ends later than any can was made while the clock was ahead.
    ahead = now + CLAIM + WHOLE_POLL
    return Q(claim_token=None) | Q(claim_expires_at__lte=now) | Q(claim_expires_at__gt=ahead)


def _due(now: datetime) -> Q:
    # So was a poll planned for later than the longest pause.
    ahead = now + circuit.LONGEST_ASKED + F("poll_interval") * 2
    return Q(next_poll_at=None) | Q(next_poll_at__lte=now) | Q(next_poll_at__gt=ahead)


def _claim(account_id: int, now: datetime, only_due: bool) -> _Poll | None:
    token = uuid.uuid4()
    with durable():
        free = ProviderAccount.objects.filter(_free(now), pk=account_id, enabled=True)
        if only_due:
            free = free.filter(_due(now))
        if not free.update(claim_token=token, claim_expires_at=now + CLAIM):
            return None
        # Runs of a worker that died before it could finish them.
        PollRun.objects.filter(account_id=account_id, state=PollRun.State.RUNNING).update(
            state=PollRun.State.FAILED, finished_at=now, error=_("The worker stopped before the poll ended.")
        )
        account = ProviderAccount.objects.select_related("provider").get(pk=account_id)
    trial = account.circuit_opened_at is not None
    return _Poll(account, token, now, time.monotonic(), renewed=now, trial=trial)


def _held(poll: _Poll) -> None:
    """Part: lock the account and renew our claim, or raise :class:`ClaimLost`."""
    poll.renewed = poll.now()
    mine = ProviderAccount.objects.filter(pk=poll.account.pk, claim_token=poll.token)
    if not mine.update(claim_expires_at=poll.renewed + CLAIM):
        raise ClaimLost


def _poll(poll: _Poll) -> None:
    calls = Calls()
    try:
        provider = provider_for(poll.account)
        calls.start("", provider.regions)
        codes = _region_codes(poll, _wait(poll, calls, poll.now() + PATIENCE).get())
        at_once = max(1, min(int(getattr(provider, "regions_at_once", 1)), MOST_AT_ONCE))
    except ClaimLost:
        raise
    except Exception as error:  # noqa: BLE001 - told in the run, see _failure
        _fail(poll, None, error)
        return
    waiting = deque(codes)
    flying: dict[str, tuple[PollRun, datetime]] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < (1 if poll.trial else at_once) and not poll.over:
                code = waiting.popleft()
                flying[code] = (_begin(poll, code), poll.now() + PATIENCE)
                calls.start(code, partial(provider.offers, code))
            if not flying:
                break
            answer = _wait(poll, calls, min(until for _run, until in flying.values()))
            _settle(poll, provider, answer, flying)
            if poll.now() - poll.began > WHOLE_POLL:
                poll.over = True
                _note_left(poll, len(waiting))
                waiting.clear()
    except ClaimLost:
        for run, _until in flying.values():
            _finish_failed(poll, run, _("The poll took too long, and another worker took over."))
        raise


def _settle(
    poll: _Poll, provider: Provider, answer: Answer, flying: dict[str, tuple[PollRun, datetime]]
) -> None:
    """Store an answer; an empty one means that somebody ran out of time."""
    if answer.key not in flying:
        if not answer.key:
            for code, (run, until) in list(flying.items()):
                if until <= poll.now():
                    del flying[code]
                    _fail(poll, run, _too_slow(PATIENCE))
        return  # else it came too late, and its run has failed already
    run, _until = flying[answer.key]
    assert run.region is not None
    try:
        checked = check_catalog(
            answer.get(),
            region=run.region,
            capabilities=provider.capabilities,
            currency=str(poll.account.options.get("currency") or CURRENCY).upper(),
            now=poll.now(),
        )
        with durable():
            _held(poll)
            store_catalog(run=run, checked=checked, now=poll.now())
    except ClaimLost:
        raise
    except Exception as error:  # noqa: BLE001 - told in the run, see _failure
        del flying[answer.key]
        _fail(poll, run, error)
        return
    del flying[answer.key]
    poll.runs.append(run)
    poll.stored += 1
    poll.trial = False


def _wait(poll: _Poll, calls: Calls, until: datetime) -> Answer:
    """Return the next answer, or at ``until`` an empty one with an error; renew the claim meanwhile."""
    while True:
        now = poll.now()
        if now - poll.renewed >= RENEWAL:
            with durable():
                _held(poll)
        seconds = min(until - now, RENEWAL).total_seconds()
        if answer := calls.next(seconds=seconds):
            return answer
        if poll.now() >= until:
            return Answer("", error=_too_slow(PATIENCE))


def _region_codes(poll: _Poll, answer: Any) -> list[str]:
    """Return the regions to poll, those first that were polled the longest ago."""
    if not isinstance(answer, list | tuple) or not all(isinstance(item, RegionInfo) for item in answer):
        raise BadAnswer(_("The adapter’s list of regions is not one."))
    codes = list(dict.fromkeys(item.code for item in answer))
    for code in codes:
        if not is_code(code):
            raise BadAnswer(
                _("The provider lists a region “%(text)s”: that is no code.") % {"text": one_line(code)}
            )
    if not codes:
        raise BadAnswer(_("The provider lists no region for this account."))
    if len(codes) > MOST_REGIONS:
        raise BadAnswer(_("The provider lists %(n)s regions: that is no answer.") % {"n": len(codes)})
    wanted = poll.account.options.get("regions")
    if isinstance(wanted, list) and wanted:
        if missing := [code for code in wanted if code not in codes]:
            trial, poll.trial = poll.trial, False  # ours to correct: it says nothing about the provider
            _fail(poll, None, _unknown_regions(missing, codes))
            poll.trial = trial
        codes = [code for code in codes if code in wanted]
    last = dict(
        PollRun.objects.filter(account=poll.account, region__code__in=codes)
        .values_list("region__code")
        .annotate(last=Max("finished_at"))
    )
    polled = [code for code in codes if last.get(code)]
    return [code for code in codes if code not in polled] + sorted(polled, key=lambda code: last[code])


def _unknown_regions(missing: Collection[object], codes: Collection[str]) -> ProviderError:
    return ProviderError(
        _(
            "The account’s options name regions that the provider does not list: %(missing)s. "
            "Correct “regions”; listed are %(listed)s."
        )
        % {
            "missing": ", ".join(one_line(code) for code in list(missing)[:10]),
            "listed": ", ".join(sorted(codes)[:40]),
        }
    )


def _begin(poll: _Poll, code: str) -> PollRun:
    with durable():
        _held(poll)
        region, _created = Region.objects.get_or_create(provider=poll.account.provider, code=code)
        return PollRun.objects.create(account=poll.account, region=region, started_at=poll.now())


def _too_slow(patience: timedelta) -> TimedOut:
    minutes = int(patience.total_seconds() // 60)
    return TimedOut(
        ngettext(
            "The provider has not answered completely within %(n)s minute.",
            "The provider has not answered completely within %(n)s minutes.",
            minutes,
        )
        % {"n": minutes}
    )


def _note_left(poll: _Poll, left: int) -> None:
    if left:
        text = ngettext(
            "The poll took too long: %(n)s region was left for the next one, which begins with it.",
            "The poll took too long: %(n)s regions were left for the next one, which begins with them.",
            left,
        )
        _fail(poll, None, TimedOut(text % {"n": left}))


def _fail(poll: _Poll, run: PollRun | None, error: Exception) -> None:
    """Turn whatever the provider raised into a failed run with a readable error."""
    if isinstance(error, ProviderError):
        message = str(error)
        if isinstance(error, RateLimited):
            poll.over = True
            poll.asked = max(poll.asked, circuit.asked_pause(error.retry_after))
        # One region may be closed to good credentials; a second one, or the list of regions, decides.
        elif isinstance(error, AuthFailed) and not poll.stored:
            poll.refusals += 1
            poll.over = poll.over or run is None or poll.refusals > 1
    else:
        # An adapter may come from another package: its bug must show in the run, and not end the poll.
        # Not as exc_info: a report of it would hold the credentials among the frames' variables.
        log.error(
            "poll_adapter_failed",
            extra={
                "account": poll.account.pk,
                "traceback": without_secrets("".join(traceback.format_exception(error))),
            },
        )
        message = _("The poll failed unexpectedly (%(error)s); the worker’s log says where.") % {
            "error": type(error).__name__
        }
    if poll.trial:
        poll.over = True
    if run is None:
        run = PollRun(account=poll.account, started_at=poll.began)
    _finish_failed(poll, run, message)
    poll.runs.append(run)


def _finish_failed(poll: _Poll, run: PollRun, message: str) -> None:
    run.state = PollRun.State.FAILED
    run.error = _storable(message)
    run.finished_at = poll.now()
    run.offers_seen = run.offers_written = run.prices_written = 0
    run.unknown_types = []
    with durable():
        run.save()


def _storable(message: str) -> str:
    """Return a foreign error as PostgreSQL can keep it and a person can read it, without secrets."""
    lines = without_secrets(message)[:LONGEST_ERROR].splitlines()
    return "\n".join(one_line(line, longest=LONGEST_ERROR) for line in lines)


def _release(poll: _Poll) -> None:
    now = poll.now()
    with durable():
        account = (
            ProviderAccount.objects.select_for_update(no_key=True, of=("self",))
            .filter(pk=poll.account.pk, claim_token=poll.token)
            .first()
        )
        if account is None:
            return
        was_open = account.circuit_opened_at is not None
        if poll.stored:
            circuit.succeeded(account, now=now)
            if poll.asked:
                account.next_poll_at = max(account.next_poll_at or now, now + poll.asked)
        else:
            circuit.failed(account, refused=poll.refusals > 0, asked=poll.asked, now=now)
        if was_open != (account.circuit_opened_at is not None):
            circuit.record_turn(account, error=poll.runs[-1].error if poll.runs else "", now=now)
        account.claim_token = account.claim_expires_at = None
        account.save(
            update_fields=[
                "claim_token",
                "claim_expires_at",
                "next_poll_at",
                "poll_failures",
                "circuit_opened_at",
            ]
        )
