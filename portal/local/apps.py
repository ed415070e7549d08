from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class LocalConfig(AppConfig):
    name = "portal.local"
    label = "local"
    verbose_name = _("Local mode")
    default_auto_field = "django.db.models.BigAutoField"
