"""A charge's beginning as a column of its own: a range is no pagination cursor, nor is it grouped by day."""

import django.contrib.postgres.fields.ranges
from django.db import migrations, models

# A BEFORE trigger sees a generated column as NULL and would take every update for a change.
AFTER = """
DROP TRIGGER charge_frozen ON billing_charge;
CREATE TRIGGER charge_frozen AFTER UPDATE OR DELETE ON billing_charge
    FOR EACH ROW EXECUTE FUNCTION billing_charge_frozen();
"""
BEFORE = AFTER.replace("AFTER", "BEFORE")


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_events_are_appended"),
        ("billing", "0004_vendor_bills"),
        ("leases", "0004_neighbours"),
    ]

    operations = [
        migrations.RunSQL(AFTER, BEFORE),
        migrations.AddField(
            model_name="charge",
            name="started_at",
            field=models.GeneratedField(
                db_persist=True,
                expression=django.contrib.postgres.fields.ranges.RangeStartsWith("period"),
                output_field=models.DateTimeField(),
            ),
        ),
        migrations.AddIndex(
            model_name="charge",
            index=models.Index(fields=["organization", "-started_at", "-id"], name="charge_history"),
        ),
    ]
