"""One navigation for sidebar, bottom bar and sheet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.http import HttpResponse
from django.urls import include, path

from portal.dashboard.navigation import ITEMS, navigation


def page(_request, **_parts):
    return HttpResponse()


class Some:
    """A site that has only two of the pages."""

    app_name = "dashboard"
    urlpatterns = [
        path("leases/", page, name="leases"),
        path("leases/<uid>/", page, name="lease"),
        path("usage/", page, name="usage"),
    ]


urlpatterns = [path("", include((Some.urlpatterns, "dashboard")))]


def links(view_name: str) -> dict[str, bool]:
    request = SimpleNamespace(resolver_match=SimpleNamespace(view_name=view_name))
    return {str(link.label): link.current for link in navigation(request)}


@pytest.mark.urls(__name__)
def test_a_page_that_does_not_exist_is_left_out():
    assert list(links("")) == ["Leases", "Usage"]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("name", ["dashboard:leases", "dashboard:lease", "dashboard:lease-cancel"])
def test_a_page_below_an_entry_marks_that_entry_alone(name):
    assert links(name) == {"Leases": True, "Usage": False}


@pytest.mark.urls(__name__)
def test_elsewhere_nothing_is_current():
    assert links("account_email") == {"Leases": False, "Usage": False}
    assert navigation(None)[0].current is False


def test_the_order_is_the_agreed_one_and_a_phone_has_room_for_four():
    assert [str(item.label) for item in ITEMS] == [
        "Dashboard",
        "Reserve",
        "Catalog",
        "Leases",
        "Usage",
        "Invoices",
        "Team",
        "Projects",
        "SSH keys",
        "API",
        "Settings",
    ]
    assert sum(item.in_bar for item in ITEMS) == 4
