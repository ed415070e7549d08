"""Every address of the site. (``/healthz`` is answered before routing, in ``portal.health``.)"""

from allauth.account.decorators import secure_admin_login
from allauth.mfa.models import Authenticator
from django.contrib import admin
from django.urls import include, path

admin.autodiscover()
# A form that could hand one person's second factor to another has no place; see users.remove_factors.
admin.site.unregister(Authenticator)
# Staff sign in where everyone does, so that rate limits and second factors hold for the admin too.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.urls")),
    path("api/v1/", include("portal.api.urls")),
    path("", include("portal.accounts.urls")),
    path("", include("portal.dashboard.urls")),
]
