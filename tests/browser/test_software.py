"""A customer picks software by what it holds and gets machines that start from it, in a real browser."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from inventory.models import SoftwareStack, StackImage
from leases.models import LaunchIntent, Lease
from leases.provisioning import sweep
from portal.accounts.models import User
from tests.browser.accessibility import violations
from tests.browser.test_customer_pages import enter, walk
from tests.browser.test_main_job import accept, search
from tests.browser.world import make_world, sign_in
from tests.factories import make_image, make_stack

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AMI = "ami-03cf127a"


def test_from_what_it_holds_to_a_machine_that_has_it(live_server, page, client, problems, moto_ec2):
    world = make_world(endpoint=moto_ec2)
    stack = make_stack(name="PyTorch 2.7", summary="Ready to train.", images={"aws": "/nowhere"})
    make_image(stack=stack, region="us-east-1", reference=AMI, login_user="trainer")
    make_stack(slug="other", name="Other software", images={"lambda": "family"})
    url = live_server.url
    sign_in(page, url)

    # What there is, and what each holds.
    page.goto(f"{url}/reserve/")
    choice = page.get_by_role("combobox", name="Software")
    expect(choice.locator("option")).to_have_text(["The cloud’s own image", "PyTorch 2.7"])
    page.get_by_text("What each software holds").click()
    row = page.get_by_role("row").filter(has_text="Ready to train.")
    expect(row).to_contain_text("PyTorch 2.7, CUDA 12.8")
    expect(row).to_contain_text("H100 SXM 80 GB")

    # Search with it, and book.
    choice.select_option(label="PyTorch 2.7")
    search_with = page.get_by_role("button", name="Search")
    start = (timezone.now() + timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
    page.get_by_label("Earliest start").fill(f"{start:%Y-%m-%dT%H:%M}")
    page.get_by_label("Latest end").fill(f"{start + timedelta(days=5):%Y-%m-%dT%H:%M}")
    page.get_by_label("For how long").fill("1")
    search_with.click()
    expect(page.locator("#results")).to_contain_text("With PyTorch 2.7.")
    for path in ("", page.url.removeprefix(url)):
        assert list(walk(page, url, {"reserve": path or "/reserve/"}, problems)) == []
    page.get_by_role("button", name="Get a quote").first.click()
    page.wait_for_url(re.compile(r"/quotes/"))
    expect(page.locator("main")).to_contain_text("Ubuntu 24.04: PyTorch 2.7, CUDA 12.8")
    accept(page)
    expect(page.locator("main")).to_contain_text("Ubuntu 24.04: PyTorch 2.7, CUDA 12.8")
    assert violations(page) == []

    # Its machine starts from the image, and lets the image's user in.
    lease = Lease.objects.get()
    begun = lease.terms.get().period.lower + timedelta(minutes=1)
    for minutes in range(3):
        sweep.run_all(now=begun + timedelta(minutes=minutes))
    assert LaunchIntent.objects.get().image == AMI
    page.reload()
    expect(page.locator("main")).to_contain_text("ssh trainer@")

    # Nothing more where the image is off: the search says what would help.
    StackImage.objects.filter(reference=AMI).update(enabled=False)
    make_image(stack=stack, region="us-east-1", reference="arm", architecture="arm64")
    search(page, url)
    expect(page.locator("#results")).to_contain_text("What fits")
    expect(page.get_by_role("combobox", name="Software").locator("option")).to_have_text(
        ["The cloud’s own image"]
    )
    assert problems == []

    # The staff's side of it.
    enter(
        page, live_server, client, User.objects.create_superuser("staff@example.com", "sublet-test-password")
    )
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for model, name, *args in (
            (SoftwareStack, "changelist"),
            (SoftwareStack, "add"),
            (SoftwareStack, "change", stack.pk),
            (StackImage, "changelist"),
            (StackImage, "change", StackImage.objects.first().pk),
        ):
            path = reverse(f"admin:inventory_{model._meta.model_name}_{name}", args=args)
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert violations(page) == [], path
    assert problems == []
    assert world.organization == lease.organization
