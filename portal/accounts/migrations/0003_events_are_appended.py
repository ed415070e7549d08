"""The product can append to the event log, never rewrite it.

``actor_id`` stays writable: it is emptied when a person's account is removed, and the
event keeps who it was in ``actor_label``.
"""

from django.db import migrations

FORWARD = """
REVOKE UPDATE, DELETE, TRUNCATE ON accounts_event FROM sublet_app;
GRANT UPDATE (actor_id) ON accounts_event TO sublet_app;
"""
BACKWARD = "GRANT UPDATE, DELETE ON accounts_event TO sublet_app;"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_members_and_invitations")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
