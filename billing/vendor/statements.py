"""The matching of a bill's lines as SQL, over temporary tables; :mod:`billing.vendor.matching` runs it.

In order: what we ran and hold (``vendor_machine``, ``vendor_commitment``, ``vendor_price``),
the lines beside it with what each matches (``vendor_match``), and each line's class with
the arithmetic that led to it (``vendor_line``).

Times are half-open. ``suffix`` is what follows the last ``/`` or ``:`` of a name, in
lower case: bills write the same machine as an id, an ARN or a path, Azure in any case.
"""

# ruff: noqa: S608 - built from this package's own constants; every value is a parameter
from __future__ import annotations

# What each commitment makes us pay for, whether used or not: the nodes that we accepted, from then to
# the contract's end. Where no delivery is recorded, the nodes themselves say it.
HELD = """
    SELECT d.commitment_id, d.nodes, tstzrange(d.accepted_from,
           greatest(d.accepted_from, least(upper(c.promised), coalesce(c.cancelled_at, 'infinity')))) AS period
    FROM inventory_commitmentdelivery d JOIN inventory_commitment c ON c.id = d.commitment_id
    UNION ALL
    SELECT n.commitment_id, 1, tstzrange(lower(n.available),
           greatest(lower(n.available), least(upper(c.promised), coalesce(c.cancelled_at, 'infinity'))))
    FROM inventory_node n JOIN inventory_commitment c ON c.id = n.commitment_id
    WHERE NOT EXISTS (SELECT FROM inventory_commitmentdelivery d WHERE d.commitment_id = c.id)
"""


def hours(period: str) -> str:
    """Return the SQL of a bounded or empty range's length in hours, exact to 3.6 ns."""
    return f"round(coalesce(extract(epoch FROM upper({period}) - lower({period})), 0) / 3600, 12)"


def span(start: str, end: str) -> str:
    """Return the SQL of the hours from one moment to another, none where the end is not later."""
    return f"greatest(round(coalesce(extract(epoch FROM {end} - {start}), 0) / 3600, 12), 0)"


def _suffix(name: str) -> str:
    return f"regexp_replace(lower({name}), '^.*[/:]', '')"


MACHINES = f"""
CREATE TEMP TABLE vendor_machine ON COMMIT DROP AS
SELECT i.id, i.allocation_id, i.allocation_id::text AS allocation_tag, l.uid AS lease_tag,
       lower(i.provider_id) AS resource, {_suffix("i.provider_id")} AS suffix,
       tstzrange(i.launched_at, greatest(coalesce(i.ended_at, %(now)s), i.launched_at)) AS run,
       i.launched_at AS run_from, greatest(coalesce(i.ended_at, %(now)s), i.launched_at) AS run_to,
       upper(a.occupied) AS given_until,
       n.commitment_id, n.instance_type_id, n.region_id, lower(t.name) AS type_name,
       lower(r.code) AS region_code, t.gpus_per_node AS gpus
FROM leases_instance i
JOIN leases_allocation a ON a.id = i.allocation_id
JOIN inventory_node n ON n.id = a.node_id
JOIN inventory_instancetype t ON t.id = n.instance_type_id
JOIN inventory_region r ON r.id = n.region_id
LEFT JOIN leases_lease l ON l.id = a.lease_id
WHERE i.account_id = %(account)s
"""

COMMITMENTS = f"""
CREATE TEMP TABLE vendor_commitment ON COMMIT DROP AS
SELECT c.id, {_suffix("c.reservation_id")} AS suffix, c.payment, c.cost_per_node_hour AS price, c.currency,
       c.promised
FROM inventory_commitment c WHERE c.account_id = %(account)s
"""

PRICES = """
CREATE TEMP TABLE vendor_price ON COMMIT DROP AS
SELECT o.instance_type_id, o.region_id, p.period, p.price
FROM inventory_pricepoint p JOIN inventory_offer o ON o.id = p.offer_id
WHERE o.purchase = 'on_demand' AND p.currency = %(currency)s
  AND (o.instance_type_id, o.region_id) IN (SELECT instance_type_id, region_id FROM vendor_machine)
"""

