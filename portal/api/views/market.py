"""The market: each GPU model over all clouds beside our price, and what offers cost since they were first seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import django_filters
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import market as selling
from billing.accounts import account_for
from inventory import market
from inventory.models import GpuModel, Offer, PricePoint
from portal.api import representations
from portal.api.authentication import organization_of
from portal.api.filters import AwareTimeFilter
from portal.api.pagination import ByName
from portal.api.schemas import ComparisonSerializer, PricePeriodSerializer
from portal.api.serializers import ComparisonRequest
from portal.api.views.base import listed, problems, valid
from portal.common.periods import Period


class GpuModelComparison(APIView):
    """One GPU model: the clouds' lowest prices, our price beside them, and how old all that is."""

    @extend_schema(
        tags=["catalog"],
        operation_id="compare_gpu_model",
        parameters=[
            OpenApiParameter(
                "hours", int, description="The duration that our price is for; 168 where nothing is said."
            )
        ],
        responses={200: ComparisonSerializer, **problems("404 not-found")},
    )
    def get(self, request: Request, slug: str) -> Response:
        known = get_object_or_404(GpuModel, slug=slug)
        data = valid(ComparisonRequest, request.query_params.dict())
        organization, now = organization_of(request), timezone.now()
        ours = selling.our_offers(organization=organization, hours=data["hours"], now=now)
        return Response(
            representations.comparison(
                known,
                summary=next(iter(market.model_summaries(now=now, slug=slug)), None),
                ours=ours.get(slug),
                currency=account_for(organization).currency,
            )
        )


class PriceFilter(django_filters.FilterSet):
    """Narrow the history."""

    offer = django_filters.NumberFilter(field_name="offer", help_text="An id from /offers.")
    provider = django_filters.CharFilter(field_name="offer__instance_type__provider__slug")
    region = django_filters.CharFilter(field_name="offer__region__code")
    purchase = django_filters.ChoiceFilter(field_name="offer__purchase", choices=Offer.Purchase.choices)
    since = AwareTimeFilter(method="held_since", help_text="Prices that held then or later.")
    until = AwareTimeFilter(method="held_until", help_text="Prices that held before.")

    class Meta:
        model = PricePoint
        fields: list[str] = []

    def held_since(self, found: QuerySet[PricePoint], name: str, value: datetime) -> Any:
        return found.filter(period__overlap=Period(value, None, "[)"))

    def held_until(self, found: QuerySet[PricePoint], name: str, value: datetime) -> Any:
        return found.filter(period__overlap=Period(None, value, "[)"))


class PriceHistory(GenericAPIView):
    """What a GPU model's offers cost since they were first seen, in the order in which we learnt it."""

    pagination_class = ByName
    filterset_class = PriceFilter

    def get_queryset(self) -> QuerySet[PricePoint]:
        if getattr(self, "swagger_fake_view", False):
            return PricePoint.objects.none()
        known = get_object_or_404(GpuModel, slug=self.kwargs["slug"])
        return PricePoint.objects.filter(offer__instance_type__gpu_model=known).select_related(
            "offer__instance_type__provider", "offer__region"
        )

    @extend_schema(
        tags=["catalog"],
        operation_id="list_prices",
        responses={**listed(PricePeriodSerializer), **problems("404 not-found")},
    )
    def get(self, request: Request, slug: str) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response([representations.price_period(row) for row in page])
