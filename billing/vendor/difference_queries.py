"""The differences of a bill as SQL, over the temporary tables of :mod:`billing.vendor.verdicts`."""

# ruff: noqa: S608 - built from this package's own constants; every value is a parameter
from __future__ import annotations

from billing.vendor.statements import HELD, hours

# Unbroken runs of one class on one resource become one difference each.
NAME_LINES = """
WITH wrong AS (
    SELECT id, ordinal, starts, ends,
        CASE WHEN line_class LIKE 'commitment%' THEN 'commitment_unknown' ELSE line_class END AS line_class,
        concat_ws(' ', CASE WHEN resource <> '' THEN resource WHEN kind = 'pool' THEN concat_ws(' ', rule, sku, region, reservation)
             ELSE line_key END, currency) AS about
    FROM vendor_line
    WHERE line_class IN ('qty_over', 'qty_under', 'price_variance', 'orphan_unknown', 'orphan_tail',
                         'orphan_head', 'duplicate', 'unit_mismatch', 'missing_key', 'fx')
       OR (line_class IN ('commitment', 'commitment_unused') AND commitment IS NULL)
),
seen AS (
    SELECT wrong.*, max(ends) OVER (
        PARTITION BY line_class, about ORDER BY starts, ordinal
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS until
    FROM wrong
),
runs AS (
    SELECT seen.*, count(*) FILTER (WHERE until IS NULL OR until < starts) OVER (
        PARTITION BY line_class, about ORDER BY starts, ordinal
    ) AS run
    FROM seen
),
started AS (
    SELECT id, line_class, about, min(starts) OVER (PARTITION BY line_class, about, run) AS start FROM runs
)
UPDATE vendor_line v SET finding_class = s.line_class, finding_key = encode(sha256(convert_to(
    concat_ws(' ', s.line_class, s.about, extract(epoch FROM s.start)), 'UTF8')), 'hex')
FROM started s WHERE s.id = v.id
"""

# What each difference is about, with the facts that its digest covers.
OF_LINES = """
SELECT v.finding_class, v.finding_key, count(*) AS lines, min(l.resource_id) AS resource,
    min(l.service) AS service, min(l.currency) AS currency, min(v.starts) AS start, max(v.ends) AS "end",
    (array_agg(v.id ORDER BY v.ordinal))[1] AS line,
    sum(v.q) AS q, sum(v.e) AS e, CASE WHEN count(DISTINCT v.p) = 1 THEN min(v.p) END AS p,
    sum(v.cost) / nullif(sum(v.q), 0) AS billed_price,
    sum(CASE WHEN v.line_class IN ('qty_over', 'qty_under', 'price_variance')
        THEN coalesce(v.quantity_variance + v.price_variance, v.cost) ELSE v.cost END) AS amount,
    min(t.name || ' ' || t.uid) AS lease,
    encode(sha256(convert_to(string_agg(
        concat_ws(' ', v.line_key, trim_scale(v.cost), trim_scale(v.quantity), trim_scale(v.e), trim_scale(v.p)),
        ',' ORDER BY v.line_key, v.cost, v.quantity), 'UTF8')), 'hex') AS digest
FROM vendor_line v
JOIN billing_billline l ON l.id = v.id
LEFT JOIN leases_allocation a ON a.id = v.allocation_id
LEFT JOIN leases_lease t ON t.id = a.lease_id
WHERE v.finding_key IS NOT NULL
GROUP BY v.finding_class, v.finding_key
"""

