"""P4 and P5 as queries: what polls and prices must look like in the data."""

from __future__ import annotations

from portal.common.audit import Check, sql_check

CHECKS: list[Check] = [
    sql_check(
        "P4",
        "A poll that failed wrote nothing, and only a finished one of a region counts as complete",
        checked="SELECT count(*) FROM inventory_pollrun",
        violations="""
            SELECT format('poll run %s (%s)', id, state) FROM inventory_pollrun
            WHERE (state IN ('failed', 'running') AND (offers_written > 0 OR prices_written > 0))
               OR (state = 'complete' AND (finished_at IS NULL OR region_id IS NULL OR error <> ''))
               OR (state <> 'running' AND finished_at IS NULL)
            ORDER BY id
        """,
    ),
    sql_check(
        "P5",
        "A price point is a change, and the one without an end is the offer's price",
        checked="SELECT (SELECT count(*) FROM inventory_offer) + (SELECT count(*) FROM inventory_pricepoint)",
        violations="""
            SELECT format('offer %s: price points %s and %s are equal', offer_id, id, next_id)
            FROM (
                SELECT offer_id, id, price, currency, period, lead(id) OVER w AS next_id,
                    lead(price) OVER w AS next_price, lead(currency) OVER w AS next_currency,
                    lead(period) OVER w AS next_period
                FROM inventory_pricepoint WINDOW w AS (PARTITION BY offer_id ORDER BY lower(period))
            ) AS points
            WHERE upper(period) = lower(next_period) AND (price, currency) = (next_price, next_currency)
            UNION ALL
            SELECT format('offer %s: its price is %s, its price point says %s', o.id, o.price, p.price)
            FROM inventory_offer o
            LEFT JOIN inventory_pricepoint p ON p.offer_id = o.id AND upper_inf(p.period)
            WHERE o.price IS DISTINCT FROM p.price OR (p.id IS NOT NULL AND o.currency <> p.currency)
        """,
    ),
]
