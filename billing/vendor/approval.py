"""Approve a provider's bill for payment."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing.models import Finding, VendorBill
from billing.vendor import accrual, matching, postings
from billing.vendor.locks import lock_month
from billing.vendor.matching import BillSettled
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, NotFound
from portal.common.transactions import durable


class OpenFindings(Conflict):
    """Material findings are open: each must be accepted or disputed first (V4)."""

    code = "open-findings"


def approve(*, bill_uid: str, actor: User | None, now: datetime) -> VendorBill:
    """Approve the bill for payment and post it to the ledger.

    Classifies it afresh first, so that what is approved is what is true now, and accrues
    its month. Approving twice changes nothing. Raises :class:`NotFound`,
    :class:`BillSettled` for a replaced bill, and :class:`OpenFindings` while a material
    finding of its month is open; nothing is posted then.
    """
    known = VendorBill.objects.filter(uid=bill_uid).first()
    if known is None:
        raise NotFound(_("There is no such bill."))
    if known.state in (VendorBill.State.LANDED, VendorBill.State.CLASSIFIED):
        matching.classify(bill_id=known.pk, now=now, actor=actor)
    with durable():
        lock_month(account_id=known.account_id, month=known.month)
        bill = (
            VendorBill.objects.select_for_update(no_key=True, of=("self",))
            .select_related("account")
            .get(pk=known.pk)
        )
        if bill.state == VendorBill.State.APPROVED:
            return bill
        if bill.state != VendorBill.State.CLASSIFIED:
            raise BillSettled(_("A later bill replaced this one; approve that."))
        unsettled = Finding.objects.filter(
            account=bill.account_id, month=bill.month, state=Finding.State.OPEN, material=True
        )
        if count := unsettled.count():
            raise OpenFindings(
                ngettext(
                    "%(count)d finding is open: accept or dispute it first.",
                    "%(count)d findings are open: accept or dispute them first.",
                    count,
                )
                % {"count": count},
                findings=list(unsettled.values_list("uid", flat=True)[:100]),
            )
        accrual.accrue(bill.account, month=bill.month, now=now)
        bill.entry = postings.post_approval(bill, now=now)
        bill.state = VendorBill.State.APPROVED
        bill.approved_at = now
        bill.approved_by = actor
        bill.save(update_fields=["state", "approved_at", "approved_by", "entry"])
        events.record(
            kind="vendor_bill.approved",
            subject_type="vendor_bill",
            subject_id=bill.uid,
            actor=actor,
            now=now,
            before={"state": VendorBill.State.CLASSIFIED},
            after={"state": bill.state, "total": f"{bill.total:f}", "currency": bill.currency},
            message=str(bill),
        )
    return bill
