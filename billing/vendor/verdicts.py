"""The class of each line as SQL, with the arithmetic that led to it (the second half of the matching).

``q`` and ``e`` are billed and expected hours, ``p`` the expected price per hour. The
difference to what we expected to pay is split, exactly, into quantity ``(q − e)·p`` and
price ``cost − q·p``.
"""

# ruff: noqa: S608 - built from this package's own constants; every value is a parameter
from __future__ import annotations

from billing.vendor.statements import HELD, hours, span

_QUANTITY_OK = "abs(q - e) <= greatest(%(quantity_hours)s, %(quantity_share)s * e)"
_PRICE_OK = "abs(cost - q * p) <= %(price_share)s * abs(q * p)"
_QUANTITY = "CASE WHEN q > e THEN 'qty_over' ELSE 'qty_under' END"

# What the line is when no small amount is forgiven.
STRICT = f"""
    CASE
        WHEN p IS NULL THEN CASE WHEN {_QUANTITY_OK} THEN 'price_variance' ELSE {_QUANTITY} END
        -- equal, as far as the bill's own digits go; hours have six, amounts those of the currency at least
        WHEN round(e, greatest(scale(q), 6)) = q
            AND round(q * p, greatest(scale(cost), %(minor_digits)s)) = cost THEN 'matched'
        WHEN {_QUANTITY_OK} AND {_PRICE_OK} THEN 'within_tolerance'
        WHEN {_QUANTITY_OK} THEN 'price_variance'
        WHEN {_PRICE_OK} THEN {_QUANTITY}
        WHEN abs(cost - q * p) > abs((q - e) * p) THEN 'price_variance'
        ELSE {_QUANTITY}
    END
"""

