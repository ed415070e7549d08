"""C1 to C6 as queries over what is recorded (C7 is checked with the machines).

Each is one set-based statement, so that a nightly run over a large fleet takes seconds.
"""

from __future__ import annotations

from portal.common.audit import Check, sql_check

PROMISED = "('scheduled', 'provisioning', 'active')"
WAITING = "('held', 'awaiting')"

ALLOCATIONS = "SELECT count(*) FROM leases_allocation"


def no_overlaps() -> Check:
    """C1: PostgreSQL refuses overlaps; this finds them where the constraint was ever dropped."""
    return sql_check(
        "C1",
        "No two allocations of a node overlap",
        checked=ALLOCATIONS,
        violations="""
            SELECT 'allocation ' || id || ' of node ' || node_id || ': overlaps one that ends ' || before
            FROM (
                SELECT id, node_id, lower(occupied) AS start,
                       max(upper(occupied)) OVER (
                           PARTITION BY node_id ORDER BY lower(occupied), id
                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                FROM leases_allocation
            ) a WHERE start < before
        """,
    )


def inside_available() -> Check:
    """C2: allocations lie inside the node's time, and the copy of it that the key keeps is true."""
    return sql_check(
        "C2",
        "Every allocation lies inside its node's available time",
        checked=ALLOCATIONS,
        violations="""
            SELECT 'allocation ' || a.id || ' of node ' || n.name || ': ' || a.occupied || ' is not inside '
                   || n.available
            FROM leases_allocation a JOIN inventory_node n ON n.id = a.node_id
            WHERE NOT a.occupied <@ n.available OR a.node_available <> n.available
        """,
    )


def quantities_kept() -> Check:
    """C3: a sweep over the ends of terms, allocations and shortfalls of every promised lease.

    A shortfall with an allocation is about a node that the lease still has. A term adds
    its quantity, nodes and shortfalls take one each: the running sum is zero everywhere.
    """
    return sql_check(
        "C3",
        "Nodes plus shortfalls are what was promised, at every moment",
        checked=f"SELECT count(*) FROM leases_lease WHERE state IN {PROMISED}",  # noqa: S608
        violations=f"""
            WITH promised AS MATERIALIZED (SELECT id, uid FROM leases_lease WHERE state IN {PROMISED}),
            spans AS (
                SELECT t.lease_id, t.period, t.nodes AS quantity
                FROM leases_term t JOIN promised p ON p.id = t.lease_id
                UNION ALL
                SELECT a.lease_id, a.period, -1
                FROM leases_allocation a JOIN promised p ON p.id = a.lease_id
                UNION ALL
                SELECT s.lease_id, s.period * tstzrange(NULL, s.closed_at), -1
                FROM leases_shortfall s JOIN promised p ON p.id = s.lease_id
                WHERE s.allocation_id IS NULL
            ), ends AS (
                SELECT lease_id, lower(period) AS at, quantity FROM spans WHERE NOT isempty(period)
                UNION ALL
                SELECT lease_id, upper(period), -quantity FROM spans WHERE NOT isempty(period)
            ), steps AS (
                SELECT lease_id, at, sum(sum(quantity)) OVER (PARTITION BY lease_id ORDER BY at) AS missing
                FROM ends GROUP BY lease_id, at
            ), first AS (
                SELECT DISTINCT ON (lease_id) lease_id, at, missing
                FROM steps WHERE missing <> 0 ORDER BY lease_id, at
            )
            SELECT p.uid || ': '
                   || CASE WHEN f.missing > 0 THEN f.missing || ' too few' ELSE -f.missing || ' too many' END
                   || ' from ' || f.at
            FROM promised p JOIN first f ON f.lease_id = p.id
            UNION ALL
            SELECT p.uid || ': has no term' FROM promised p
            WHERE NOT EXISTS (SELECT FROM leases_term t WHERE t.lease_id = p.id)
        """,  # noqa: S608 - constants of this module
    )


