"""Quotes and what becomes of them."""

from __future__ import annotations

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import checkout
from billing.access import quote_for
from portal.accounts import access
from portal.api import representations
from portal.api.authentication import caller, organization_of
from portal.api.schemas import LeaseSerializer, QuoteSerializer
from portal.api.serializers import AcceptRequest, QuoteRequest
from portal.api.throttles import Writes
from portal.api.views.base import IDEMPOTENCY_KEY, problems, request_key, valid
from portal.api.views.catalog import capacity_request


class Quotes(APIView):
    """Hold capacity for some minutes with a price attached."""

    throttle_classes = [*APIView.throttle_classes, Writes]

    @extend_schema(
        tags=["quotes"],
        operation_id="create_quote",
        parameters=[IDEMPOTENCY_KEY],
        request=QuoteRequest,
        responses={
            201: QuoteSerializer,
            **problems(
                "403 organization-not-approved",
                "409 not-enough-capacity",
                "409 no-price",
                "409 idempotency-key-reused",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        user, organization = caller(request), organization_of(request)
        access.require(user=user, organization=organization, permission="lease")
        data = valid(QuoteRequest, request.data)
        project = (
            access.project_for(user=user, uid=data["project"], organization=organization)
            if data["project"]
            else None
        )
        keys = [
            access.ssh_key_for(user=user, uid=uid, organization=organization)
            for uid in data.get("ssh_keys", [])
        ]
        quote = checkout.quote(
            organization=organization,
            request=capacity_request(data),
            actor=user,
            now=timezone.now(),
            name=data["name"],
            project=project,
            ssh_keys=keys,
            allowed_addresses=data.get("allowed_addresses", []),
            request_key=request_key(request),
        )
        return Response(
            representations.quote(quote),
            status=status.HTTP_201_CREATED,
            headers={"Location": f"/api/v1/quotes/{quote.uid}"},
        )


class QuoteDetail(APIView):
    """One quote."""

    @extend_schema(
        tags=["quotes"],
        operation_id="get_quote",
        responses={200: QuoteSerializer, **problems("404 not-found")},
    )
    def get(self, request: Request, uid: str) -> Response:
        quote = quote_for(user=caller(request), uid=uid, organization=organization_of(request))
        return Response(representations.quote(quote))


class AcceptQuote(APIView):
    """Turn the hold into a lease."""

    throttle_classes = [*APIView.throttle_classes, Writes]

    @extend_schema(
        tags=["quotes"],
        operation_id="accept_quote",
        parameters=[IDEMPOTENCY_KEY],
        request=AcceptRequest,
        responses={
            201: LeaseSerializer,
            **problems("402 insufficient-funds", "404 not-found", "409 quote-expired"),
        },
    )
    def post(self, request: Request, uid: str) -> Response:
        data = valid(AcceptRequest, request.data)
        user, organization = caller(request), organization_of(request)
        quote_for(user=user, uid=uid, organization=organization, permission="lease")
        lease = checkout.accept(
            quote_uid=uid,
            organization=organization,
            actor=user,
            now=timezone.now(),
            wait_for_funds=data["wait_for_funds"],
            request_key=request_key(request),
        )
        return Response(
            representations.lease(lease),
            status=status.HTTP_201_CREATED,
            headers={"Location": f"/api/v1/leases/{lease.uid}"},
        )
