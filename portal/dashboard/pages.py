"""Numbered pages of a list, as the pagination component takes them."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Page
from django.http import HttpRequest
from django.utils.translation import gettext as _


def page_links(request: HttpRequest, page: Page[Any]) -> dict[str, str]:
    """Return ``previous``, ``next`` and ``note`` for ``{% pagination %}``; every other filter is kept."""

    def link(number: int) -> str:
        query = request.GET.copy()
        query["page"] = str(number)
        return f"?{query.urlencode()}"

    return {
        "previous": link(page.previous_page_number()) if page.has_previous() else "",
        "next": link(page.next_page_number()) if page.has_next() else "",
        "note": _("Page %(number)d of %(pages)d")
        % {"number": page.number, "pages": page.paginator.num_pages},
    }
