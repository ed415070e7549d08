"""The list of leases, narrowed to a project."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tests.factories import make_organization, make_project, make_user

pytestmark = pytest.mark.django_db


def test_leases_of_a_project_and_nobody_elses(client):
    user = make_user()
    mine, other = make_organization(owner=user), make_organization()
    client.force_login(user)
    address = reverse("dashboard:leases")
    assert client.get(address, {"project": make_project(organization=mine).uid}).status_code == 200
    for uid in (make_project(organization=other).uid, "prj_none", "a\x00b"):
        assert client.get(address, {"project": uid}).status_code == 404