# A commitment's purchases per interval against its contract: what is held, at the agreed price; all of
# it at once where it is paid upfront.
OF_COMMITMENTS = f"""
WITH held AS ({HELD}),
bought AS (
    SELECT commitment, period, count(*) AS lines, sum(cost) AS billed, min(id) AS line, min(resource) AS resource
    FROM vendor_line WHERE line_class = 'commitment' AND commitment IS NOT NULL AND period IS NOT NULL
    GROUP BY commitment, period
)
SELECT c.uid, b.lines, b.billed, b.line, b.resource, lower(b.period) AS start, upper(b.period) AS "end",
    CASE WHEN c.payment = 'upfront' THEN c.quantity * c.cost_per_node_hour * {hours("c.promised")}
         ELSE coalesce(
             (SELECT sum(h.nodes * {hours("(h.period * b.period)")}) FROM held h WHERE h.commitment_id = c.id), 0
         ) * c.cost_per_node_hour
    END AS expected
FROM bought b JOIN inventory_commitment c ON c.id = b.commitment
WHERE c.currency = %(currency)s
"""

# Machine hours of the month that no line of any live bill covers. Machines of a commitment that is paid
# as a whole need no lines of their own once the whole is billed.
NOT_BILLED = f"""
WITH ran AS (
    SELECT m.*, m.run * tstzrange(%(start)s, %(end)s) AS due FROM vendor_machine m
    WHERE m.run && tstzrange(%(start)s, %(end)s)
      AND NOT EXISTS (
          SELECT FROM vendor_commitment c WHERE c.id = m.commitment_id AND c.payment <> 'hourly' AND (
              EXISTS (SELECT FROM vendor_line v WHERE v.commitment = c.id AND v.line_class = 'commitment')
              OR c.payment = 'upfront'
          )
      )
),
covered AS (
    SELECT machine, range_agg(period) AS periods FROM (
        SELECT machine, period FROM vendor_line WHERE machine IS NOT NULL AND kind IN ('machine', 'unit_mismatch', 'orphan_tail')
        UNION ALL
        SELECT l.instance_id, l.period FROM billing_billline l JOIN billing_vendorbill b ON b.id = l.bill_id
        WHERE l.instance_id IN (SELECT id FROM ran) AND b.account_id = %(account)s AND b.id <> %(bill)s
          AND b.state <> 'replaced' AND l.line_class IN
              ('matched', 'within_tolerance', 'qty_over', 'qty_under', 'price_variance', 'unit_mismatch',
               'orphan_tail')
        UNION ALL  -- a line for all machines of a type covers each of them, one for a reservation its nodes
        SELECT m.id, v.period FROM vendor_line v JOIN ran m
            ON (v.rule = 'sku_region_hour' AND m.type_name IN (v.sku, v.meter) AND v.region IN ('', m.region_code))
            OR (v.rule = 'reservation' AND v.kind = 'pool' AND m.commitment_id = v.commitment)
        WHERE v.kind = 'pool' AND m.run && v.period
    ) lines GROUP BY machine
),
gaps AS (
    SELECT r.*, unnest(tstzmultirange(r.due) - coalesce(c.periods, '{{}}'::tstzmultirange)) AS gap
    FROM ran r LEFT JOIN covered c ON c.machine = r.id
)
SELECT i.provider_id AS resource, l.name || ' ' || l.uid AS lease,
    lower(g.gap) AS start, upper(g.gap) AS "end",
    -- what is too young to be on a bill is not missed yet
    {hours("(CASE WHEN lower(g.gap) < %(late)s THEN g.gap * tstzrange(NULL, %(late)s) ELSE g.gap END)")} AS hours,
    coalesce(c.price, (
        SELECT p.price FROM vendor_price p WHERE p.instance_type_id = g.instance_type_id
          AND p.region_id = g.region_id AND p.period @> lower(g.gap)
    )) AS price
FROM gaps g
JOIN leases_instance i ON i.id = g.id
JOIN leases_allocation a ON a.id = g.allocation_id
LEFT JOIN leases_lease l ON l.id = a.lease_id
LEFT JOIN vendor_commitment c ON c.id = g.commitment_id
WHERE {hours("g.gap")} > greatest(%(quantity_hours)s, %(quantity_share)s * {hours("g.due")})
"""

OF_INVOICES = """
SELECT invoice_id, count(*) AS lines, sum(cost) AS total FROM billing_billline
WHERE bill_id = %(bill)s AND currency = %(currency)s AND invoice_id <> '' GROUP BY invoice_id
"""
