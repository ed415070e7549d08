"""Every component in a real browser: accessible, within the policy, and usable by keyboard."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.accessibility import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def styleguide(live_server, page):
    page.goto(f"{live_server.url}/styleguide/")
    return page


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1440", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_component_is_accessible_and_breaks_no_policy(live_server, page, problems, scheme, size):
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{live_server.url}/styleguide/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Style guide")
    # Nothing makes the page itself scroll sideways.
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for details in page.locator(".sb-chart__table").all():
        details.locator("summary").click()
    assert violations(page) == []
    assert problems == []


def test_the_dialog_is_modal_and_offers_the_safe_answer_first(styleguide, problems):
    dialog = styleguide.locator("#cancel-lease")
    assert not dialog.is_visible()
    trigger = styleguide.get_by_role("button", name="Cancel this lease")
    trigger.focus()
    styleguide.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    expect(styleguide.get_by_role("button", name="Go back")).to_be_focused()
    assert dialog.evaluate("dialog => dialog.matches(':modal')")
    assert violations(styleguide) == []
    styleguide.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(trigger).to_be_focused()
    assert problems == []


def test_a_chart_can_be_read_by_keyboard_and_by_pointer(styleguide, problems):
    chart = styleguide.locator("time-chart").first
    plot, tip = chart.locator("[data-part=plot]"), chart.locator("[data-part=tip]")
    expect(tip).to_be_hidden()
    plot.focus()
    styleguide.keyboard.press("End")
    expect(tip).to_contain_text("22 Nov")
    styleguide.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text("21 Nov")
    styleguide.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    box = plot.bounding_box()
    styleguide.mouse.move(box["x"] + 1, box["y"] + 20)
    expect(tip).to_contain_text("28 Sep · In use")
    tip_box, view = tip.bounding_box(), styleguide.viewport_size
    assert tip_box["x"] >= 0
    assert tip_box["x"] + tip_box["width"] <= view["width"]
    assert problems == []


def test_the_countdown_counts_speaks_now_and_then_and_ends(live_server, page, problems):
    page.clock.install()
    page.goto(f"{live_server.url}/styleguide/")
    countdown = page.locator("count-down[data-phase=running]")
    clock, status = countdown.locator("[data-part=clock]"), countdown.locator("[data-part=status]")
    expect(clock).to_have_text(re.compile(r"^14:\d\d$"))
    page.clock.run_for("02:00")
    expect(clock).to_have_text(re.compile(r"^12:\d\d$"))
    assert status.text_content() == ""  # nobody wants to hear every second
    page.clock.run_for("03:00")
    expect(status).to_have_text("10 minutes left")
    page.clock.run_for("08:40")
    expect(page.locator("count-down[data-phase=soon]")).to_have_count(1)
    page.evaluate("addEventListener('count-down:over', () => document.title = 'over')")
    page.clock.run_for("02:00")
    expect(page.locator("count-down[data-phase=over]")).to_have_count(2)
    assert page.title() == "over"
    assert problems == []


def test_a_command_is_copied(styleguide, context, problems):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    styleguide.locator("copy-button button").click()
    expect(styleguide.locator("copy-button")).to_contain_text("Copied")
    assert styleguide.evaluate("navigator.clipboard.readText()") == "ssh -i ~/.ssh/sublet ubuntu@203.0.113.17"
    assert problems == []


def test_the_theme_changes_at_once_and_is_remembered(styleguide, problems):
    def background() -> str:
        return styleguide.evaluate("getComputedStyle(document.body).backgroundColor")

    styleguide.emulate_media(color_scheme="light")
    light = background()
    with styleguide.expect_response("**/theme/") as response:
        styleguide.locator(".sb-sidebar").get_by_role("button", name="Dark").click()
    assert response.value.status == 204
    dark = background()
    assert dark != light
    styleguide.reload()
    assert background() == dark
    expect(styleguide.locator(".sb-sidebar").get_by_role("button", name="Dark")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert problems == []


def test_by_keyboard_the_content_is_one_key_away(styleguide):
    styleguide.keyboard.press("Tab")
    skip = styleguide.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    styleguide.keyboard.press("Enter")
    expect(styleguide.locator("main")).to_be_focused()


def test_the_focus_can_be_seen_wherever_the_tab_key_leads(styleguide):
    seen = 0
    for _ in range(60):
        styleguide.keyboard.press("Tab")
        outline = styleguide.evaluate(
            """() => {
                const style = getComputedStyle(document.activeElement);
                return document.activeElement === document.body ? null : [style.outlineStyle, style.outlineWidth];
            }"""
        )
        if outline is None:
            break
        assert outline[0] != "none"
        assert outline[1] not in {"0px", ""}
        seen += 1
    assert seen > 20


@pytest.mark.browser_context_args(timezone_id="UTC", java_script_enabled=False)
def test_without_javascript_everything_still_says_what_it_says(live_server, page):
    page.goto(f"{live_server.url}/styleguide/")
    expect(page.locator("count-down [data-part=clock]").first).to_contain_text("UTC")
    # The question and its button stand in the page.
    expect(page.get_by_role("button", name="Cancel the lease")).to_be_visible()
    expect(page.locator("copy-button button").first).to_be_hidden()
    page.locator(".sb-sidebar").get_by_role("button", name="Dark").click()
    assert page.url == f"{live_server.url}/styleguide/"
    assert page.locator("meta[name=color-scheme]").get_attribute("content") == "dark"


@pytest.mark.browser_context_args(reduced_motion="reduce")
def test_motion_is_reduced_where_it_is_not_welcome(styleguide):
    durations = styleguide.evaluate(
        "[...document.querySelectorAll('*')].map(e => parseFloat(getComputedStyle(e).transitionDuration))"
    )
    assert max(durations) <= 0.001


def test_all_times_can_be_read_in_utc_without_a_mouse(live_server, page, context, problems):
    context.add_cookies([{"name": "sublet_zone", "value": "Asia%2FKolkata", "url": live_server.url}])
    page.goto(f"{live_server.url}/styleguide/")
    time = page.locator("time[datetime='2026-11-22T09:30:00Z']").first
    expect(time).to_have_text("22 Nov 2026, 15:00")
    switch = page.get_by_role("button", name="Show all in UTC")
    switch.focus()
    page.keyboard.press("Enter")
    expect(time).to_have_text("22 Nov 2026, 09:30 UTC")
    expect(switch).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")
    expect(time).to_have_text("22 Nov 2026, 15:00")
    assert problems == []


def test_on_a_phone_every_page_is_within_two_taps(live_server, page, problems):
    page.set_viewport_size(NARROW)
    page.goto(f"{live_server.url}/styleguide/")
    sheet = page.locator("#more")
    assert not sheet.is_visible()
    page.get_by_role("button", name="More").click()
    expect(sheet).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    assert problems == []
