"""Settle what a bill differs in: accept it, dispute it with the provider, or open it again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils.translation import gettext as _

from billing.models import Finding, VendorBill
from billing.vendor import postings
from billing.vendor.locks import lock_month
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.transactions import durable, require_transaction

DECISIONS = {
    "accept": Finding.State.ACCEPTED,
    "dispute": Finding.State.DISPUTED,
    "reopen": Finding.State.OPEN,
    **{str(state): state for state in (Finding.State.ACCEPTED, Finding.State.DISPUTED, Finding.State.OPEN)},
}


class CannotSettle(Conflict):
    """The finding's state, or its bill's, does not allow this decision."""

    code = "finding-cannot-be-settled"


def settle(*, finding_uid: str, decision: str, note: str, actor: User | None, now: datetime) -> Finding:
    """Record what was decided about one finding, why, and by whom.

    ``decision`` is ``accept`` (we pay it), ``dispute`` (we pay under protest and claim it
    back) or ``reopen``. The same decision again changes nothing. Once the bill is
    approved, changing between accepted and disputed moves the amount in the ledger.

    Raises :class:`InvalidInput` for an unknown decision or an empty note,
    :class:`NotFound`, and :class:`CannotSettle` for a cured finding or one that would be
    open on an approved bill (V4).
    """
    return settle_all(finding_uids=[finding_uid], decision=decision, note=note, actor=actor, now=now)[0]


def settle_all(
    *, finding_uids: Sequence[str], decision: str, note: str, actor: User | None, now: datetime
) -> list[Finding]:
    """Settle several findings alike: all of them, or none. See :func:`settle`."""
    state = DECISIONS.get(decision)
    if state is None:
        raise InvalidInput(_("Choose to accept, to dispute or to reopen."), field="decision")
    note = note.strip()
    if not note:
        raise InvalidInput(_("Say why, so that the next reader understands the decision."), field="note")
    with durable():
        known = list(Finding.objects.filter(uid__in=finding_uids))
        if len(known) < len(set(finding_uids)):
            raise NotFound(_("There is no such finding."))
        for account_id, month in sorted({(finding.account_id, finding.month) for finding in known}):
            lock_month(account_id=account_id, month=month)
        findings = (
            Finding.objects.select_for_update(no_key=True, of=("self",))
            .select_related("account")
            .filter(uid__in=finding_uids)
            .order_by("pk")
        )
        return [_settle(finding, state, note, actor, now) for finding in findings]


def _settle(finding: Finding, state: Finding.State, note: str, actor: User | None, now: datetime) -> Finding:
    """Part: record the decision on a locked finding."""
    require_transaction()
    if finding.state == state:
        return finding
    if finding.state == Finding.State.CURED:
        raise CannotSettle(_("The difference is gone; there is nothing left to settle."))
    approved = VendorBill.objects.filter(
        account=finding.account_id, month=finding.month, state=VendorBill.State.APPROVED
    ).first()
    if approved is not None and state == Finding.State.OPEN:
        raise CannotSettle(_("The bill is approved for payment; accept or dispute the finding instead."))
    before = finding.state
    finding.state = state
    finding.settled_at = None if state == Finding.State.OPEN else now
    finding.settled_by = None if state == Finding.State.OPEN else actor
    by = actor.email if actor else events.SYSTEM
    finding.note = f"{finding.note}\n{now:%Y-%m-%d %H:%M} {by}: {note}".strip()
    finding.save(update_fields=["state", "settled_at", "settled_by", "note"])
    if approved is not None:
        postings.post_settlement(approved, finding, before=before, now=now)
    events.record(
        kind=f"finding.{state}" if state != Finding.State.OPEN else "finding.reopened",
        subject_type="finding",
        subject_id=finding.uid,
        actor=actor,
        now=now,
        before={"state": before},
        after={
            "state": state,
            "class": finding.finding_class,
            "amount": f"{finding.amount:f}",
            "currency": finding.currency,
            "note": note,
        },
        message=finding.summary,
    )
    return finding
