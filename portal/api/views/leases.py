"""Leases: what we promised, and ending a promise."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import checkout
from billing.access import quote_for
from leases.access import lease_for, leases_of
from leases.models import Lease
from leases.provisioning.ssh import ssh_commands
from portal.api import representations
from portal.api.authentication import caller, organization_of
from portal.api.pagination import ByNewest
from portal.api.schemas import CancellationSerializer, LeaseSerializer, LeaseWithAccessSerializer
from portal.api.serializers import CancelRequest
from portal.api.throttles import Writes
from portal.api.views.base import IDEMPOTENCY_KEY, listed, problems, request_key, valid
from portal.common.errors import NotFound


class LeaseFilter(django_filters.FilterSet):
    """Narrow the leases."""

    state = django_filters.MultipleChoiceFilter(choices=Lease.State.choices)
    project = django_filters.CharFilter(field_name="project__uid")

    class Meta:
        model = Lease
        fields: list[str] = []


class Leases(GenericAPIView):
    """The organization's leases, newest first."""

    pagination_class = ByNewest
    filterset_class = LeaseFilter

    def get_queryset(self) -> QuerySet[Lease]:
        if getattr(self, "swagger_fake_view", False):
            return Lease.objects.none()
        found = leases_of(user=caller(self.request), organization=organization_of(self.request))
        return found.select_related("project", "stack").prefetch_related("terms__gpu_model", "terms__region")

    @extend_schema(
        tags=["leases"], operation_id="list_leases", responses={**listed(LeaseSerializer), **problems()}
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        assert page is not None
        return self.get_paginated_response([representations.lease(row) for row in page])


class LeaseDetail(APIView):
    """One lease, with the SSH commands of its running machines."""

    @extend_schema(
        tags=["leases"],
        operation_id="get_lease",
        responses={200: LeaseWithAccessSerializer, **problems("404 not-found")},
    )
    def get(self, request: Request, uid: str) -> Response:
        lease = lease_for(user=caller(request), uid=uid, organization=organization_of(request))
        return Response(representations.lease(lease, commands=ssh_commands(lease)))


class CancelLease(APIView):
    """Cancel in two steps: ask for the quote, then send it back to cancel on its terms."""

    throttle_classes = [*APIView.throttle_classes, Writes]

    @extend_schema(
        tags=["leases"],
        operation_id="cancel_lease",
        parameters=[IDEMPOTENCY_KEY],
        request=CancelRequest,
        responses={
            200: CancellationSerializer,
            **problems("404 not-found", "409 conflict", "409 quote-expired"),
        },
    )
    def post(self, request: Request, uid: str) -> Response:
        data = valid(CancelRequest, request.data)
        user, organization = caller(request), organization_of(request)
        lease = lease_for(user=user, uid=uid, organization=organization, permission="lease")
        key, now = request_key(request), timezone.now()
        if "quote" not in data:
            quote = checkout.quote_cancellation(lease_uid=uid, organization=organization, actor=user, now=now)
            return Response({"quote": representations.quote(quote)})
        terms = quote_for(user=user, uid=data["quote"], permission="lease", organization=organization)
        if terms.lease_id != lease.pk:
            raise NotFound(_("There is no such quote for this lease."))
        lease = checkout.cancel(
            quote_uid=terms.uid,
            organization=organization,
            actor=user,
            now=now,
            request_key=key,
        )
        return Response({"lease": representations.lease(lease)})
