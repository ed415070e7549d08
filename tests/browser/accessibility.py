"""Check a page with axe, the rules engine for WCAG."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# Without preload: axe would fetch the admin's @import sheets through inline styles, which the policy reports.
RULES = {
    "preload": False,
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
}


CONTRAST = {"preload": False, "runOnly": {"type": "rule", "values": ["color-contrast"]}}


def violations(page: Page, *, only_contrast: bool = False) -> list[str]:
    """Return one line per element that breaks a rule of WCAG 2.2 A or AA, as axe sees it.

    ``only_contrast`` is for the other theme of a page whose structure was looked at already.
    """
    found = Axe().run(page, options=CONTRAST if only_contrast else RULES).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {' '.join(map(str, node['target']))}"
        for rule in found
        for node in rule["nodes"]
    ]
