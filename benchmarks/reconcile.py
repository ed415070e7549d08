"""How long does a bill of 100,000 lines take to land and reconcile, beside plain COPY and one aggregate?

    .venv/bin/python benchmarks/reconcile.py --lines 100000

The bill is a month of machine hours as AWS's FOCUS 1.0 export writes them, with four
planted faults. ``product`` lands it (every value checked, raw rows kept), classifies
every line and writes the findings. ``limit`` copies the same file as text into a bare
table and sums it by machine beside the recorded hours: no checks, no classes, no
findings. Each run has a file of its own; the median counts, both commit durably.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fleet import median, report, say, scratch

MONTH = date(2026, 11, 1)
HOURS = 552  # of each machine: 2026-11-01 to 2026-11-24, before the scratch fleet's own leases
LATER = datetime(2026, 12, 10, tzinfo=UTC)

AGGREGATE = """
SELECT count(*), sum(billed.cost) FROM (
    SELECT "ResourceId" AS resource, sum("BilledCost"::numeric) AS cost, sum("PricingQuantity"::numeric) AS hours
    FROM plain WHERE "PricingUnit" = 'Hours' GROUP BY 1
) billed
LEFT JOIN leases_instance i ON i.provider_id = billed.resource
WHERE i.id IS NULL OR billed.hours <> extract(epoch FROM i.ended_at - i.launched_at) / 3600
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3, help="of each; the median counts")
    options = parser.parse_args()
    nodes = max(10, options.lines // HOURS - 10)
    with scratch(nodes=nodes, allocations=nodes * 2) as raw:
        measure(raw, options.runs)


def measure(raw, runs: int) -> None:
    from billing.models import BillLine, Finding, VendorBill
    from billing.vendor import landing, matching
    from inventory.models import ProviderAccount
    from portal.local.focus_bill import COLUMNS, FOUR_FAULTS, write_focus_bill

    run_machines()
    raw.execute(
        f"CREATE TEMPORARY TABLE plain ({', '.join(f'{chr(34)}{name}{chr(34)} text' for name in COLUMNS)})"
    )
    account = ProviderAccount.objects.get()
    product, limit, landed, again = [], [], [], []
    for run in range(runs + 1):
        say(f"run {run}: writing the bill")
        file = io.BytesIO()
        written = write_focus_bill(account=account, month=MONTH, faults=FOUR_FAULTS, file=file, seed=run)
        say(f"run {run}: {written.lines:,} lines, {len(file.getvalue()) / 2**20:.0f} MiB")
        started = time.perf_counter()
        bill = landing.land(
            account_id=account.pk, month=MONTH, file=file, file_name="bill.csv", actor=None, now=LATER
        )
        between = time.perf_counter()
        matching.classify(bill_id=bill.pk, now=LATER)
        done = time.perf_counter()
        matching.classify(bill_id=bill.pk, now=LATER)
        repeated = time.perf_counter()
        raw.execute("TRUNCATE plain")
        before = time.perf_counter()
        copy_plain(raw, file)
        raw.execute(AGGREGATE).fetchall()
        after = time.perf_counter()
        open_findings = Finding.objects.filter(account=account, state="open").count()
        wrong = BillLine.objects.filter(bill=bill).exclude(finding=None).count()
        assert open_findings == len(FOUR_FAULTS)
        assert wrong == sum(len(fault.lines) for fault in written.planted)
        assert VendorBill.objects.get(pk=bill.pk).total == written.total
        if run:  # the first warms caches
            product.append(done - started)
            landed.append(between - started)
            again.append(repeated - done)
            limit.append(after - before)
    report(
        "reconcile",
        median(product),
        median(limit),
        "seconds",
        lines=written.lines,
        land=round(median(landed), 2),
        classify=round(median(product) - median(landed), 2),
        classify_again=round(median(again), 2),
        lines_per_second=round(written.lines / median(product)),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def run_machines() -> None:
    """Let every node serve one machine, from the first of November to the 24th."""
    from inventory.models import Commitment, Node
    from leases.models import Allocation, Instance, LaunchIntent, Lease
    from portal.common.periods import period

    for commitment in Commitment.objects.all():
        commitment.payment, commitment.reservation_id = Commitment.Payment.HOURLY, f"cr-{commitment.pk}"
        commitment.save()
    start = datetime(2026, 11, 1, tzinfo=UTC)
    end = start + timedelta(hours=HOURS)
    nodes = list(Node.objects.order_by("pk"))
    leases = Lease.objects.bulk_create(
        Lease(organization_id=1, name=f"run {node.pk}", state=Lease.State.ENDED) for node in nodes
    )
    allocations = Allocation.objects.bulk_create(
        Allocation(
            node=node,
            node_available=node.available,
            period=period(start, end),
            occupied=period(start, end),
            lease=lease,
        )
        for node, lease in zip(nodes, leases, strict=True)
    )
    intents = LaunchIntent.objects.bulk_create(
        LaunchIntent(
            allocation=allocation,
            account_id=1,
            group=f"group-{allocation.pk}",
            state=LaunchIntent.State.LAUNCHED,
        )
        for allocation in allocations
    )
    Instance.objects.bulk_create(
        Instance(
            intent=intent,
            allocation=intent.allocation,
            account_id=1,
            provider_id=f"i-{intent.pk:017x}",
            state=Instance.State.TERMINATED,
            launched_at=start,
            ended_at=end,
        )
        for intent in intents
    )


def copy_plain(raw, file: io.BytesIO) -> None:
    file.seek(0)
    with raw.cursor() as cursor, cursor.copy("COPY plain FROM STDIN (FORMAT csv, HEADER)") as copy:
        while chunk := file.read(2**16):
            copy.write(chunk)


if __name__ == "__main__":
    main()
