"""Play the story: time passes by an injected clock, everything else is the product itself."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from billing import availability, checkout, drafting, invoicing, metering
from billing.models import Finding, Invoice, VendorBill
from billing.vendor import accrual, landing, matching
from inventory import polling
from inventory.models import ProviderAccount
from leases import lifecycle
from leases.models import Lease, Term
from leases.provisioning import sweep
from leases.requests import CapacityRequest
from portal.accounts.models import Organization, User
from portal.local import focus_bill
from portal.local.demo.story import CUSTOMERS, Booking, Calendar, Search, bookings, searches

Say = Callable[[str], None]
READY = timedelta(minutes=4)  # a machine boots and is probed
LIVE = (Lease.State.SCHEDULED, Lease.State.PROVISIONING, Lease.State.ACTIVE, Lease.State.ENDING)


@dataclass
class Play:
    """What the play knows: people, customers, the cloud, and its clock."""

    calendar: Calendar
    staff: User
    account: ProviderAccount
    customers: dict[str, Organization]
    say: Say
    leases: dict[str, Lease] = field(default_factory=dict)
    closed: list[Invoice] = field(default_factory=list)

    def run(self) -> None:
        """Make the bookings and let the machines live, from the opening until now."""
        waiting = bookings(self.calendar)
        clock = self.calendar.opening
        while True:
            moment = self._next(clock, waiting)
            if moment is None or moment > self.calendar.now:
                break
            clock = moment
            while waiting and waiting[0].booked_at <= clock:
                self._book(waiting.pop(0))
            self._tick(clock)
            if clock == self.calendar.this_month:
                self._close_last_month(clock)
        self._tick(self.calendar.now)
        for wish in searches(self.calendar):
            self._search(wish)
        polling.poll_account(account_id=self.account.pk, now=self.calendar.now)

    def _next(self, after: datetime, waiting: list[Booking]) -> datetime | None:
        """Return the next moment at which something happens."""
        moments = [booking.booked_at for booking in waiting[:1]]
        moments.append((after + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0))
        for term in Term.objects.filter(lease__state__in=LIVE):
            begin, end = term.period.lower, term.period.upper
            moments += [begin, begin + READY, end, end + READY]
        return min((moment for moment in moments if moment > after), default=None)

    def _tick(self, now: datetime) -> None:
        """Run every sweep once, as beat would."""
        lifecycle.lapse_holds(now=now)
        checkout.settle_awaiting(now=now)
        sweep.run_all(now=now)
        metering.meter_due(now=now)

    def _book(self, booking: Booking) -> None:
        organization = self.customers[booking.customer]
        owner = next(facts for facts in CUSTOMERS if facts.name == booking.customer)
        actor = User.objects.get(email=owner.email)
        now = booking.booked_at
        quote = checkout.quote(
            organization=organization,
            request=CapacityRequest(
                gpu_model=booking.gpu_model,
                gpus_per_node=8,
                nodes=booking.nodes,
                start=booking.start,
                end=booking.end,
                one_fabric=booking.one_fabric,
                stack=booking.stack,
            ),
            actor=actor,
            now=now,
            name=booking.name,
            project=organization.projects.filter(name="Research").first(),
            ssh_keys=list(organization.ssh_keys.all()),
            allowed_addresses=["203.0.113.0/24"],
        )
        lease = checkout.accept(
            quote_uid=quote.uid,
            organization=organization,
            actor=actor,
            now=now + timedelta(minutes=4),
            wait_for_funds=booking.outcome == "wait",
        )
        if booking.outcome == "cancel":
            later = now + timedelta(hours=2)
            terms = checkout.quote_cancellation(
                lease_uid=lease.uid, organization=organization, actor=actor, now=later
            )
            lease = checkout.cancel(quote_uid=terms.uid, organization=organization, actor=actor, now=later)
        self.leases[booking.name] = lease
        self.say(f"{booking.name}: {lease.get_state_display().lower()} for {booking.customer}")

    def _search(self, wish: Search) -> None:
        request = CapacityRequest(
            gpu_model=wish.gpu_model,
            gpus_per_node=8,
            nodes=wish.nodes,
            start=wish.start,
            end=wish.start + timedelta(days=wish.days),
        )
        availability.search(organization=self.customers[wish.customer], request=request, now=wish.asked_at)

    def _close_last_month(self, now: datetime) -> None:
        """Finalize last month's invoices on the first of this one."""
        issued = min(now + timedelta(hours=6), self.calendar.now)  # the demo may be played that very morning
        drafting.draft_month(month=self.calendar.last_month.date(), now=issued)
        for invoice in Invoice.objects.filter(state=Invoice.State.DRAFT).order_by("organization_id"):
            self.closed.append(invoicing.finalize(invoice_uid=invoice.uid, actor=self.staff, now=issued))
        self.say(f"{len(self.closed)} invoices for {self.calendar.last_month:%B %Y} are finalized")

    def reconcile(self) -> tuple[VendorBill, list[Finding]]:
        """Write the provider's bill of last month with four faults, import it, and match it."""
        month = self.calendar.last_month.date()
        now = self.calendar.now
        accrual.accrue_month(month=month, now=now)
        text = io.BytesIO()
        focus_bill.write_focus_bill(
            account=self.account, month=month, faults=focus_bill.FOUR_FAULTS, file=text, now=now
        )
        text.seek(0)
        bill = landing.land(
            account_id=self.account.pk,
            month=month,
            file=text,
            file_name=f"focus-{month:%Y-%m}.csv",
            actor=self.staff,
            now=now,
        )
        matching.classify(bill_id=bill.pk, now=now)
        bill.refresh_from_db()
        return bill, list(Finding.objects.filter(account=self.account, month=month).order_by("pk"))
