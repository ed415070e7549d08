"""Memberships get a public id; open invitations keep their link, encrypted, for the mail."""

import functools

from django.db import migrations, models

import portal.common.ids

PUBLIC_ID = functools.partial(portal.common.ids.public_id, "mem")


def give_each_an_id(apps, schema_editor):
    membership = apps.get_model("accounts", "Membership")
    for row in membership.objects.filter(uid=None).only("pk").iterator():
        membership.objects.filter(pk=row.pk).update(uid=PUBLIC_ID())


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField("invitation", "sealed_token", models.BinaryField(blank=True, null=True)),
        # In three steps: one default value for all rows would not be unique.
        migrations.AddField("membership", "uid", models.CharField(editable=False, max_length=32, null=True)),
        migrations.RunPython(give_each_an_id, migrations.RunPython.noop),
        migrations.AlterField(
            "membership",
            "uid",
            models.CharField(default=PUBLIC_ID, editable=False, max_length=32, unique=True),
        ),
    ]
