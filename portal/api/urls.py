"""``/api/v1/``"""

from __future__ import annotations

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView

from portal.api import errors, schema  # noqa: F401 - describes the token to the schema
from portal.api.reference import reference
from portal.api.views import catalog, leases, market, money, quotes

app_name = "api"

urlpatterns = [
    path("", reference, name="reference"),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("offers", catalog.Offers.as_view(), name="offers"),
    path("gpu-models", catalog.GpuModels.as_view(), name="gpu-models"),
    path("stacks", catalog.Stacks.as_view(), name="stacks"),
    path("gpu-models/<slug:slug>", market.GpuModelComparison.as_view(), name="gpu-model"),
    path("gpu-models/<slug:slug>/prices", market.PriceHistory.as_view(), name="gpu-model-prices"),
    path("availability", catalog.Availability.as_view(), name="availability"),
    path("quotes", quotes.Quotes.as_view(), name="quotes"),
    path("quotes/<str:uid>", quotes.QuoteDetail.as_view(), name="quote"),
    path("quotes/<str:uid>/accept", quotes.AcceptQuote.as_view(), name="accept-quote"),
    path("leases", leases.Leases.as_view(), name="leases"),
    path("leases/<str:uid>", leases.LeaseDetail.as_view(), name="lease"),
    path("leases/<str:uid>/cancel", leases.CancelLease.as_view(), name="cancel-lease"),
    path("invoices", money.Invoices.as_view(), name="invoices"),
    path("invoices/<str:uid>/pdf", money.InvoicePdf.as_view(), name="invoice-pdf"),
    path("usage", money.Usage.as_view(), name="usage"),
    re_path(r"^.*$", errors.not_found),
]
