"""M1-M8 against the data: what PostgreSQL refuses is looked for all the same.

A restore, a superuser or a bug of ours could break what the triggers guard. Sums are
compared exactly: the ledger keeps eight decimals and rounds nothing.
"""

from __future__ import annotations

from django.db import connection

from portal.common.audit import Check, sql_check

# Trigger → its table: what keeps M1-M3, M5, M6 and M8 while the product runs.
GUARDS = {
    "entry_balances": "billing_entry",
    "posting_balances": "billing_posting",
    "entry_append_only": "billing_entry",
    "entry_not_truncated": "billing_entry",
    "posting_append_only": "billing_posting",
    "posting_not_truncated": "billing_posting",
    "entry_in_open_period": "billing_entry",
    "period_stays_closed": "billing_accountingperiod",
    "usage_inside_delivered": "billing_usagerecord",
    "invoice_frozen": "billing_invoice",
    "invoice_equals_lines": "billing_invoice",
    "invoice_line_frozen": "billing_invoiceline",
    "charge_frozen": "billing_charge",
    "payment_append_only": "billing_payment",
    "payment_allocation_frozen": "billing_paymentallocation",
}

BALANCED = sql_check(
    "M1",
    "Every entry balances per currency, with the lines it was made with",
    checked="SELECT count(*) FROM billing_entry",
    violations="""
        SELECT format('%s: %s lines of %s, off by %s', e.key, coalesce(p.n, 0), e.lines, coalesce(p.off, 0))
        FROM billing_entry e
        LEFT JOIN LATERAL (
            SELECT sum(n)::int AS n, max(abs(total)) AS off
            FROM (
                SELECT count(*) AS n, sum(amount) AS total
                FROM billing_posting WHERE entry_id = e.id GROUP BY currency
            ) currencies
        ) p ON true
        WHERE coalesce(p.n, 0) <> e.lines OR p.off <> 0
        ORDER BY e.id
    """,
)


