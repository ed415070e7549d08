from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("notifications", "0002_dropped_deliveries")]

    operations = [
        migrations.AddField(
            "delivery", "edition", models.PositiveSmallIntegerField(default=1, editable=False)
        )
    ]
