"""Light, dark or as the system says: a cookie, rendered by the server.

The pages carry ``<meta name="color-scheme">``; the style sheets choose colours
with ``light-dark()``. So nothing flashes and no inline script is needed.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

COOKIE = "sublet_theme"
YEAR = 365 * 24 * 60 * 60
SYSTEM = "system"
# Theme -> what <meta name="color-scheme"> says.
COLOR_SCHEMES = {"light": "light", "dark": "dark", SYSTEM: "light dark"}
CHOICES = (
    ("light", gettext_lazy("Light"), "sun"),
    ("dark", gettext_lazy("Dark"), "moon"),
    (SYSTEM, gettext_lazy("System"), "monitor"),
)


def current(request: HttpRequest) -> str:
    """Return the theme in the request's cookie; anything unknown is ``system``."""
    value = request.COOKIES.get(COOKIE, SYSTEM)
    return value if value in COLOR_SCHEMES else SYSTEM


def context(request: HttpRequest) -> dict[str, Any]:
    """Context processor: ``theme``, ``color_scheme`` and ``theme_choices``."""
    theme = current(request)
    return {"theme": theme, "color_scheme": COLOR_SCHEMES[theme], "theme_choices": CHOICES}


@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    """Remember ``theme`` for a year and return to ``next`` (a path on this host).

    A script that has already changed the page sends ``Accept: application/json``
    and gets 204.
    """
    theme = request.POST.get("theme", "")
    if theme not in COLOR_SCHEMES:
        return HttpResponseBadRequest(_("theme must be light, dark or system."))
    if request.headers.get("Accept") == "application/json":
        response = HttpResponse(status=204)
    else:
        target = request.POST.get("next", "")
        if not url_has_allowed_host_and_scheme(
            target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        ):
            target = "/"
        response = HttpResponseRedirect(target)
    response.set_cookie(
        COOKIE, theme, max_age=YEAR, secure=request.is_secure(), httponly=True, samesite="Lax"
    )
    return response
