from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class LeasesConfig(AppConfig):
    name = "leases"
    label = "leases"
    verbose_name = _("Promises")
    default_auto_field = "django.db.models.BigAutoField"
