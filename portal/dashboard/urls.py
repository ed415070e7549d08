"""The customer's pages, namespace ``dashboard``."""

from django.conf import settings
from django.urls import path

from portal.dashboard import styleguide, theme
from portal.dashboard.views import catalog, home, leases, money, organization, reserve

app_name = "dashboard"

urlpatterns = [
    path("", home.home, name="home"),
    path("reserve/", reserve.search_page, name="availability"),
    path("catalog/", catalog.model_list, name="catalog"),
    path("catalog/<slug:slug>/", catalog.model_page, name="catalog-model"),
    path("quotes/", reserve.quote_create, name="quote-create"),
    path("quotes/<str:uid>/", reserve.quote_page, name="quote"),
    path("quotes/<str:uid>/drop/", reserve.quote_drop, name="quote-drop"),
    path("leases/", leases.lease_list, name="leases"),
    path("leases/<str:uid>/", leases.lease_detail, name="lease"),
    path("leases/<str:uid>/cancel/", leases.cancel_quote, name="lease-cancel-quote"),
    path("leases/<str:uid>/cancel/<str:quote>/", leases.cancel, name="lease-cancel"),
    path("usage/", money.usage_page, name="usage"),
    path("usage.csv", money.usage_csv, name="usage-csv"),
    path("invoices/", money.invoice_list, name="invoices"),
    path("invoices/<str:uid>/", money.invoice_detail, name="invoice"),
    path("invoices/<str:uid>/pdf/", money.invoice_file, name="invoice-pdf"),
    path("organization/", organization.settings_page, name="organization"),
    path("organization/new/", organization.create, name="organization-create"),
    path("team/", organization.team, name="team"),
    path("team/<str:uid>/role/", organization.member_role, name="member-role"),
    path("team/<str:uid>/remove/", organization.member_remove, name="member-remove"),
    path("invitations/<str:uid>/revoke/", organization.invitation_revoke, name="invitation-revoke"),
    path("projects/", organization.project_list, name="projects"),
    path("projects/<str:uid>/rename/", organization.project_rename, name="project-rename"),
    path("projects/<str:uid>/archive/", organization.project_archive, name="project-archive"),
    path("projects/<str:uid>/restore/", organization.project_restore, name="project-restore"),
    path("ssh-keys/", organization.ssh_key_list, name="ssh-keys"),
    path("ssh-keys/<str:uid>/remove/", organization.ssh_key_remove, name="ssh-key-remove"),
    path("api-tokens/", organization.token_list, name="api-tokens"),
    path("api-tokens/<str:uid>/revoke/", organization.token_revoke, name="api-token-revoke"),
    path("security/", organization.security, name="security"),
    path("theme/", theme.switch, name="theme"),
]

if settings.SUBLET_LOCAL:
    urlpatterns += [path("styleguide/", styleguide.show, name="styleguide")]
