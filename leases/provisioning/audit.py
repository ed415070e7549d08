"""P1-P3, C7 and C8 as queries over what is recorded.

Whether the providers agree is the business of ``orphans.find_orphans``; what it found and
nobody settled shows up here under P2. Times are compared with PostgreSQL's ``now()``.
"""

from __future__ import annotations

from django.conf import settings

from portal.common.audit import Check, sql_check

LIVE_MACHINE = "('pending', 'running', 'stopping')"
RUNS = "'provisioning', 'active'"

# How long a doubt, an orphan past its grace or a turnover may stand before it is a violation.
DOUBT = "interval '1 hour'"
TURNOVER = "interval '6 hours'"


def launches_have_intents() -> Check:
    """P1: every machine follows from a committed intent of its own allocation and account."""
    return sql_check(
        "P1",
        "Every launch follows a committed intent, and no doubt is left standing",
        checked="SELECT (SELECT count(*) FROM leases_launchintent) + (SELECT count(*) FROM leases_instance)",
        violations=f"""
            SELECT 'machine ' || i.provider_id || ': its intent is for another allocation or account'
            FROM leases_instance i JOIN leases_launchintent l ON l.id = i.intent_id
            WHERE l.allocation_id <> i.allocation_id OR l.account_id <> i.account_id
            UNION ALL
            SELECT 'machine ' || i.provider_id || ': launched before its intent was committed'
            FROM leases_instance i JOIN leases_launchintent l ON l.id = i.intent_id
            WHERE i.launched_at < l.created_at
            UNION ALL
            SELECT 'intent ' || l.token || ': launched, and no machine is recorded'
            FROM leases_launchintent l
            WHERE l.state = 'launched' AND NOT EXISTS (SELECT FROM leases_instance i WHERE i.intent_id = l.id)
            UNION ALL
            SELECT 'machine ' || i.provider_id || ': runs, and its intent is ' || l.state
            FROM leases_instance i JOIN leases_launchintent l ON l.id = i.intent_id
            WHERE i.state IN {LIVE_MACHINE} AND l.state <> 'launched'
            UNION ALL
            SELECT 'launch ' || l."group" || ': one call for several leases or accounts'
            FROM leases_launchintent l JOIN leases_allocation a ON a.id = l.allocation_id
            GROUP BY l."group" HAVING count(DISTINCT (a.lease_id, l.account_id)) > 1
            UNION ALL
            SELECT 'intent ' || l.token || ': in doubt since ' || coalesce(l.called_at, l.created_at)
            FROM leases_launchintent l
            WHERE l.state = 'calling' AND l.attempts > 0
              AND greatest(l.next_try_at, l.claim_expires_at) < now() - {DOUBT}
        """,  # noqa: S608 - constants of this module
    )


def machines_serve_allocations() -> Check:
    """P2: what runs is recorded once, for an allocation that wants it; orphans are dealt with."""
    grace = f"interval '{int(settings.SUBLET_ORPHAN_GRACE_MINUTES)} minutes' + {DOUBT}"
    return sql_check(
        "P2",
        "Every machine is the one recorded for a live allocation; orphans are removed or explained",
        checked="SELECT (SELECT count(*) FROM leases_instance) + (SELECT count(*) FROM leases_orphan)",
        violations=f"""
            SELECT 'machine ' || i.provider_id || ': runs for ' || coalesce(s.uid, 'nobody') || ', which is '
                   || coalesce(s.state, 'gone')
            FROM leases_instance i
            JOIN leases_allocation a ON a.id = i.allocation_id
            LEFT JOIN leases_lease s ON s.id = a.lease_id
            WHERE i.state IN {LIVE_MACHINE}
              AND (s.id IS NULL OR s.state NOT IN ('provisioning', 'active', 'ending'))
            UNION ALL
            SELECT 'machine ' || i.provider_id || ': its lease is ending, and no turnover ends it'
            FROM leases_instance i
            JOIN leases_allocation a ON a.id = i.allocation_id
            JOIN leases_lease s ON s.id = a.lease_id
            WHERE i.state IN {LIVE_MACHINE} AND s.state = 'ending'
              AND NOT EXISTS (SELECT FROM leases_turnover t WHERE t.allocation_id = a.id)
            UNION ALL
            SELECT 'machine ' || i.provider_id || ': recorded as running, and reported as an orphan'
            FROM leases_instance i
            JOIN leases_orphan o ON o.account_id = i.account_id AND o.resource_id = i.provider_id
            WHERE i.state IN {LIVE_MACHINE} AND o.state = 'seen'
            UNION ALL
            SELECT o.kind || ' ' || o.resource_id || ': an orphan since ' || o.first_seen_at
            FROM leases_orphan o
            WHERE o.state = 'seen' AND o.first_seen_at < now() - ({grace})
        """,  # noqa: S608 - constants of this module and a whole number
    )


