"""The double-entry ledger: entries whose postings sum to zero, and the months they lie in.

Debits are above zero, credits below; every amount is in the entry's one currency with
at most eight decimals. PostgreSQL keeps the rules (M1-M4, see the migrations), so a
mistake here is refused there. Nothing is ever changed: corrections are reversals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from django.db import connection
from django.db.models import Max, Sum
from django.utils.translation import gettext as _

from billing.models import AccountingPeriod, Entry, LedgerAccount, Posting
from inventory.models import ProviderAccount
from portal.accounts import events
from portal.accounts.idempotency import payload_hash
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict, InvalidInput
from portal.common.money import ledger as eight_decimals
from portal.common.transactions import durable, require_transaction, retry_conflicts

Kind = LedgerAccount.Kind


class EntryConflict(Conflict):
    """The key was posted before with other content."""

    code = "entry-conflict"


class PeriodClosed(Conflict):
    """The month cannot be closed, or is closed already."""

    code = "period-closed"


@dataclass(frozen=True)
class Line:
    """One side of an entry: debit above zero, credit below, never zero."""

    kind: str
    amount: Decimal
    organization: Organization | None = None
    provider_account: ProviderAccount | None = None

    @property
    def owner(self) -> tuple[str, int | None, int | None]:
        return (
            str(self.kind),
            self.organization.pk if self.organization else None,
            self.provider_account.pk if self.provider_account else None,
        )


def month_of(moment: datetime) -> date:
    """Return the first day of the UTC month that ``moment`` lies in."""
    return moment.astimezone(UTC).date().replace(day=1)


def next_month(month: date) -> date:
    """Return the first day of the month after ``month``."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def last_month(moment: datetime) -> date:
    """Return the first day of the UTC month before the one of ``moment``."""
    first = month_of(moment)
    return date(first.year - (first.month == 1), (first.month - 2) % 12 + 1, 1)


def month_start(month: date) -> datetime:
    """Return the first moment of ``month``, UTC."""
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def parse_month(text: str) -> date:
    """Return the first day of a month written ``YYYY-MM``; raise :class:`InvalidInput` otherwise."""
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise InvalidInput(_("Write the month as YYYY-MM, for example 2026-11."), field="month") from None


def post(
    *,
    key: str,
    effective_at: datetime,
    description: str,
    lines: Sequence[Line],
    currency: str,
    now: datetime,
    reverses: Entry | None = None,
) -> Entry:
    """Part: post one balanced entry, once per ``key`` (M4).

    The same key with the same content (the description, which has a language, apart)
    returns the entry of the first time; with other content it raises :class:`EntryConflict`. ``effective_at`` is when the thing happened;
    where its month is closed, the entry goes to the earliest month that is open and keeps
    ``effective_at``. Raises ``ValueError`` for lines that cannot balance: that is a bug of
    the caller, not something a person typed.
    """
    require_transaction()
    _check_lines(lines)
    digest = payload_hash(
        {
            "effective_at": effective_at.astimezone(UTC).isoformat(),
            "currency": currency,
            "reverses": reverses.key if reverses else None,
            "lines": [[*line.owner, f"{line.amount:.8f}"] for line in lines],
        }
    )
    period = lock_period(effective_at=effective_at)
    accounts = _accounts(lines, currency)
    created = _insert_entry(
        key=key,
        digest=digest,
        period=period,
        effective_at=effective_at,
        posted_at=now,
        description=description[:200],
        lines=len(lines),
        reverses=reverses,
    )
    if created is not None:
        Posting.objects.bulk_create(
            Posting(entry=created, account=accounts[line.owner], currency=currency, amount=line.amount)
            for line in lines
        )
        return created
    found = Entry.objects.get(key=key)  # from before, or of a twin that was first and has committed
    if found.payload_hash != digest:
        raise EntryConflict(
            _("“%(key)s” is already in the ledger with other content. Correct it with a reversal.")
            % {"key": key}
        )
    return found


def _check_lines(lines: Sequence[Line]) -> None:
    if len(lines) < 2:
        raise ValueError("An entry needs at least two lines.")
    for line in lines:
        if not isinstance(line.amount, Decimal) or not line.amount.is_finite():
            raise ValueError(f"{line.amount!r} is no Decimal amount.")
        if line.amount == 0:
            raise ValueError("A line of zero says nothing.")
        if line.amount != eight_decimals(line.amount):
            raise ValueError(f"{line.amount} has more decimals than the ledger keeps; round it first.")
    if sum(line.amount for line in lines) != 0:
        raise ValueError("The lines do not sum to zero.")


def lock_period(*, effective_at: datetime) -> AccountingPeriod:
    """Part: return the open period for something of ``effective_at``, locked FOR SHARE (M3).

    Its own month, or the earliest one after the last closed month. A close that is
    under way is waited for.
    """
    require_transaction()
    month = month_of(effective_at)
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, closed_at FROM billing_accountingperiod WHERE month = %s FOR SHARE", [month]
            )
            row = cursor.fetchone()
        if row is not None and row[1] is None:
            return AccountingPeriod(pk=row[0], month=month)
        closed = AccountingPeriod.objects.filter(closed_at__isnull=False).aggregate(last=Max("month"))["last"]
        if closed is not None and closed >= month:
            month = next_month(closed)
            continue
        with connection.cursor() as cursor:
            # FOR SHARE of no row locks nothing: make the row, then lock it. A close that was under
            # way may have gone past this month meanwhile; then look again.
            cursor.execute(
                "INSERT INTO billing_accountingperiod (month) SELECT %s WHERE NOT EXISTS"
                " (SELECT FROM billing_accountingperiod WHERE month > %s AND closed_at IS NOT NULL)"
                " ON CONFLICT DO NOTHING",
                [month, month],
            )


