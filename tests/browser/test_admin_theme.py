"""The stock admin in the portal's clothes."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType

from portal.accounts.models import User
from tests.browser.accessibility import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(client, context, live_server):
    user = User.objects.create_superuser("staff@example.com", "sublet-test-password", full_name="Sam Staff")
    client.force_login(user)
    context.add_cookies(
        [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}]
    )
    group = Group.objects.create(name="Operations")
    Group.objects.create(name="Finance")
    LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get_for_model(Group),
        object_id=str(group.pk),
        object_repr="Operations",
        action_flag=CHANGE,
    )
    return group


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_index_list_form_and_deletion_are_accessible_and_break_no_policy(
    live_server, page, problems, staff, scheme, width
):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for path in (
        "/admin/",
        "/admin/auth/group/",
        f"/admin/auth/group/{staff.pk}/change/",
        f"/admin/auth/group/{staff.pk}/delete/",
        f"/admin/auth/group/{staff.pk}/history/",
    ):
        page.goto(live_server.url + path)
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert violations(page) == [], path
    assert problems == []


def test_the_admin_follows_the_portals_theme(live_server, page, problems, staff):
    page.emulate_media(color_scheme="light")
    page.goto(f"{live_server.url}/admin/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    with page.expect_response("**/theme/"):
        page.get_by_role("button", name="Dark").click()
    page.goto(f"{live_server.url}/admin/auth/group/")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert problems == []
