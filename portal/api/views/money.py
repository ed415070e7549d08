"""Invoices and usage: for roles and tokens that may see money."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiTypes, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.access import invoice_for
from billing.documents import invoice_pdf
from billing.history import charges_of, invoices_of
from billing.models import Charge, Invoice
from portal.accounts.models import ApiToken
from portal.api import representations
from portal.api.authentication import caller, organization_of
from portal.api.filters import AwareTimeFilter
from portal.api.pagination import ByNewest, ByStart
from portal.api.schemas import ChargeSerializer, InvoiceSerializer
from portal.api.views.base import listed, problems


class Invoices(GenericAPIView):
    """The organization's finalized invoices, newest first."""

    scope = ApiToken.Scope.BILLING
    pagination_class = ByNewest

    def get_queryset(self) -> QuerySet[Invoice]:
        if getattr(self, "swagger_fake_view", False):
            return Invoice.objects.none()
        found = invoices_of(user=caller(self.request), organization=organization_of(self.request))
        return found.prefetch_related("lines")

    @extend_schema(
        tags=["money"],
        operation_id="list_invoices",
        responses={**listed(InvoiceSerializer), **problems()},
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        assert page is not None
        return self.get_paginated_response([representations.invoice(row) for row in page])


class InvoicePdf(APIView):
    """One invoice as PDF."""

    scope = ApiToken.Scope.BILLING

    @extend_schema(
        tags=["money"],
        operation_id="get_invoice_pdf",
        responses={(200, "application/pdf"): OpenApiTypes.BINARY, **problems("404 not-found")},
    )
    def get(self, request: Request, uid: str) -> HttpResponse:
        invoice = invoice_for(user=caller(request), uid=uid, organization=organization_of(request))
        return HttpResponse(
            invoice_pdf(invoice),
            content_type="application/pdf",
            headers={"Content-Disposition": f'attachment; filename="{invoice.number}.pdf"'},
        )


class UsageFilter(django_filters.FilterSet):
    """Narrow the usage."""

    lease = django_filters.CharFilter(field_name="lease__uid")
    project = django_filters.CharFilter(field_name="project__uid")
    kind = django_filters.ChoiceFilter(choices=Charge.Kind.choices)
    since = AwareTimeFilter(field_name="started_at", lookup_expr="gte")
    until = AwareTimeFilter(field_name="started_at", lookup_expr="lt")

    class Meta:
        model = Charge
        fields: list[str] = []


class Usage(GenericAPIView):
    """What was delivered and what it cost, latest first."""

    scope = ApiToken.Scope.BILLING
    pagination_class = ByStart
    filterset_class = UsageFilter

    def get_queryset(self) -> QuerySet[Charge]:
        if getattr(self, "swagger_fake_view", False):
            return Charge.objects.none()
        found = charges_of(user=caller(self.request), organization=organization_of(self.request))
        return found.select_related("lease", "project")

    @extend_schema(
        tags=["money"], operation_id="list_usage", responses={**listed(ChargeSerializer), **problems()}
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response([representations.usage(row) for row in page])