def promises_have_machines() -> Check:
    """P3: past its start (and the grace) an allocation has a machine or an open shortfall."""
    grace = f"interval '{int(settings.SUBLET_LATE_GRACE_MINUTES)} minutes' + interval '10 minutes'"
    live = f"""
        FROM leases_allocation a
        JOIN leases_lease s ON s.id = a.lease_id
        JOIN accounts_organization o ON o.id = s.organization_id
        WHERE s.state IN ('scheduled', {RUNS}) AND o.state <> 'suspended' AND a.period @> now()
    """
    return sql_check(
        "P3",
        "Every allocation past its start has a machine or an open shortfall",
        checked=f"SELECT count(*) {live}",
        violations=f"""
            SELECT 'allocation ' || a.id || ' of ' || s.uid || ': no machine and no shortfall since '
                   || lower(a.period)
            {live} AND lower(a.period) < now() - ({grace})
              AND NOT EXISTS (
                SELECT FROM leases_instance i WHERE i.allocation_id = a.id AND i.state IN {LIVE_MACHINE})
              AND NOT EXISTS (
                SELECT FROM leases_shortfall f WHERE f.allocation_id = a.id AND f.closed_at IS NULL)
        """,  # noqa: S608
    )


def tenants_wait_for_turnovers() -> Check:
    """C7: a node went to its next tenant only after the last one's machine had ended and was wiped."""
    return sql_check(
        "C7",
        "The next tenant waited until the machine before had ended and was wiped",
        checked="SELECT count(*) FROM leases_turnover",
        violations=f"""
            SELECT 'machine ' || n.provider_id || ': launched on node ' || later.node_id
                   || ' before the turnover of allocation ' || earlier.id || ' was done'
            FROM leases_instance n
            JOIN leases_allocation later ON later.id = n.allocation_id
            JOIN leases_allocation earlier
              ON earlier.node_id = later.node_id AND lower(earlier.period) < lower(later.period)
            LEFT JOIN leases_turnover t ON t.allocation_id = earlier.id
            WHERE EXISTS (SELECT FROM leases_instance b WHERE b.allocation_id = earlier.id)
              AND (t.completed_at IS NULL OR t.completed_at > n.launched_at)
            UNION ALL
            SELECT 'turnover of allocation ' || t.allocation_id || ': complete, and ' || i.provider_id || ' runs'
            FROM leases_turnover t JOIN leases_instance i ON i.allocation_id = t.allocation_id
            WHERE t.completed_at IS NOT NULL AND i.state IN {LIVE_MACHINE}
            UNION ALL
            SELECT 'turnover of allocation ' || t.allocation_id || ': complete without the machine''s end'
            FROM leases_turnover t
            WHERE t.completed_at IS NOT NULL AND (t.ended_at IS NULL OR t.wiped_at IS NULL)
            UNION ALL
            SELECT 'lease ' || s.uid || ': ended, and allocation ' || a.id || ' had a machine and no turnover'
            FROM leases_lease s
            JOIN leases_allocation a ON a.lease_id = s.id
            WHERE s.state = 'ended'
              AND EXISTS (SELECT FROM leases_instance i WHERE i.allocation_id = a.id)
              AND NOT EXISTS (
                SELECT FROM leases_turnover t WHERE t.allocation_id = a.id AND t.completed_at IS NOT NULL)
            UNION ALL
            SELECT 'turnover of allocation ' || t.allocation_id || ': open since ' || t.requested_at
            FROM leases_turnover t
            WHERE t.completed_at IS NULL AND t.requested_at < now() - {TURNOVER}
              -- A machine that ends only with others of its launch waits while those are used.
              AND NOT EXISTS (
                SELECT FROM leases_instance i
                JOIN leases_launchintent l ON l.id = i.intent_id AND l.ends_together
                JOIN leases_launchintent m ON m."group" = l."group" AND m.account_id = l.account_id
                JOIN leases_instance o ON o.intent_id = m.id AND o.state IN {LIVE_MACHINE}
                WHERE i.allocation_id = t.allocation_id
                  AND NOT EXISTS (SELECT FROM leases_turnover w WHERE w.allocation_id = o.allocation_id))
        """,  # noqa: S608
    )


def machines_have_their_software() -> Check:
    """C8: where a lease has software, every launch named an image of it, never the account's own."""
    of_software = """
        FROM leases_launchintent l
        JOIN leases_allocation a ON a.id = l.allocation_id
        JOIN leases_lease s ON s.id = a.lease_id
        WHERE s.stack_id IS NOT NULL AND l.state = 'launched'"""
    return sql_check(
        "C8",
        "Every machine of a lease with software was launched from an image of it",
        checked=f"SELECT count(*) {of_software}",
        violations=f"""
            SELECT 'intent ' || l.token || ': launched for ' || s.uid || ', which has software, without an image'
            {of_software} AND l.image = ''""",
    )


CHECKS = [
    launches_have_intents(),
    machines_serve_allocations(),
    promises_have_machines(),
    tenants_wait_for_turnovers(),
    machines_have_their_software(),
]