# Strict: the machine's own name. Names are few, lines are many: each name is looked at once.
MATCHES = f"""
CREATE TEMP TABLE vendor_match ON COMMIT DROP AS
WITH by_name AS (SELECT resource, max(id) AS id FROM vendor_machine GROUP BY resource),
by_suffix AS (SELECT suffix, max(id) AS id FROM vendor_machine GROUP BY suffix HAVING count(*) = 1),
by_reservation AS (SELECT suffix, min(id) AS id FROM vendor_commitment WHERE suffix <> '' GROUP BY suffix),
name AS MATERIALIZED (
    SELECT resource_id, lower(resource_id) AS resource, {_suffix("resource_id")} AS suffix
    FROM billing_billline WHERE bill_id = %(bill)s GROUP BY resource_id
),
named AS MATERIALIZED (
    SELECT name.*, coalesce(a.id, b.id) AS machine,
           CASE WHEN a.id IS NOT NULL THEN 'resource_id' WHEN b.id IS NOT NULL THEN 'resource_suffix' END
               AS matched_by,
           c.id AS commitment
    FROM name
    LEFT JOIN by_name a ON a.resource = name.resource
    LEFT JOIN by_suffix b ON a.id IS NULL AND b.suffix = name.suffix AND name.suffix <> ''
    LEFT JOIN by_reservation c ON c.suffix = name.suffix
),
sku AS MATERIALIZED (
    SELECT sku_id, sku_meter, lower(sku_id) AS sku, {_suffix("sku_meter")} AS meter
    FROM billing_billline WHERE bill_id = %(bill)s GROUP BY sku_id, sku_meter
),
reserved AS MATERIALIZED (
    SELECT r.*, c.id AS commitment
    FROM (
        SELECT reservation_id, commitment_ref,
               {_suffix("coalesce(nullif(reservation_id, ''), commitment_ref)")} AS reservation
        FROM billing_billline WHERE bill_id = %(bill)s GROUP BY reservation_id, commitment_ref
    ) r
    LEFT JOIN by_reservation c ON c.suffix = r.reservation
)
SELECT l.id, l.ordinal, l.line_key, l.category, l.correction, l.currency, l.cost, l.quantity, l.hours, l.measure,
       l.service_category, l.period, lower(l.period) AS starts, upper(l.period) AS ends,
       named.resource, sku.sku, sku.meter, lower(l.region_code) AS region, l.commitment_status AS status,
       reserved.reservation,
       nullif(l.tags ->> 'sublet:allocation', '') AS allocation_tag,
       nullif(l.tags ->> 'sublet:lease', '') AS lease_tag,
       named.machine, named.matched_by,
       coalesce(reserved.commitment, CASE WHEN l.category = 'purchase' THEN named.commitment END) AS commitment,
       NULL::text AS repeated
FROM billing_billline l
JOIN named ON named.resource_id = l.resource_id
JOIN sku ON sku.sku_id = l.sku_id AND sku.sku_meter = l.sku_meter
JOIN reserved ON reserved.reservation_id = l.reservation_id AND reserved.commitment_ref = l.commitment_ref
WHERE l.bill_id = %(bill)s
"""

# Looser: our tag, where the bill has no name for the machine or another one than the provider's API.
BY_ALLOCATION_TAG = """
UPDATE vendor_match v SET matched_by = 'tag_allocation', machine = (
    SELECT m.id FROM vendor_machine m WHERE m.allocation_tag = v.allocation_tag
    ORDER BY m.run && v.period DESC, m.run_from DESC LIMIT 1
)
WHERE v.machine IS NULL AND v.allocation_tag IN (SELECT allocation_tag FROM vendor_machine)
"""
BY_LEASE_TAG = """
UPDATE vendor_match v SET matched_by = 'tag_lease', machine = found.machine
FROM (
    SELECT l.id, min(m.id) AS machine
    FROM vendor_match l JOIN vendor_machine m ON m.lease_tag = l.lease_tag AND m.run && l.period
    WHERE l.machine IS NULL GROUP BY l.id HAVING count(*) = 1
) found
WHERE v.id = found.id
"""
# A tag may be on a second machine of the same allocation, launched by mistake: that one is nobody's.
# The first name that the bill has for a machine is the machine's.
NOT_A_SECOND_MACHINE = """
UPDATE vendor_match v SET machine = NULL, matched_by = 'second_machine'
FROM (
    SELECT id, resource, first_value(resource) OVER (
        PARTITION BY machine ORDER BY matched_by LIKE 'tag%%', ordinal
    ) AS first_name
    FROM vendor_match WHERE machine IS NOT NULL AND resource <> ''
) named
WHERE v.id = named.id AND v.matched_by LIKE 'tag%%' AND named.resource <> named.first_name
"""