def _unchanged() -> tuple[int, list[str]]:
    """The guards are in place and enabled, the role may not pass them, and reversals are exact."""
    found: list[str] = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')"
        )
        enabled = set(cursor.fetchall())
        found += [
            f"trigger {name} on {table} is missing or disabled"
            for name, table in GUARDS.items()
            if (name, table) not in enabled
        ]
        cursor.execute(
            """
            SELECT format('sublet_app may %s %s', privilege, relation)
            FROM unnest(ARRAY['billing_entry', 'billing_posting']) relation,
                unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) privilege
            WHERE has_table_privilege('sublet_app', relation, privilege)
            """
        )
        found += [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT count(*) FROM billing_entry WHERE reverses_id IS NOT NULL")
        (reversals,) = cursor.fetchone()
        cursor.execute(
            """
            SELECT format('%s is not the opposite of what it reverses', r.key)
            FROM billing_entry r
            WHERE r.reverses_id IS NOT NULL AND EXISTS (
                SELECT FROM billing_posting p WHERE p.entry_id IN (r.id, r.reverses_id)
                GROUP BY p.account_id HAVING sum(p.amount) <> 0
            )
            """
        )
        found += [row[0] for row in cursor.fetchall()]
    return len(GUARDS) + 6 + reversals, found


UNCHANGED = Check("M2", "Entries and postings are never changed; reversals are exact", _unchanged)

IN_OPEN_PERIODS = sql_check(
    "M3",
    "No entry was posted into a closed period, or before it happened",
    checked="SELECT count(*) FROM billing_entry",
    violations="""
        SELECT format('%s was posted at %s into %s, closed at %s', e.key, e.posted_at,
            to_char(p.month, 'YYYY-MM'), p.closed_at)
        FROM billing_entry e JOIN billing_accountingperiod p ON p.id = e.period_id
        WHERE e.posted_at > p.closed_at
            OR p.month < date_trunc('month', e.effective_at AT TIME ZONE 'UTC')::date
        UNION ALL
        SELECT format('%s is open although a later month is closed', to_char(p.month, 'YYYY-MM'))
        FROM billing_accountingperiod p
        WHERE p.closed_at IS NULL AND EXISTS (
            SELECT FROM billing_accountingperiod later
            WHERE later.month > p.month AND later.closed_at IS NOT NULL
        )
    """,
)

ONE_PER_KEY = sql_check(
    "M4",
    "One entry per idempotency key, one reversal per entry",
    checked="SELECT count(*) FROM billing_entry",
    violations="""
        SELECT format('%s has %s entries', key, count(*)) FROM billing_entry GROUP BY key HAVING count(*) > 1
        UNION ALL
        SELECT format('entry %s has %s reversals', reverses_id, count(*)) FROM billing_entry
        WHERE reverses_id IS NOT NULL GROUP BY reverses_id HAVING count(*) > 1
    """,
)

# What is recorded and was not delivered waits for the next metering run for an hour or so; the
# database refuses to write it, it only arises when delivered time is shortened afterwards.
USAGE = sql_check(
    "M5",
    "Usage never overlaps, stays inside delivered time, and is charged as recorded",
    checked="SELECT count(*) FROM billing_usagerecord",
    violations="""
        SELECT format('usage %s overlaps usage %s', a.id, b.id)
        FROM billing_usagerecord a
        JOIN billing_usagerecord b
            ON b.allocation_id = a.allocation_id AND b.period && a.period AND b.id > a.id
        UNION ALL
        SELECT format('usage %s of %s is outside of what was delivered, %s',
            u.id, u.period, coalesce(a.delivered::text, 'nothing'))
        FROM billing_usagerecord u JOIN leases_allocation a ON a.id = u.allocation_id
        WHERE a.delivered IS NULL OR NOT u.period <@ a.delivered
        UNION ALL
        SELECT format('usage %s is charged as %s GPU-seconds', u.id, c.quantity)
        FROM billing_usagerecord u JOIN billing_charge c ON c.id = u.charge_id
        WHERE c.quantity <> u.gpus * extract(epoch FROM upper(u.period) - lower(u.period))
            OR c.period <> u.period OR c.kind <> 'usage'
            OR abs(c.amount - c.unit_price * c.quantity / 3600) > 0.00000001
        UNION ALL
        SELECT format('charge %s is neither recorded usage nor taken back', c.uid)
        FROM billing_charge c
        WHERE c.kind = 'usage'
            AND NOT EXISTS (SELECT FROM billing_usagerecord u WHERE u.charge_id = c.id)
            AND NOT EXISTS (SELECT FROM billing_charge r WHERE r.source = 'reversal:' || c.uid)
        UNION ALL
        SELECT format('charge %s differs from its entry %s', c.uid, e.key)
        FROM billing_charge c JOIN billing_entry e ON e.id = c.entry_id
        WHERE c.amount <> (
            SELECT coalesce(sum(p.amount), 0) FROM billing_posting p
            JOIN billing_ledgeraccount a ON a.id = p.account_id
            WHERE p.entry_id = e.id AND a.kind = 'unbilled' AND a.organization_id = c.organization_id
        )
    """,
)

INVOICES = sql_check(
    "M6",
    "An invoice equals its lines and its charges; numbers have no gaps; parties are kept",
    checked="SELECT count(*) FROM billing_invoice",
    violations="""
        SELECT format('invoice %s says %s and %s tax, its lines %s and %s',
            coalesce(nullif(i.number, ''), i.uid), i.subtotal, i.tax, l.net, l.tax)
        FROM billing_invoice i
        JOIN LATERAL (
            SELECT coalesce(sum(amount), 0) AS net, coalesce(sum(tax_amount), 0) AS tax
            FROM billing_invoiceline WHERE invoice_id = i.id
        ) l ON true
        WHERE i.subtotal <> l.net OR i.tax <> l.tax OR i.total <> i.subtotal + i.tax
        UNION ALL
        SELECT format('line %s of invoice %s says %s, its charges %s', l.ordinal,
            coalesce(nullif(i.number, ''), i.uid), l.exact_amount, c.sum)
        FROM billing_invoiceline l JOIN billing_invoice i ON i.id = l.invoice_id
        JOIN LATERAL (
            SELECT coalesce(sum(amount), 0) AS sum FROM billing_charge WHERE invoice_line_id = l.id
        ) c ON true
        WHERE i.state <> 'void' AND l.exact_amount <> c.sum
        UNION ALL
        SELECT format('seller %s: number %s is missing', s.name, missing)
        FROM billing_seller s
        JOIN billing_invoicecounter n ON n.seller_id = s.id,
        LATERAL (
            SELECT generate_series(1, n.last_number)
            EXCEPT SELECT sequence FROM billing_invoice WHERE seller_id = s.id
        ) gaps (missing)
        UNION ALL
        SELECT format('invoice %s has no seller or buyer kept', number) FROM billing_invoice
        WHERE state <> 'draft' AND (seller_snapshot = '{}' OR buyer_snapshot = '{}' OR issued_at IS NULL)
        UNION ALL
        SELECT format('invoice %s: its entry says %s receivable', i.number, p.receivable)
        FROM billing_invoice i
        JOIN LATERAL (
            SELECT coalesce(sum(p.amount), 0) AS receivable
            FROM billing_posting p JOIN billing_ledgeraccount a ON a.id = p.account_id
            WHERE p.entry_id = i.entry_id AND a.kind = 'receivable'
        ) p ON true
        WHERE i.state <> 'draft' AND i.total <> p.receivable
    """,
)

WALLETS = sql_check(
    "M7",
    "Wallets are what the ledger says and never below zero; reserved is the sum of funds holds",
    checked="SELECT count(*) FROM billing_billingaccount",
    violations="""
        SELECT format('%s: wallet %s, ledger %s, reserved %s, holds %s',
            o.uid, b.balance, w.total, b.reserved, h.total)
        FROM billing_billingaccount b
        JOIN accounts_organization o ON o.id = b.organization_id
        JOIN LATERAL (
            SELECT coalesce(-sum(p.amount), 0) AS total
            FROM billing_posting p JOIN billing_ledgeraccount a ON a.id = p.account_id
            WHERE a.kind = 'wallet' AND a.organization_id = b.organization_id AND a.currency = b.currency
        ) w ON true
        JOIN LATERAL (
            SELECT coalesce(sum(remaining), 0) AS total FROM billing_fundshold
            WHERE account_id = b.id AND released_at IS NULL
        ) h ON true
        WHERE b.balance < 0 OR b.balance <> w.total OR b.reserved <> h.total
    """,
)

OWED = sql_check(
    "M8",
    "What the ledger says is owed equals open invoices and unbilled charges",
    checked="SELECT count(*) FROM billing_billingaccount",
    violations="""
        WITH paid AS (
            SELECT i.id, i.organization_id, i.state, i.number, i.total,
                coalesce(sum(x.amount) FILTER (WHERE x.reversed_at IS NULL), 0) AS paid
            FROM billing_invoice i LEFT JOIN billing_paymentallocation x ON x.invoice_id = i.id
            WHERE i.state <> 'draft' GROUP BY i.id
        )
        SELECT format('%s: ledger %s unbilled and %s receivable, charges %s and invoices %s, account %s',
            o.uid, l.unbilled, l.receivable, c.unbilled, i.open, b.owed)
        FROM billing_billingaccount b
        JOIN accounts_organization o ON o.id = b.organization_id
        JOIN LATERAL (
            SELECT coalesce(sum(p.amount) FILTER (WHERE a.kind = 'unbilled'), 0) AS unbilled,
                coalesce(sum(p.amount) FILTER (WHERE a.kind = 'receivable'), 0) AS receivable
            FROM billing_posting p JOIN billing_ledgeraccount a ON a.id = p.account_id
            WHERE a.organization_id = b.organization_id AND a.currency = b.currency
        ) l ON true
        JOIN LATERAL (
            SELECT coalesce(sum(c.amount), 0) AS unbilled FROM billing_charge c
            LEFT JOIN billing_invoiceline il ON il.id = c.invoice_line_id
            LEFT JOIN billing_invoice inv ON inv.id = il.invoice_id
            WHERE c.organization_id = b.organization_id AND c.currency = b.currency
                AND (c.invoice_line_id IS NULL OR inv.state = 'draft')
        ) c ON true
        JOIN LATERAL (
            SELECT coalesce(sum(total - paid), 0) AS open FROM paid
            WHERE organization_id = b.organization_id AND state IN ('open', 'paid')
        ) i ON true
        WHERE l.unbilled <> c.unbilled OR l.receivable <> i.open OR b.owed <> l.unbilled + l.receivable
        UNION ALL
        SELECT format('invoice %s is %s with %s of %s paid', number, state, paid, total) FROM paid
        WHERE (state = 'paid' AND paid <> total) OR (state = 'open' AND paid >= total)
            OR (state = 'void' AND paid <> 0)
        UNION ALL
        SELECT format('payment %s of %s settles %s', p.reference, p.amount, sum(x.amount))
        FROM billing_payment p JOIN billing_paymentallocation x ON x.payment_id = p.id
        GROUP BY p.id HAVING sum(x.amount) > p.amount
    """,
)

CHECKS: list[Check] = [
    BALANCED,
    UNCHANGED,
    IN_OPEN_PERIODS,
    ONE_PER_KEY,
    USAGE,
    INVOICES,
    WALLETS,
    OWED,
]
