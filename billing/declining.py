"""Give a quote's capacity back before it lapses by itself."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from billing import accounts
from billing.accepting import lock_quote
from billing.models import Quote
from leases import lifecycle
from leases.models import Lease
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict
from portal.common.transactions import durable


def decline(*, quote_uid: str, organization: Organization, actor: User | None, now: datetime) -> Quote:
    """Public: drop an open booking quote; its nodes are free at once. Nothing is charged.

    Locks the wallet, then the lease. A quote that has lapsed already is answered as it
    is. Raises NotFound for another organization's quote, Conflict for an accepted one.
    """
    with durable():
        accounts.lock_account(organization)
        lease, quote = lock_quote(quote_uid, organization=organization, kind=Quote.Kind.BOOKING)
        if quote.state == Quote.State.ACCEPTED:
            raise Conflict(_("This quote was accepted: cancel the lease instead."))
        if lease.state == Lease.State.HELD:
            lifecycle.cancel(lease, actor=actor, now=now, message=_("The quote was dropped."))
        if quote.state == Quote.State.OPEN:
            quote.state = Quote.State.LAPSED
            quote.save(update_fields=["state"])
    return quote