# Billed twice: the first stays. The same key again …
REPEATED = """
UPDATE vendor_match v SET repeated = 'same_interval'
FROM (
    SELECT id, row_number() OVER (
        -- without a resource to tell rows apart, only the very same charge counts
        PARTITION BY line_key, CASE WHEN resource = '' THEN cost END, CASE WHEN resource = '' THEN quantity END
        ORDER BY ordinal
    ) AS place
    FROM vendor_match
    WHERE category IN ('usage', 'purchase') AND NOT correction AND cost >= 0 AND currency = %(currency)s
) again
WHERE v.id = again.id AND again.place > 1
"""
# … or the same machine and SKU for an interval that overlaps an earlier line's (a day beside its hours).
# Several lines of one and the same interval are parts of it at two prices, and no repetition. Only where
# intervals overlap at all are they compared pair by pair: a month of hours has none that do.
OVERLAPPING = """
WITH interval AS MATERIALIZED (
    SELECT resource, sku, status, starts, ends, min(ordinal) AS first
    FROM vendor_match
    WHERE resource <> '' AND measure IN ('time', 'gpu') AND category = 'usage' AND NOT correction
      AND cost > 0 AND repeated IS NULL AND currency = %(currency)s
    GROUP BY resource, sku, status, starts, ends
),
crowded AS MATERIALIZED (
    SELECT DISTINCT resource, sku, status
    FROM (
        SELECT resource, sku, status, starts, max(ends) OVER (
            PARTITION BY resource, sku, status ORDER BY starts, first
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS billed_until
        FROM interval
    ) seen WHERE billed_until > starts
),
compared AS MATERIALIZED (SELECT interval.* FROM interval JOIN crowded USING (resource, sku, status)),
again AS MATERIALIZED (
    SELECT later.* FROM compared later
    WHERE EXISTS (
        SELECT FROM compared earlier
        WHERE earlier.resource = later.resource AND earlier.sku = later.sku AND earlier.status = later.status
          AND earlier.first < later.first AND earlier.starts < later.ends AND later.starts < earlier.ends
    )
)
UPDATE vendor_match v SET repeated = 'overlapping_interval'
FROM again a
WHERE v.resource = a.resource AND v.sku = a.sku AND v.status = a.status AND v.starts = a.starts AND v.ends = a.ends
  AND v.measure IN ('time', 'gpu') AND v.category = 'usage' AND NOT v.correction
  AND v.cost > 0 AND v.repeated IS NULL AND v.currency = %(currency)s
"""
# … or it was on an earlier month's bill already.
ON_ANOTHER_BILL = """
UPDATE vendor_match v SET repeated = 'on_another_bill'
FROM billing_billline o JOIN billing_vendorbill b ON b.id = o.bill_id
WHERE v.starts < %(month_start)s AND v.repeated IS NULL AND v.resource <> '' AND v.cost >= 0
  AND v.category IN ('usage', 'purchase') AND NOT v.correction AND v.currency = %(currency)s
  AND b.account_id = %(account)s AND b.state <> 'replaced' AND b.month < %(month_start)s::date
  AND b.month >= (SELECT date_trunc('month', min(starts) AT TIME ZONE 'UTC') FROM vendor_match)::date
  AND o.line_key = v.line_key
"""

IN_ORDER = (
    MACHINES,
    "CREATE INDEX ON vendor_machine (allocation_tag)",
    "CREATE INDEX ON vendor_machine (lease_tag)",
    "CREATE INDEX ON vendor_machine (type_name)",
    "ANALYZE vendor_machine",
    COMMITMENTS,
    PRICES,
    MATCHES,
    "ANALYZE vendor_match (id, machine, resource, starts)",
    BY_ALLOCATION_TAG,
    BY_LEASE_TAG,
    NOT_A_SECOND_MACHINE,
    REPEATED,
    OVERLAPPING,
    ON_ANOTHER_BILL,
)