LINES = f"""
CREATE TEMP TABLE vendor_line ON COMMIT DROP AS
WITH known AS (
    SELECT v.*, m.allocation_id, m.run, m.run_from, m.run_to, m.given_until, m.instance_type_id,
           m.region_id, m.commitment_id AS node_commitment,
           v.service_category IN ('compute', 'ai and machine learning', '') AS compute,
           CASE v.measure WHEN 'time' THEN v.hours WHEN 'gpu' THEN v.quantity / m.gpus END AS q
    FROM vendor_match v LEFT JOIN vendor_machine m ON m.id = v.machine
),
sorted AS (
    SELECT known.*,
        CASE
            WHEN currency <> %(currency)s THEN 'fx'
            WHEN correction OR category = 'adjustment' THEN 'correction'
            WHEN category = 'tax' THEN 'tax'
            WHEN category = 'credit' OR cost < 0 THEN 'credit'
            WHEN repeated IS NOT NULL THEN 'duplicate'
            WHEN category = 'purchase' THEN
                CASE WHEN commitment IS NOT NULL OR reservation <> '' THEN 'commitment' ELSE 'fee' END
            WHEN status = 'unused' THEN 'commitment_unused'
            WHEN measure IN ('time', 'gpu', 'part')
                AND (compute OR (machine IS NOT NULL AND service_category NOT IN ('networking', 'storage'))) THEN
                CASE
                    WHEN machine IS NULL AND resource = '' THEN 'pool'
                    WHEN machine IS NULL THEN 'orphan_unknown'
                    WHEN starts >= least(run_to, given_until) THEN 'orphan_tail'
                    WHEN ends <= run_from THEN 'orphan_head'
                    WHEN quantity IS NULL THEN 'unit_mismatch'
                    ELSE 'machine'
                END
            WHEN measure = '' AND (machine IS NOT NULL OR service_category IN ('compute', 'ai and machine learning'))
                THEN 'unit_mismatch'
            ELSE 'ancillary'
        END AS kind
    FROM known
),
priced AS (
    SELECT s.*, {span("greatest(s.starts, s.run_from)", "least(s.ends, s.run_to)")} AS ran,
        CASE
            WHEN s.kind <> 'machine' THEN NULL
            WHEN c.promised @> s.starts AND c.currency = s.currency THEN
                -- paid for as a whole: its hours come free of charge
                CASE WHEN s.cost = 0 AND (c.payment <> 'hourly' OR s.status = 'used') THEN 0 ELSE c.price END
            ELSE coalesce(whole.price, mixed.price)
        END AS p
    FROM sorted s
    LEFT JOIN vendor_commitment c ON c.id = s.node_commitment
    LEFT JOIN vendor_price whole
        ON whole.instance_type_id = s.instance_type_id AND whole.region_id = s.region_id
        AND whole.period @> s.period
    LEFT JOIN LATERAL (  -- the price changed within the line
        SELECT sum(x.price * {hours("(x.period * s.period)")}) / sum({hours("(x.period * s.period)")}) AS price
        FROM vendor_price x
        WHERE whole.price IS NULL AND s.kind = 'machine' AND x.instance_type_id = s.instance_type_id
          AND x.region_id = s.region_id AND x.period && s.period
    ) mixed ON true
),
-- Several lines for one machine and interval: parts of the hour at two prices share the expected hours
-- in order; several SKUs are either the machine and something beside it, or a machine sold in parts.
shared AS (
    SELECT id, ran, p, q, cost, measure, matched_by,
        coalesce(sum(q) OVER (same_sku ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before,
        lead(id) OVER same_sku IS NULL AS last,
        min(sku) OVER together <> max(sku) OVER together AS several,
        bool_or(measure = 'part') OVER together AS in_parts,
        row_number() OVER dearest = 1 AS main,
        sum(cost) OVER together AS all_cost,
        first_value(cost) OVER dearest AS main_cost,
        max(q) OVER together AS all_q
    FROM priced WHERE kind = 'machine'
    WINDOW together AS (PARTITION BY machine, starts, ends),
           dearest AS (PARTITION BY machine, starts, ends ORDER BY cost DESC, ordinal),
           same_sku AS (PARTITION BY machine, starts, ends, sku ORDER BY ordinal)
),
weighed AS (
    SELECT shared.*,
        -- parts make a whole unless the dearest line alone already is what we expect
        p IS NOT NULL AND (
            (in_parts AND abs(main_cost - ran * p) > greatest(%(line_amount)s, %(price_share)s * ran * p))
            OR (several AND abs(all_cost - ran * p) < abs(main_cost - ran * p))
        ) AS bundle,
        CASE WHEN last THEN greatest(ran - before, 0) ELSE least(q, greatest(ran - before, 0)) END AS e
    FROM shared
),
judged AS (  -- a bundle is judged as a whole, on its dearest line
    SELECT id, bundle, (several OR in_parts) AND NOT main AND NOT bundle AS beside, main, p,
        CASE WHEN bundle THEN coalesce(all_q, ran) ELSE q END AS q,
        CASE WHEN bundle THEN ran ELSE e END AS e,
        CASE WHEN bundle THEN all_cost ELSE cost END AS cost
    FROM weighed
),
found AS (
    SELECT judged.*, bundle AND NOT main AS part, CASE WHEN q IS NULL THEN 'unit_mismatch' ELSE {STRICT} END AS strict
    FROM judged
)
SELECT s.id, s.ordinal, s.line_key, s.machine, s.allocation_id, s.commitment, s.resource, s.sku, s.meter,
       s.region, s.reservation, s.period, s.starts, s.ends, s.status, s.currency, s.cost, s.quantity, s.measure, s.kind,
       coalesce(f.q, s.q) AS q,
       CASE
           WHEN s.kind <> 'machine' THEN s.kind
           WHEN f.beside THEN 'ancillary'
           ELSE f.strict
       END AS line_class,
       CASE
           WHEN s.repeated IS NOT NULL AND s.kind = 'duplicate' THEN s.repeated
           WHEN s.kind IN ('fx', 'correction', 'credit', 'tax', 'fee') THEN s.category
           WHEN s.kind IN ('commitment', 'commitment_unused') THEN 'reservation'
           WHEN s.kind = 'orphan_tail' AND s.starts < s.run_to THEN s.matched_by || '+ran_on'
           WHEN f.beside THEN s.matched_by || '+beside'
           WHEN f.bundle THEN s.matched_by || '+bundle'
           WHEN f.q IS NOT NULL AND f.p IS NULL THEN s.matched_by || '+no_price'
           ELSE coalesce(s.matched_by, '')
       END AS rule,
       CASE WHEN f.beside OR f.part THEN NULL ELSE f.e END AS e,
       CASE WHEN f.beside OR f.part THEN NULL ELSE f.p END AS p,
       CASE WHEN f.beside THEN NULL WHEN f.part THEN 0 ELSE (f.q - f.e) * f.p END AS quantity_variance,
       CASE WHEN f.beside THEN NULL WHEN f.part THEN 0 ELSE f.cost - f.q * f.p END AS price_variance,
       false AS forgiven, NULL::text AS finding_class, NULL::text AS finding_key
FROM priced s LEFT JOIN found f ON f.id = s.id
"""

