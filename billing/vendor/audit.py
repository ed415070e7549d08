"""V1-V5 against the data as it is."""

# ruff: noqa: S608 - built from this package's own constants
from __future__ import annotations

from billing.models import BillLine
from billing.vendor.accrual import BY_MONTH
from portal.common.audit import Check, sql_check

_CLASSES = ", ".join(f"'{name}'" for name in BillLine.Class.values)
_EXCEPTIONS = (
    "'qty_over', 'qty_under', 'price_variance', 'orphan_unknown', 'orphan_tail', 'orphan_head',"
    " 'duplicate', 'unit_mismatch', 'missing_key', 'fx'"
)
_LIVE = "('classified', 'approved')"

V1 = sql_check(
    "V1",
    "Every bill line is in exactly one class, and the classes sum to the bill",
    checked="SELECT count(*) FROM billing_billline",
    violations=f"""
        SELECT b.uid || ': ' || count(l.id) FILTER (WHERE l.line_class NOT IN ({_CLASSES}))
               || ' lines without a class, ' || count(l.id) || ' of ' || b.line_count || ' lines, '
               || coalesce(sum(l.cost) FILTER (WHERE l.currency = b.currency), 0) || ' of ' || b.total
        FROM billing_vendorbill b LEFT JOIN billing_billline l ON l.bill_id = b.id
        GROUP BY b.id
        HAVING count(l.id) <> b.line_count
            OR coalesce(sum(l.cost) FILTER (WHERE l.currency = b.currency), 0) <> b.total
            OR (b.state IN {_LIVE} AND count(l.id) FILTER (WHERE l.line_class NOT IN ({_CLASSES})) > 0)
            OR count(l.id) FILTER (WHERE (l.currency <> b.currency) <> (l.line_class = 'fx') AND l.line_class <> '') > 0
    """,
)
V2 = sql_check(
    "V2",
    "A file is landed once, every row as it came, and only the newest snapshot of a month is live",
    checked="SELECT count(*) FROM billing_vendorbill",
    violations="""
        SELECT b.uid || ': replaced by a later snapshot, but ' || b.state
        FROM billing_vendorbill b
        WHERE b.state <> 'replaced' AND EXISTS (
            SELECT FROM billing_vendorbill later WHERE later.account_id = b.account_id
              AND later.month = b.month AND later.snapshot > b.snapshot)
        UNION ALL
        SELECT b.uid || ': marked as replaced, but nothing replaces it'
        FROM billing_vendorbill b
        WHERE b.state = 'replaced' AND NOT EXISTS (
            SELECT FROM billing_vendorbill later WHERE later.account_id = b.account_id
              AND later.month = b.month AND later.snapshot > b.snapshot)
        UNION ALL
        SELECT min(b.uid) || ': the same file ' || count(*) || ' times'
        FROM billing_vendorbill b GROUP BY b.account_id, b.month, b.sha256 HAVING count(*) > 1
        UNION ALL
        SELECT 'line ' || l.id || ': of no bill'
        FROM billing_billline l LEFT JOIN billing_vendorbill b ON b.id = l.bill_id WHERE b.id IS NULL
        UNION ALL
        SELECT b.uid || ': ' || b.line_count || ' lines, ' || count(r.id) || ' rows as they came'
        FROM billing_vendorbill b LEFT JOIN billing_billrow r ON r.bill_id = b.id
        GROUP BY b.id HAVING count(r.id) <> b.line_count
    """,
)
V3 = sql_check(
    "V3",
    "Every difference has one finding, and every finding in force has its difference",
    checked="SELECT (SELECT count(*) FROM billing_finding) + (SELECT count(*) FROM billing_billline"
    f" WHERE line_class IN ({_EXCEPTIONS}))",
    violations=f"""
        SELECT b.uid || ' line ' || l.ordinal || ': ' || l.line_class || ' without its finding'
        FROM billing_billline l JOIN billing_vendorbill b ON b.id = l.bill_id
        LEFT JOIN billing_finding f ON f.id = l.finding_id
        WHERE b.state IN {_LIVE} AND l.line_class IN ({_EXCEPTIONS})
          AND (f.id IS NULL OR f.finding_class <> l.line_class OR f.state = 'cured'
               OR f.account_id <> b.account_id OR f.month <> b.month)
        UNION ALL
        SELECT 'line ' || l.id || ': matched to a machine that is gone'
        FROM billing_billline l
        LEFT JOIN leases_instance i ON i.id = l.instance_id
        LEFT JOIN leases_allocation a ON a.id = l.allocation_id
        WHERE (l.instance_id IS NOT NULL AND i.id IS NULL) OR (l.allocation_id IS NOT NULL AND a.id IS NULL)
        UNION ALL
        SELECT f.uid || ': ' || f.state || ', but its lines are gone'
        FROM billing_finding f JOIN billing_vendorbill b
            ON b.account_id = f.account_id AND b.month = f.month AND b.state IN {_LIVE}
        WHERE f.state <> 'cured' AND f.finding_class IN ({_EXCEPTIONS})
          AND f.line_count <> (SELECT count(*) FROM billing_billline l WHERE l.finding_id = f.id AND l.bill_id = b.id)
        UNION ALL
        SELECT min(f.uid) || ': ' || count(*) || ' findings for one difference'
        FROM billing_finding f GROUP BY f.account_id, f.month, f.key, f.finding_class HAVING count(*) > 1
    """,
)
V4 = sql_check(
    "V4",
    "No approved bill has an open material finding",
    checked="SELECT count(*) FROM billing_vendorbill WHERE state = 'approved'",
    violations="""
        SELECT b.uid || ': ' || f.uid || ' is open'
        FROM billing_vendorbill b JOIN billing_finding f ON f.account_id = b.account_id AND f.month = b.month
        WHERE b.state = 'approved' AND f.state = 'open' AND f.material
    """,
)
V5 = sql_check(
    "V5",
    "Accrued upstream cost less approved bills is zero, or is listed by account and month",
    checked=f"SELECT count(*) FROM ({BY_MONTH}) months",
    violations=f"""
        SELECT 'account ' || coalesce(account::text, '?') || ': ' || (accrued - billed) || ' ' || currency
               || ' on the accrued account belongs to no month'
        FROM ({BY_MONTH}) months WHERE (month IS NULL OR account IS NULL) AND accrued <> billed
        UNION ALL
        SELECT a.month || ', account ' || a.account_id || ': accrued ' || sum(a.amount) || ', expected '
               || (array_agg(a.expected ORDER BY a.revision DESC))[1] || ' ' || a.currency
        FROM billing_upstreamaccrual a GROUP BY a.account_id, a.month, a.currency
        HAVING sum(a.amount) <> (array_agg(a.expected ORDER BY a.revision DESC))[1]
        UNION ALL
        SELECT b.uid || ': approved and not posted'
        FROM billing_vendorbill b WHERE b.state = 'approved' AND b.entry_id IS NULL AND round(b.total, 2) <> 0
    """,
)

CHECKS: list[Check] = [V1, V2, V3, V4, V5]
