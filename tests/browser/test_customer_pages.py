"""Every customer page, the API's reference and the staff index: accessible, within the policy and the window."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import checkout, invoicing, ledger, metering
from billing.drafting import draft_month
from billing.models import Invoice, Quote
from leases.models import Lease
from leases.provisioning import sweep
from portal.accounts import projects, ssh_keys, tokens
from portal.accounts.models import Membership, User
from tests.billing.helpers import deliver, make_booking, make_quote
from tests.browser.accessibility import violations
from tests.browser.world import PUBLIC_KEY, World, make_person, make_world
from tests.factories import H100, make_organization

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

WIDTHS = (1440, 390)
SCHEMES = ("light", "dark")
# Colours fade from one theme to the other: what is measured halfway is neither.
SETTLED = """async () => {
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const fading = document.getAnimations().filter(found => found instanceof CSSTransition);
    await Promise.allSettled(fading.map(found => found.finished));
}"""


def play(world: World) -> dict[str, str]:
    """Fill every list; return the paths of the customer's pages by name."""
    organization, now = world.organization, world.now.replace(minute=0, second=0, microsecond=0)
    project = projects.create_project(
        organization=organization, name="Research", actor=world.owner, now=world.now
    )
    ssh_keys.add_ssh_key(
        organization=organization, name="laptop", public_key=PUBLIC_KEY, actor=world.owner, now=world.now
    )
    tokens.create_token(
        actor=world.owner,
        organization=organization,
        name="ci",
        scopes=["read"],
        expires_at=world.now + timedelta(days=30),
        now=world.now,
    )
    make_person("bo@example.com", "Bo Lind", organization=organization, role=Membership.Role.BILLING)

    # Last month: a lease that is over and invoiced.
    month = ledger.last_month(now)
    first = max(ledger.month_start(month), now - timedelta(days=55)) + timedelta(days=1)
    over = make_booking(
        organization, now=first - timedelta(hours=1), start=first, hours=30, nodes=1, name="over"
    )
    deliver(over, first, first + timedelta(hours=30))
    Lease.objects.filter(pk=over.pk).update(state=Lease.State.ENDED)
    # Now: a lease with a machine.
    start = now - timedelta(days=1)
    running = make_booking(
        organization,
        now=start - timedelta(hours=1),
        start=start,
        hours=72,
        nodes=2,
        name="train-llm-07",
        project=project,
    )
    for minute in (1, 3):
        sweep.run_all(now=start + timedelta(minutes=minute))
    running.refresh_from_db()
    assert running.state == Lease.State.ACTIVE
    metering.meter_due(now=now)
    draft_month(month=month, now=now)
    invoicing.finalize_month(month=month, actor=None, now=now)

    # Ahead: scheduled, waiting for funds, being cancelled, quoted, expired.
    soon = now + timedelta(days=5)
    scheduled = make_booking(organization, now=world.now, start=soon, hours=24, name="eval-suite")
    dear = make_quote(organization, now=world.now, start=soon, hours=24 * 300, name="dear")
    waiting = checkout.accept(
        quote_uid=dear.uid, organization=organization, actor=None, now=world.now, wait_for_funds=True
    )
    cancelling = checkout.quote_cancellation(
        lease_uid=scheduled.uid, organization=organization, actor=world.owner, now=world.now
    )
    quote = make_quote(organization, now=timezone.now(), start=now + timedelta(days=2), hours=24, name="q")
    expired = make_quote(organization, now=world.now, start=now + timedelta(days=3), hours=24, name="e")
    Quote.objects.filter(pk=expired.pk).update(expires_at=world.now - timedelta(minutes=1))

    def search(nodes: int, **more: str) -> str:
        asked = {
            "gpu": f"{H100}:8",
            "nodes": nodes,
            "earliest": f"{now + timedelta(days=2):%Y-%m-%dT%H:%M}",
            "latest": f"{now + timedelta(days=4):%Y-%m-%dT%H:%M}",
            "duration": 1,
            "unit": 24,
            "region": "",
        }
        return f"/reserve/?{urlencode({**asked, **more})}"

    return {
        "dashboard": "/",
        "reserve": "/reserve/",
        "found": search(1),
        "near misses": search(9),
        "wrong search": search(0, duration="900"),
        "quote": f"/quotes/{quote.uid}/",
        "expired quote": f"/quotes/{expired.uid}/",
        "leases": "/leases/?show=all",
        "running": f"/leases/{running.uid}/",
        "scheduled": f"/leases/{scheduled.uid}/",
        "awaiting": f"/leases/{waiting.uid}/",
        "cancel": f"/leases/{scheduled.uid}/cancel/{cancelling.uid}/",
        "usage": "/usage/",
        "invoices": "/invoices/",
        "invoice": f"/invoices/{Invoice.objects.get().uid}/",
        "team": "/team/",
        "projects": "/projects/",
        "SSH keys": "/ssh-keys/",
        "API tokens": "/api-tokens/",
        "organization": "/organization/",
        "new organization": "/organization/new/",
        "security": "/security/",
        "API reference": "/api/v1/",
    }


