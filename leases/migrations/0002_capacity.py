"""C2: an allocation carries its node's ``available``, and PostgreSQL keeps the copy true.

Shrinking a node updates the copy in the same statement (ON UPDATE CASCADE), so the
CHECK ``occupied <@ node_available`` refuses a shrink that would cut a promise. Two
triggers instead would let a booking and a shrink pass each other.
"""

from django.db import migrations

FORWARD = """
ALTER TABLE leases_allocation
    ADD CONSTRAINT allocation_node_available
    FOREIGN KEY (node_id, node_available) REFERENCES inventory_node (id, available)
    ON UPDATE CASCADE;
"""
BACKWARD = "ALTER TABLE leases_allocation DROP CONSTRAINT allocation_node_available;"


class Migration(migrations.Migration):
    dependencies = [("leases", "0001_initial"), ("inventory", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