# Lines without a machine's name: a reservation's, or all machines of a type in a region and interval.
POOLS = f"""
WITH lines AS (
    SELECT v.id, v.ordinal, v.period, v.cost, v.quantity, v.measure, v.q, v.commitment, v.region,
           coalesce(t.type_name, '') AS type_name, t.gpus
    FROM vendor_line v LEFT JOIN LATERAL (
        SELECT m.type_name, m.gpus FROM vendor_machine m
        WHERE m.type_name IN (v.sku, v.meter) ORDER BY m.type_name = v.sku DESC LIMIT 1
    ) t ON v.commitment IS NULL
    WHERE v.kind = 'pool'
),
held AS ({HELD}),
pooled AS (
    SELECT l.*, c.price AS p, 'reservation' AS rule,
        (SELECT coalesce(sum(h.nodes * {hours("(h.period * l.period)")}), 0)
         FROM held h WHERE h.commitment_id = l.commitment) AS ran
    FROM lines l JOIN vendor_commitment c ON c.id = l.commitment
    UNION ALL
    SELECT l.*, running.price, 'sku_region_hour', coalesce(running.hours, 0)
    FROM lines l LEFT JOIN LATERAL (
        SELECT sum({hours("(m.run * l.period)")}) AS hours,
               CASE WHEN bool_and(coalesce(c.price, w.price) IS NOT NULL) THEN
                   sum(coalesce(c.price, w.price) * {hours("(m.run * l.period)")})
                   / nullif(sum({hours("(m.run * l.period)")}), 0) END AS price
        FROM vendor_machine m
        LEFT JOIN vendor_commitment c ON c.id = m.commitment_id AND c.promised @> lower(l.period)
        LEFT JOIN vendor_price w ON w.instance_type_id = m.instance_type_id AND w.region_id = m.region_id
            AND w.period @> greatest(lower(l.period), m.run_from)
        WHERE m.type_name = l.type_name AND l.region IN ('', m.region_code) AND m.run && l.period
          AND NOT EXISTS (SELECT FROM vendor_line named WHERE named.machine = m.id)
    ) running ON true
    WHERE l.commitment IS NULL AND l.type_name <> ''
),
asked AS (
    SELECT id, ordinal, period, cost, p, rule, ran, commitment, type_name, region,
        CASE measure WHEN 'gpu' THEN quantity / gpus ELSE q END AS q FROM pooled
),
shared AS (
    SELECT asked.*, coalesce(sum(q) OVER (pool ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before,
        lead(id) OVER pool IS NULL AS last
    FROM asked WHERE q IS NOT NULL AND ran > 0
    WINDOW pool AS (PARTITION BY commitment, type_name, region, period ORDER BY ordinal)
),
judged AS (
    SELECT shared.*,
        CASE WHEN last THEN greatest(ran - before, 0) ELSE least(q, greatest(ran - before, 0)) END AS e
    FROM shared
),
found AS (
    SELECT id, q, e, p, rule, cost, {STRICT} AS strict FROM judged
    UNION ALL
    SELECT id, q, NULL, NULL, rule, cost, CASE WHEN q IS NULL THEN 'unit_mismatch' ELSE 'orphan_unknown' END
    FROM asked WHERE q IS NULL OR ran <= 0
)
UPDATE vendor_line v SET line_class = f.strict, rule = f.rule, q = f.q, e = f.e, p = f.p,
    quantity_variance = (f.q - f.e) * f.p, price_variance = f.cost - f.q * f.p
FROM found f WHERE f.id = v.id
"""
NO_POOL = """
UPDATE vendor_line SET line_class = 'missing_key', rule = '' WHERE line_class = 'pool'
"""

# A cent more or less on a line is forgiven. Not so when it is a cent on each of 700 lines: a machine's
# small differences, and all its lines at one price, may only add up to what rounding each line explains.
FORGIVEN = """
WITH wrong AS (
    SELECT id, cost, line_class, quantity_variance + price_variance AS variance,
        abs(quantity_variance + price_variance) <= %(line_amount)s AS small,
        round(cost / nullif(q, 0), 6) AS billed_price,
        coalesce(machine::text, concat_ws(' ', rule, sku, region)) AS about
    FROM vendor_line WHERE line_class IN ('qty_over', 'qty_under', 'price_variance')
),
summed AS (
    SELECT id, small, sum(variance) FILTER (WHERE small) OVER machine AS drift,
        count(*) FILTER (WHERE small) OVER machine AS drifting,
        sum(variance) OVER alike AS alike, count(*) OVER alike AS lines,
        CASE WHEN max(min_scale(cost)) OVER machine <= %(minor_digits)s THEN %(line_amount)s / 2 ELSE 0 END AS rounding
    FROM wrong
    WINDOW machine AS (PARTITION BY about), alike AS (PARTITION BY about, line_class, billed_price)
)
UPDATE vendor_line v SET line_class = 'within_tolerance', forgiven = true
FROM summed s WHERE s.id = v.id AND s.small
  AND abs(s.drift) <= greatest(%(line_amount)s, s.rounding * s.drifting)
  AND abs(s.alike) <= greatest(%(line_amount)s, s.rounding * s.lines)
"""

IN_ORDER = (LINES, POOLS, NO_POOL, FORGIVEN)

# Only what changed is written, so that running again is cheap.
STORE = """
UPDATE billing_billline l
SET line_class = v.line_class, rule = v.rule, instance_id = v.machine, allocation_id = v.allocation_id,
    expected_hours = v.e, expected_price = v.p, quantity_variance = v.quantity_variance,
    price_variance = v.price_variance, finding_id = f.id
FROM vendor_line v
LEFT JOIN billing_finding f ON f.account_id = %(account)s AND f.month = %(month)s
    AND f.key = v.finding_key AND f.finding_class = v.finding_class
WHERE l.id = v.id AND (
    l.line_class, l.rule, l.instance_id, l.allocation_id, l.expected_hours, l.expected_price,
    l.quantity_variance, l.price_variance, l.finding_id
) IS DISTINCT FROM (
    v.line_class, v.rule, v.machine, v.allocation_id, v.e, v.p, v.quantity_variance, v.price_variance, f.id
)
"""

TOTAL = """
SELECT count(*), count(*) FILTER (WHERE line_class = ''),
       coalesce(sum(cost) FILTER (WHERE currency = %(currency)s), 0)
FROM billing_billline WHERE bill_id = %(bill)s
"""
