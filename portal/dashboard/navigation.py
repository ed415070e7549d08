"""The portal's navigation: one list for the sidebar, the bottom bar and the sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, kw_only=True, slots=True)
class NavItem:
    """``name`` is the page's URL name; ``also`` are pages that belong under it."""

    label: str | Promise
    icon: str
    name: str
    also: tuple[str, ...] = ()
    in_bar: bool = False  # on a phone: in the bottom bar instead of behind "More"
    group: str = "work"


@dataclass(frozen=True, kw_only=True, slots=True)
class NavLink:
    """A navigation item as it stands on one page."""

    label: str | Promise
    icon: str
    url: str
    current: bool
    in_bar: bool
    group: str


ITEMS: Final = (
    NavItem(label=_("Dashboard"), icon="layout-dashboard", name="dashboard:home", in_bar=True),
    NavItem(
        label=_("Reserve"),
        icon="calendar-search",
        name="dashboard:availability",
        also=("dashboard:quote",),
        in_bar=True,
    ),
    NavItem(label=_("Catalog"), icon="scale", name="dashboard:catalog", also=("dashboard:catalog",)),
    NavItem(
        label=_("Leases"), icon="server", name="dashboard:leases", also=("dashboard:lease",), in_bar=True
    ),
    NavItem(label=_("Usage"), icon="activity", name="dashboard:usage", in_bar=True),
    NavItem(label=_("Invoices"), icon="receipt-text", name="dashboard:invoices", also=("dashboard:invoice",)),
    NavItem(label=_("Team"), icon="users", name="dashboard:team", group="organization"),
    NavItem(label=_("Projects"), icon="folder-kanban", name="dashboard:projects", group="organization"),
    NavItem(label=_("SSH keys"), icon="key-round", name="dashboard:ssh-keys", group="organization"),
    NavItem(label=_("API"), icon="square-terminal", name="dashboard:api-tokens", group="organization"),
    NavItem(
        label=_("Settings"),
        icon="settings",
        name="dashboard:organization",
        also=("dashboard:security",),
        group="organization",
    ),
)


def navigation(request: HttpRequest | None) -> list[NavLink]:
    """Return the links that resolve, in order, with the current one marked."""
    match = getattr(request, "resolver_match", None)
    view_name = match.view_name if match else ""
    links = []
    for item in ITEMS:
        try:
            url = reverse(item.name)
        except NoReverseMatch:
            continue
        current = view_name == item.name or view_name in item.also
        # Pages such as lease-cancel or quote-accept stay under their list.
        current = current or any(view_name.startswith(f"{name}-") for name in item.also)
        links.append(
            NavLink(
                label=item.label,
                icon=item.icon,
                url=url,
                current=current,
                in_bar=item.in_bar,
                group=item.group,
            )
        )
    return links