def enter(page: Page, live_server, client, user: User) -> None:
    """Be signed in as this person."""
    client.force_login(user)
    page.context.add_cookies(
        [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}]
    )


def walk(page: Page, url: str, paths: dict[str, str], problems: list[str]) -> Iterable[str]:
    """Visit each page in both themes and at both widths; yield what is wrong."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for name, path in paths.items():
            page.goto(url + path)
            for details in page.locator(".sb-chart__table summary").all():
                details.click()
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                page.evaluate(SETTLED)
                where = f"{name}, {width} px, {scheme}"
                if page.get_by_role("heading", level=1).count() != 1:
                    yield f"{where}: not one heading"
                if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                    yield f"{where}: {wide} px wide"
                for found in violations(page, only_contrast=scheme != SCHEMES[0]):
                    yield f"{where}: {found}"
                while problems:
                    yield f"{where}: {problems.pop(0)}"


def test_every_page_of_a_customer_and_the_staff_index(live_server, page, client, problems, moto_ec2):
    world = make_world(endpoint=moto_ec2)
    paths = play(world)
    enter(page, live_server, client, world.owner)
    assert list(walk(page, live_server.url, paths, problems)) == []

    # The same world as staff see it.
    staff = User.objects.create_superuser("staff@example.com", "sublet-test-password", full_name="Sam")
    enter(page, live_server, client, staff)
    assert list(walk(page, live_server.url, {"staff index": "/admin/"}, problems)) == []
    expect(page.get_by_role("heading", name="Fleet utilization")).to_be_visible()


def test_every_page_of_a_customer_who_has_nothing_yet(live_server, page, client, problems):
    owner = make_person("new@example.com", "Noor Haddad")
    make_organization(name="Day One", owner=owner, state="pending")
    enter(page, live_server, client, owner)
    paths = {
        path.strip("/") or "dashboard": path
        for path in (
            "/", "/reserve/", "/catalog/", "/leases/", "/usage/", "/invoices/", "/team/", "/projects/", "/ssh-keys/",
            "/api-tokens/", "/organization/",
        )
    }  # fmt: skip
    assert list(walk(page, live_server.url, paths, problems)) == []


def test_the_page_that_refreshes_itself_keeps_the_focus_and_what_was_written(
    live_server, page, client, problems, moto_ec2
):
    world = make_world(endpoint=moto_ec2)
    paths = play(world)
    enter(page, live_server, client, world.owner)
    page.clock.install()
    page.goto(live_server.url + paths["running"])
    button = page.locator(".sb-copy button").first
    button.focus()
    # Nothing has changed: nothing is swapped.
    with page.expect_response(lambda answer: "seen=" in answer.url) as answer:
        page.clock.run_for("00:21")
    assert answer.value.status == 204
    expect(button).to_be_focused()
    # Something has: what is new appears, and the focus stays.
    running = Lease.objects.get(name="train-llm-07")
    metering.meter_due(now=timezone.now() + timedelta(hours=1))
    before = page.locator("#lease-cost").text_content()
    with page.expect_response(lambda answer: "seen=" in answer.url) as answer:
        page.clock.run_for("00:21")
    assert answer.value.status == 200
    expect(page.locator("#lease-cost")).not_to_have_text(str(before))
    expect(page.locator(".sb-copy button").first).to_be_focused()

    # Where the set-up can be written in, what is written stays.
    page.goto(live_server.url + paths["scheduled"])
    name = page.get_by_label("Name", exact=True)
    name.fill("half a na")
    with page.expect_response(lambda answer: "seen=" in answer.url):
        page.clock.run_for("00:21")
    expect(name).to_have_value("half a na")
    expect(name).to_be_focused()
    assert running.state == Lease.State.ACTIVE
    assert problems == []


def test_by_keyboard_every_control_of_the_search_can_be_reached_and_seen(live_server, page, client):
    world = make_world()
    enter(page, live_server, client, world.owner)
    page.goto(f"{live_server.url}/reserve/")
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const at = document.activeElement;
                if (at === document.body) return null;
                const box = at.getBoundingClientRect(), style = getComputedStyle(at);
                return [at.name || at.textContent.trim() || at.getAttribute('aria-label'), box.width * box.height,
                        style.outlineStyle];
            }"""
        )
        if found is None:
            break
        name, area, outline = found
        assert area > 0, name
        assert outline != "none", name
        seen.add(name)
    assert {"Leases", "gpu", "latest", "Search"} <= seen
