"""Whose zone a page is in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from portal.dashboard.timezones import COOKIE, TimeZoneMiddleware


def zone(*, user: object = None, cookie: str = "") -> str:
    seen: list[str] = []

    def view(request: object) -> HttpResponse:
        seen.append(timezone.get_current_timezone_name())
        return HttpResponse()

    request = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    if cookie:
        request.COOKIES[COOKIE] = cookie
    TimeZoneMiddleware(view)(request)
    return seen[0]


def person(name: str) -> SimpleNamespace:
    return SimpleNamespace(is_authenticated=True, time_zone=name)


def test_a_person_has_a_zone():
    assert zone(user=person("Europe/Dublin"), cookie="Asia/Tokyo") == "Europe/Dublin"


def test_before_sign_in_it_is_the_browsers():
    assert zone(cookie="America%2FNew_York") == "America/New_York"
    assert zone() == "UTC"


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "x" * 5000, "Europe", "a\x00b"]
)
def test_nonsense_is_utc(name):
    assert zone(cookie=name) == "UTC"
    assert zone(user=person(name)) == "UTC"


def test_the_zone_does_not_leak_into_the_next_request():
    zone(user=person("Asia/Tokyo"))
    assert timezone.get_current_timezone_name() == "UTC"