def fabrics_kept() -> Check:
    """C4: nodes that a lease has at the same time share a fabric, where it asks for one."""
    return sql_check(
        "C4",
        "A lease that asks for one fabric has its nodes on one fabric",
        checked=f"SELECT count(*) FROM leases_lease WHERE one_fabric AND state IN {PROMISED}",  # noqa: S608
        violations=f"""
            SELECT DISTINCT l.uid || ': nodes ' || a.node_id || ' and ' || b.node_id || ' share no fabric'
            FROM leases_lease l
            JOIN leases_allocation a ON a.lease_id = l.id JOIN inventory_node n ON n.id = a.node_id
            JOIN leases_allocation b ON b.lease_id = l.id AND b.id > a.id AND b.period && a.period
            JOIN inventory_node m ON m.id = b.node_id
            WHERE l.one_fabric AND l.state IN {PROMISED}
              AND (n.fabric_id IS NULL OR m.fabric_id IS NULL OR n.fabric_id <> m.fabric_id)
        """,  # noqa: S608 - constants of this module
    )


def lapsed_block_nobody() -> Check:
    """C5: what lapsed or was cancelled has no nodes; waiting leases have a deadline, swept in time."""
    return sql_check(
        "C5",
        "Lapsed holds have no nodes, and no hold outlives its deadline by an hour",
        checked=f"SELECT count(*) FROM leases_lease WHERE state IN ('lapsed', 'cancelled') OR state IN {WAITING}",  # noqa: S608
        violations=f"""
            SELECT l.uid || ': is ' || l.state || ' and still has ' || count(*) || ' nodes'
            FROM leases_lease l JOIN leases_allocation a ON a.lease_id = l.id
            WHERE l.state IN ('lapsed', 'cancelled')
            GROUP BY l.id
            UNION ALL
            SELECT l.uid || ': waits, and its deadline was ' || coalesce(l.deadline::text, 'never set')
            FROM leases_lease l
            WHERE l.state IN {WAITING} AND (l.deadline IS NULL OR l.deadline < now() - interval '1 hour')
        """,  # noqa: S608 - constants of this module
    )


def failed_nodes_get_nothing_new() -> Check:
    """C6: nothing was given to a node after it failed, and what it had is told as missing."""
    return sql_check(
        "C6",
        "Nodes out of order got nothing new, and their leases have a shortfall",
        checked="SELECT count(*) FROM inventory_node WHERE health <> 'healthy'",
        violations=f"""
            WITH broken AS MATERIALIZED (
                SELECT n.id, n.name, n.health,
                       (SELECT e.at FROM accounts_event e
                        WHERE e.subject_type = 'node' AND e.subject_id = n.id::text
                          AND e.kind = 'node.health_changed' ORDER BY e.id DESC LIMIT 1) AS since
                FROM inventory_node n WHERE n.health <> 'healthy'
            )
            SELECT 'allocation ' || a.id || ': given after node ' || b.name || ' became ' || b.health
            FROM broken b JOIN leases_allocation a ON a.node_id = b.id
            WHERE a.purpose = 'lease' AND a.created_at > b.since
            UNION ALL
            SELECT l.uid || ': counts on node ' || b.name || ', which is ' || b.health
            FROM broken b
            JOIN leases_allocation a ON a.node_id = b.id
            JOIN leases_lease l ON l.id = a.lease_id
            WHERE b.health IN ('unhealthy', 'retired') AND l.state IN {PROMISED}
              AND upper(a.period) > greatest(now(), b.since) + interval '1 second'
              AND (b.health = 'retired' OR NOT EXISTS (
                SELECT FROM leases_shortfall s
                WHERE s.allocation_id = a.id AND (s.closed_at IS NULL OR upper(s.period) >= upper(a.period))))
        """,  # noqa: S608 - constants of this module
    )


CHECKS: list[Check] = [
    no_overlaps(),
    inside_available(),
    quantities_kept(),
    fabrics_kept(),
    lapsed_block_nobody(),
    failed_nodes_get_nothing_new(),
]
