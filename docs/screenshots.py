"""Take the pictures of the documentation from a running Sublet (``make run``) with its demo.

    make screenshots                      # http://localhost:8000 into docs/images
    .venv/bin/python docs/screenshots.py --all --out /tmp/pictures   # every page, light and dark, 390 and 1440 px

Needs the test requirements (``make test`` installs them).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BASE))

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

from tests.browser.chromium import find_chromium, use_wheel_node  # noqa: E402

PASSWORD = "sublet-demo"
WIDTHS = {"desktop": (1440, 1000), "phone": (390, 844)}
# name → path; a path that ends in "first" opens the first link of its list.
CUSTOMER = {
    "dashboard": "/",
    "reserve": "/reserve/",
    "search": "search",
    "quote": "quote",
    "catalog": "/catalog/",
    "catalog-model": "/catalog/h100-sxm5-80gb/",
    "leases": "/leases/",
    "lease": "/leases/first",
    "usage": "/usage/",
    "invoices": "/invoices/",
    "invoice": "/invoices/first",
    "team": "/team/",
    "projects": "/projects/",
    "ssh-keys": "/ssh-keys/",
    "api-tokens": "/api-tokens/",
    "organization": "/organization/",
    "security": "/security/",
    "api": "/api/v1/",
}
STAFF = {
    "admin": "/admin/",
    "admin-commitments": "/admin/inventory/commitment/",
    "admin-commitment": "/admin/inventory/commitment/first",
    "admin-nodes": "/admin/inventory/node/",
    "admin-offers": "/admin/inventory/offer/",
    "admin-demand": "/admin/leases/capacityinquiry/demand/",
    "admin-inquiry": "inquiry",
    "admin-leases": "/admin/leases/lease/",
    "admin-lease": "/admin/leases/lease/first",
    "admin-organizations": "/admin/accounts/organization/",
    "admin-billing-accounts": "/admin/billing/billingaccount/",
    "admin-invoices": "/admin/billing/invoice/",
    "admin-bills": "/admin/billing/vendorbill/",
    "admin-bill": "/admin/billing/vendorbill/first",
    "admin-findings": "/admin/billing/finding/",
}
# What README and the documentation show.
SHOWN = [
    ("customer", "dashboard", "light", "desktop"),
    ("customer", "dashboard", "dark", "desktop"),
    ("customer", "search", "light", "desktop"),
    ("customer", "lease", "dark", "desktop"),
    ("customer", "catalog-model", "light", "desktop"),
    ("customer", "dashboard", "dark", "phone"),
    ("staff", "admin", "light", "desktop"),
    ("staff", "admin-findings", "dark", "desktop"),
]

# In README their beginning is enough: they list every offer.
LONG = {"catalog", "catalog-model"}


def sign_in(browser: Browser, url: str, email: str, theme: str, size: str) -> Page:
    """Return a page of a signed-in person."""
    width, height = WIDTHS[size]
    context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=1)
    context.add_cookies([{"name": "sublet_theme", "value": theme, "url": url}])
    page = context.new_page()
    page.goto(f"{url}/accounts/login/")
    page.fill("input[name=login]", email)
    page.fill("input[name=password]", PASSWORD)
    page.click("main button[type=submit]")
    page.wait_for_url(f"{url}/**")
    return page


def open_page(page: Page, url: str, path: str) -> None:
    """Go to a path, or do what its word says."""
    if path in ("search", "quote"):
        page.goto(f"{url}/reserve/")
        page.select_option("select[name=gpu]", "h100-sxm5-80gb:8")
        page.fill("input[name=nodes]", "2")
        page.click("main form button:has-text('Search')")
        if path == "quote":
            page.click("#results button:has-text('Get a quote') >> nth=0")
    elif path == "inquiry":
        page.goto(f"{url}/admin/leases/capacityinquiry/demand/")
        page.click("main table a:has-text('Ask the clouds') >> nth=0")
        page.click("main input[type=submit]")
    elif path.endswith("/first"):
        page.goto(url + path.removesuffix("first"))
        link = page.locator(
            "#result_list tbody th a, main tbody th[scope=row] a, #result_list tbody td.field-__str__ a"
        ).first
        page.goto(url + str(link.get_attribute("href")))
    else:
        page.goto(url + path)
    page.wait_for_load_state("networkidle")
    page.evaluate("scrollTo(0, 0)")  # what sticks to the window is drawn where a reader sees it first


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://localhost:8000", help="a running Sublet with its demo")
    parser.add_argument("--out", type=Path, default=BASE / "docs" / "images")
    parser.add_argument("--all", action="store_true", help="every page in both themes and widths")
    parser.add_argument("--only", nargs="+", default=[], help="these pages by name")
    options = parser.parse_args()
    use_wheel_node()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = SHOWN
    if options.all or options.only:
        wanted = [
            (who, name, theme, size)
            for who, pages in (("customer", CUSTOMER), ("staff", STAFF))
            for name in pages
            if not options.only or name in options.only
            for theme in ("light", "dark")
            for size in WIDTHS
        ]
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**find_chromium().launch_options())
        signed_in: dict[tuple[str, str, str], Page] = {}
        for who, name, theme, size in wanted:
            email = "demo@example.com" if who == "customer" else "staff@example.com"
            key = (who, theme, size)
            if key not in signed_in:
                signed_in[key] = sign_in(browser, options.url, email, theme, size)
            page = signed_in[key]
            try:
                open_page(page, options.url, (CUSTOMER if who == "customer" else STAFF)[name])
                whole = bool(options.all or options.only) or name not in LONG
                page.screenshot(path=options.out / f"{name}-{theme}-{size}.png", full_page=whole)
                print(f"{name}-{theme}-{size}.png")
            except Exception as error:  # noqa: BLE001 - the other pictures are still wanted
                failed += 1
                print(f"{name}-{theme}-{size}: {str(error).splitlines()[0]}", file=sys.stderr)
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
