"""Launches by group, and turnovers that wait for the rest of theirs."""

from django.db import migrations, models
from django.db.models import F, Q


def alone(apps, schema_editor):
    """Until now every intent was called alone: the group of its own token."""
    apps.get_model("leases", "LaunchIntent").objects.update(group=F("token"))


class Migration(migrations.Migration):
    dependencies = [
        ("leases", "0006_buying"),
    ]

    operations = [
        migrations.AddField(
            model_name="launchintent",
            name="group",
            field=models.CharField(
                db_index=True, default="", editable=False, max_length=64, verbose_name="launch group"
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="launchintent",
            name="ends_together",
            field=models.BooleanField(default=False, editable=False, verbose_name="ends together"),
        ),
        migrations.AddField(
            model_name="launchintent",
            name="upstream_account",
            field=models.CharField(blank=True, default="", editable=False, max_length=200),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="launchintent",
            name="refused_with",
            field=models.CharField(blank=True, default="", editable=False, max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="turnover",
            name="waits_for",
            field=models.CharField(blank=True, default="", max_length=300, verbose_name="waits for"),
            preserve_default=False,
        ),
        migrations.RunPython(alone, migrations.RunPython.noop, elidable=True),
        migrations.AddConstraint(
            model_name="launchintent",
            constraint=models.CheckConstraint(condition=~Q(group=""), name="launch_intent_has_a_group"),
        ),
    ]