def _accounts(
    lines: Sequence[Line], currency: str
) -> dict[tuple[str, int | None, int | None], LedgerAccount]:
    """Return the lines' accounts, opening those that are new (a racing twin's is used)."""
    wanted = {line.owner: line for line in lines}

    def known() -> dict[tuple[str, int | None, int | None], LedgerAccount]:
        found = LedgerAccount.objects.filter(
            currency=currency,
            kind__in={kind for kind, _org, _provider in wanted},
        )
        organizations = {owner[1] for owner in wanted if owner[1]}
        found = found.filter(organization__in=organizations) | found.filter(organization=None)
        return {
            (account.kind, account.organization_id, account.provider_account_id): account
            for account in found
            if (account.kind, account.organization_id, account.provider_account_id) in wanted
        }

    accounts = known()
    missing = [line for owner, line in sorted(wanted.items(), key=str) if owner not in accounts]
    if missing:
        LedgerAccount.objects.bulk_create(
            [
                LedgerAccount(
                    kind=line.kind,
                    currency=currency,
                    organization=line.organization,
                    provider_account=line.provider_account,
                )
                for line in missing
            ],
            ignore_conflicts=True,
        )
        accounts = known()
    return accounts


def _insert_entry(
    *,
    key: str,
    digest: str,
    period: AccountingPeriod,
    effective_at: datetime,
    posted_at: datetime,
    description: str,
    lines: int,
    reverses: Entry | None,
) -> Entry | None:
    """Insert the entry unless its key is there; wait for a twin that has not committed yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_entry"
            " (key, payload_hash, period_id, effective_at, posted_at, description, lines, reverses_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING id",
            [
                key,
                digest,
                period.pk,
                effective_at,
                posted_at,
                description,
                lines,
                reverses.pk if reverses else None,
            ],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    return Entry(
        pk=row[0],
        key=key,
        payload_hash=digest,
        period=period,
        effective_at=effective_at,
        posted_at=posted_at,
        description=description,
        lines=lines,
        reverses=reverses,
    )


def reverse(entry: Entry, *, description: str, effective_at: datetime, now: datetime, key: str = "") -> Entry:
    """Part: post the exact opposite of ``entry``; an entry is reversed at most once (M2).

    Called again with the same content, it returns the reversal of the first time.
    """
    require_transaction()
    postings = list(
        entry.postings.select_related("account__organization", "account__provider_account").order_by("pk")
    )
    return post(
        key=key or f"reversal:{entry.key}",
        effective_at=effective_at,
        description=description,
        lines=[
            Line(
                kind=posting.account.kind,
                amount=-posting.amount,
                organization=posting.account.organization,
                provider_account=posting.account.provider_account,
            )
            for posting in postings
        ],
        currency=postings[0].currency,
        now=now,
        reverses=entry,
    )


def balance(
    kind: str,
    *,
    currency: str,
    organization: Organization | None = None,
    provider_account: ProviderAccount | None = None,
    before: datetime | None = None,
) -> Decimal:
    """Return the sum of the postings of ``kind``, debits above zero, in ``currency``.

    ``organization`` and ``provider_account`` narrow it to one owner's account, ``before``
    to what was effective earlier than that moment. Without an owner, all are summed.
    """
    postings = Posting.objects.filter(account__kind=kind, account__currency=currency)
    if organization is not None:
        postings = postings.filter(account__organization=organization)
    if provider_account is not None:
        postings = postings.filter(account__provider_account=provider_account)
    if before is not None:
        postings = postings.filter(entry__effective_at__lt=before)
    return postings.aggregate(total=Sum("amount"))["total"] or Decimal(0)


def close_period(*, month: date, actor: User | None, now: datetime) -> AccountingPeriod:
    """Close the books up to and including ``month`` (any day of it, UTC), for good (M3).

    What becomes known later about a closed month is posted to the open one and keeps its
    date. Raises :class:`InvalidInput` while the month is not over and :class:`PeriodClosed`
    when it is closed already.
    """
    month = month.replace(day=1)
    if month_start(next_month(month)) > now:
        raise InvalidInput(
            _("%(month)s is not over yet: close it from %(next)s on.")
            % {"month": f"{month:%Y-%m}", "next": next_month(month).isoformat()},
            field="month",
        )

    def attempt() -> AccountingPeriod:
        with durable():
            with connection.cursor() as cursor:
                # No period may appear behind our back; postings to known ones are waited for below.
                cursor.execute("LOCK TABLE billing_accountingperiod IN SHARE ROW EXCLUSIVE MODE")
                cursor.execute(
                    "INSERT INTO billing_accountingperiod (month) SELECT %s WHERE NOT EXISTS"
                    " (SELECT FROM billing_accountingperiod WHERE month >= %s AND closed_at IS NOT NULL)"
                    " ON CONFLICT DO NOTHING",
                    [month, month],
                )
            # FOR UPDATE: waits for every posting that reads a period FOR SHARE.
            open_periods = list(
                AccountingPeriod.objects.select_for_update(of=("self",))
                .filter(month__lte=month, closed_at=None)
                .order_by("month")
            )
            if not open_periods or open_periods[-1].month != month:
                raise PeriodClosed(_("%(month)s is closed already.") % {"month": f"{month:%Y-%m}"})
            for period in open_periods:
                period.closed_at = now
                period.closed_by = actor
            AccountingPeriod.objects.bulk_update(open_periods, ["closed_at", "closed_by"])
            events.record(
                kind="period.closed",
                subject_type="period",
                subject_id=f"{month:%Y-%m}",
                actor=actor,
                now=now,
                after={"months": [f"{period.month:%Y-%m}" for period in open_periods]},
            )
            return open_periods[-1]

    return retry_conflicts(attempt)
