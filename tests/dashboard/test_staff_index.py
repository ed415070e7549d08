"""The staff index stands on its own: a page that is not there takes only its link along."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.test import Client

from billing.models import Finding
from portal.accounts.models import User
from portal.dashboard.templatetags import staff


def test_a_page_that_is_not_registered_has_no_link() -> None:
    assert staff._url("admin:billing_nothing_changelist", "state__exact=open") == ""
    assert staff._url("admin:leases_lease_changelist", "state__exact=awaiting") == (
        "/admin/leases/lease/?state__exact=awaiting"
    )


@pytest.mark.django_db
def test_everything_on_the_index_leads_somewhere() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("staff@example.com", "sublet-test-password"))
    context = client.get("/admin/").context
    links = [item["url"] for item in context["todo"]]
    assert all(links)
    for link in links:
        assert client.get(link).status_code == 200, link
    assert admin.site.is_registered(Finding)
