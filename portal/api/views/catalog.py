"""What clouds sell and what is free."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, OpenApiTypes, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import availability
from inventory import fleet, market
from inventory.models import GpuModel, Offer
from leases.requests import CapacityRequest
from leases.software import offered_stacks
from portal.api import representations
from portal.api.authentication import organization_of
from portal.api.fields import instant, money
from portal.api.pagination import ByName
from portal.api.schemas import (
    AvailabilitySerializer,
    GpuModelSerializer,
    OfferSerializer,
    StackListSerializer,
)
from portal.api.serializers import AvailabilityRequest, StackFilter
from portal.api.views.base import listed, problems, valid


class OfferFilter(django_filters.FilterSet):
    """Narrow the offers."""

    provider = django_filters.CharFilter(
        field_name="instance_type__provider__slug", help_text="A cloud’s slug, for example aws."
    )
    region = django_filters.CharFilter(
        field_name="region__code", help_text="A region’s code, as its provider writes it."
    )
    gpu_model = django_filters.CharFilter(
        field_name="instance_type__gpu_model__slug", help_text="A slug from /gpu-models."
    )
    purchase = django_filters.ChoiceFilter(choices=Offer.Purchase.choices)

    class Meta:
        model = Offer
        fields: list[str] = []


class Offers(GenericAPIView):
    """What each cloud sells: type × region × purchase option, with the age of its figures."""

    pagination_class = ByName
    filterset_class = OfferFilter

    def get_queryset(self) -> QuerySet[Offer]:
        return Offer.objects.select_related("instance_type__provider", "instance_type__gpu_model", "region")

    @extend_schema(
        tags=["catalog"],
        operation_id="list_offers",
        responses={**listed(OfferSerializer), **problems()},
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        seen, undisclosed = fleet.freshness(page), market.undisclosed(page)
        return self.get_paginated_response(
            [
                representations.offer(row, seen=seen[row.pk], disclosed=row.pk not in undisclosed)
                for row in page
            ]
        )


class GpuModels(GenericAPIView):
    """The GPU models of the catalog."""

    pagination_class = ByName

    def get_queryset(self) -> QuerySet[GpuModel]:
        return GpuModel.objects.all()

    @extend_schema(
        tags=["catalog"],
        operation_id="list_gpu_models",
        responses={**listed(GpuModelSerializer), **problems()},
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        assert page is not None
        return self.get_paginated_response([representations.gpu_model(row) for row in page])


class Stacks(APIView):
    """The software that machines can start with, as far as we hold nodes that have an image of it."""

    @extend_schema(
        tags=["catalog"],
        operation_id="list_stacks",
        parameters=[
            OpenApiParameter("gpu_model", str, description="A slug from /gpu-models."),
            OpenApiParameter("gpus_per_node", int),
            OpenApiParameter("region", str, description="provider/code"),
        ],
        responses={200: StackListSerializer, **problems()},
    )
    def get(self, request: Request) -> Response:
        data = valid(StackFilter, {name: value for name, value in request.query_params.items() if value})
        return Response({"results": [representations.stack(row) for row in offered_stacks(**data)]})


class Availability(APIView):
    """When could N nodes start, and what would it cost? With near misses when there is nothing."""

    @extend_schema(
        tags=["capacity"],
        operation_id="search_availability",
        parameters=[
            OpenApiParameter("gpu_model", str, required=True, description="A slug from /gpu-models."),
            OpenApiParameter("gpus_per_node", int),
            OpenApiParameter("nodes", int),
            OpenApiParameter("from", OpenApiTypes.DATETIME, required=True),
            OpenApiParameter("to", OpenApiTypes.DATETIME, required=True),
            OpenApiParameter("hours", int, description="Without it, the whole window from `from` to `to`."),
            OpenApiParameter("region", str),
            OpenApiParameter("one_fabric", bool),
            OpenApiParameter("stack", str, description="A slug from /stacks."),
        ],
        responses={200: AvailabilitySerializer, **problems()},
    )
    def get(self, request: Request) -> Response:
        data = valid(
            AvailabilityRequest, {name: value for name, value in request.query_params.items() if value}
        )
        now = timezone.now()
        organization = organization_of(request)
        found = availability.search(
            organization=organization,
            request=capacity_request({**data, "start": data["from"], "end": data["to"]}),
            hours=data.get("hours"),
            now=now,
        )
        return Response(
            {
                "slots": [
                    {
                        "start": instant(slot.start),
                        "end": instant(slot.end),
                        "latest_start": instant(slot.latest_start),
                        "region": slot.region,
                        "nodes_free": slot.nodes_free,
                        "rate_per_gpu_hour": money(slot.rate_per_gpu_hour, slot.currency, exact=True)
                        if slot.rate_per_gpu_hour is not None
                        else None,
                        "total": money(slot.total, slot.currency) if slot.total is not None else None,
                    }
                    for slot in found.slots
                ],
                "alternatives": [near.as_dict() for near in found.alternatives],
            }
        )


def capacity_request(data: dict[str, Any]) -> CapacityRequest:
    """Build the domain's request from validated input."""
    return CapacityRequest(
        gpu_model=data["gpu_model"],
        gpus_per_node=data["gpus_per_node"],
        nodes=data["nodes"],
        start=data["start"],
        end=data["end"],
        region=data["region"],
        one_fabric=data["one_fabric"],
        stack=data["stack"],
    )
