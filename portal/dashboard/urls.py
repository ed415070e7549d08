"""The customer's pages, namespace ``dashboard``."""

from django.conf import settings
from django.urls import path

from portal.dashboard import styleguide, theme

app_name = "dashboard"

urlpatterns = [
    path("theme/", theme.switch, name="theme"),
]

if settings.SUBLET_LOCAL:
    urlpatterns += [path("styleguide/", styleguide.show, name="styleguide")]
