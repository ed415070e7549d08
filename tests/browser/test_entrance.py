"""The first page that anyone sees, in a real browser."""

import pytest

from tests.browser.accessibility import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sign_in_page_is_accessible_and_breaks_no_policy(live_server, page, problems, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{live_server.url}/accounts/login/")
    assert page.locator("input[type=password]").is_visible()
    assert violations(page) == []
    assert problems == []
