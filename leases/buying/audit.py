"""P6 as a query over what is recorded."""

from __future__ import annotations

from portal.common.audit import Check, sql_check

CHECKS: list[Check] = [
    sql_check(
        "P6",
        "Every purchase is one commitment of the account, type and reservation that was chosen, or is settled",
        checked="SELECT count(*) FROM leases_capacitypurchase",
        violations="""
            SELECT 'purchase ' || p.token || ': its commitment ' || m.uid || ' is for something else'
            FROM leases_capacitypurchase p
            JOIN leases_capacitychoice c ON c.id = p.choice_id
            JOIN inventory_commitment m ON m.id = p.commitment_id
            WHERE m.account_id IS DISTINCT FROM c.account_id OR m.instance_type_id <> c.instance_type_id
               OR (c.offering_id <> '' AND m.reservation_id = '')
            UNION ALL
            SELECT 'purchase ' || p.token || ': ' || p.state || ' since ' || p.created_at
            FROM leases_capacitypurchase p
            WHERE p.state IN ('pending', 'calling') AND p.created_at < now() - interval '2 hours'
            UNION ALL
            SELECT 'reservation ' || m.reservation_id || ': ' || count(*) || ' commitments were bought on it'
            FROM leases_capacitypurchase p
            JOIN leases_capacitychoice c ON c.id = p.choice_id AND c.offering_id <> ''
            JOIN inventory_commitment m ON m.id = p.commitment_id
            GROUP BY m.account_id, m.reservation_id HAVING count(*) > 1
        """,
    ),
]
