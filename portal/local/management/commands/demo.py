"""``manage.py demo``: the product's main job on an emulated cloud, in local mode."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.test.utils import override_settings
from django.utils import timezone

from billing.models import Charge, Entry, Invoice, UsageRecord
from inventory.models import Node, Offer, PricePoint
from leases.models import Allocation, Instance, Lease
from portal.accounts.models import User
from portal.common import nudge
from portal.common.money import format_money
from portal.local.demo import setup
from portal.local.demo.play import Play
from portal.local.demo.story import CUSTOMER, PASSWORD, STAFF, Calendar
from portal.notifications import dispatch, sending


class Command(BaseCommand):
    help = (
        "Play the demo: poll the cloud, buy capacity, make three customers, lease, launch, meter, invoice, and "
        "reconcile a provider's bill with four planted faults. Local mode only. Running it again adds nothing."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.SUBLET_LOCAL:
            raise CommandError("The demo has well-known passwords: it runs in local mode only (make run).")
        if not settings.SUBLET_EC2_ENDPOINT:
            raise CommandError('The demo needs its cloud: start everything with "make run".')
        if User.objects.filter(email=STAFF).exists():
            self.stdout.write("The demo was played before; nothing was added.")
            return
        if User.objects.exists() or Node.objects.exists():
            raise CommandError("This database is in use: the demo plays on an empty one only.")
        with nudge.silent():
            self._play()
            self._send_mail()
        self.stdout.write("")
        call_command("audit", stdout=self.stdout)

    def _say(self, text: str) -> None:
        self.stdout.write(f"  {text}")
        self.stdout.flush()

    def _play(self) -> None:
        calendar = Calendar(now=timezone.now())
        staff = setup.staff()
        self._say("loading the catalog of seven clouds, and polling the demo cloud")
        account, runs = setup.cloud(staff, calendar)
        failed = [run for run in runs if run.error]
        if failed or not runs:
            raise CommandError(
                f"The demo cloud could not be polled: {failed[0].error if failed else 'no region'}"
            )
        commitments = setup.holdings(account, staff, calendar)
        setup.prices(calendar)
        customers = setup.customers(staff, calendar)
        self._say(
            f"{len(commitments)} commitments with {Node.objects.count()} nodes, {len(customers)} customers"
        )
        play = Play(calendar=calendar, staff=staff, account=account, customers=customers, say=self._say)
        play.run()
        bill, findings = play.reconcile()
        self._table(
            [
                (
                    "offers known",
                    f"{Offer.objects.count():,}",
                    f"{PricePoint.objects.count():,} price points",
                ),
                (
                    "nodes held",
                    str(Node.objects.count()),
                    ", ".join(str(row.instance_type) for row in commitments),
                ),
                (
                    "leases",
                    str(Lease.objects.count()),
                    ", ".join(
                        f"{Lease.objects.filter(state=state).count()} {label}"
                        for state, label in Lease.State.choices
                        if Lease.objects.filter(state=state).exists()
                    ),
                ),
                ("allocations", str(Allocation.objects.count()), ""),
                (
                    "machines",
                    str(Instance.objects.count()),
                    f"{Instance.objects.filter(state=Instance.State.RUNNING).count()} running",
                ),
                (
                    "usage",
                    f"{UsageRecord.objects.count():,} records",
                    f"{Charge.objects.count():,} charges, {Entry.objects.count():,} ledger entries",
                ),
                *(
                    (
                        f"invoice {invoice.number}",
                        format_money(invoice.total, invoice.currency),
                        f"{invoice.organization.name}, {invoice.get_state_display().lower()}",
                    )
                    for invoice in Invoice.objects.exclude(number="").select_related("organization")
                ),
                (
                    "vendor bill",
                    format_money(bill.total, bill.currency),
                    f"{bill.line_count:,} lines, {bill.format}",
                ),
                *(
                    ("finding", format_money(finding.amount, finding.currency), finding.summary)
                    for finding in findings
                ),
            ]
        )
        self.stdout.write("")
        self.stdout.write(f"Customer login: {CUSTOMER}   Staff login: {STAFF}   Password: {PASSWORD}")

    def _send_mail(self) -> None:
        """Send the story's e-mails, old as they are, to nowhere."""
        with override_settings(EMAIL_BACKEND="django.core.mail.backends.dummy.EmailBackend"):
            while dispatch.dispatch_events(now=timezone.now()):
                pass
            while sending.send_deliveries():
                pass

    def _table(self, rows: list[tuple[str, str, str]]) -> None:
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        self.stdout.write("")
        for what, count, detail in rows:
            self.stdout.write(f"  {what:<{widths[0]}}  {count:>{widths[1]}}  {detail}".rstrip())
