"""What callers may send, with limits; the domain says the rest."""

from __future__ import annotations

from rest_framework import serializers

from billing.market import DEFAULT_HOURS
from portal.api.fields import AwareDateTimeField

MAX_NODES = 1000


class QuoteRequest(serializers.Serializer):  # type: ignore[type-arg]
    """What to quote."""

    gpu_model = serializers.SlugField(help_text="A slug from /gpu-models.")
    gpus_per_node = serializers.IntegerField(min_value=1, max_value=64)
    nodes = serializers.IntegerField(min_value=1, max_value=MAX_NODES)
    start = AwareDateTimeField()
    end = AwareDateTimeField()
    region = serializers.CharField(max_length=120, required=False, allow_null=True, default=None)
    one_fabric = serializers.BooleanField(required=False, default=False)
    stack = serializers.SlugField(
        required=False,
        allow_null=True,
        default=None,
        help_text="A slug from /stacks; without it, the cloud's own image.",
    )
    name = serializers.CharField(max_length=80, required=False, default="")
    project = serializers.CharField(max_length=32, required=False, allow_null=True, default=None)
    ssh_keys = serializers.ListField(
        child=serializers.CharField(max_length=32), required=False, max_length=20
    )
    allowed_addresses = serializers.ListField(
        child=serializers.CharField(max_length=49), required=False, max_length=50
    )


class StackFilter(serializers.Serializer):  # type: ignore[type-arg]
    """Narrow the software to what can be had there."""

    gpu_model = serializers.SlugField(required=False)
    gpus_per_node = serializers.IntegerField(min_value=1, max_value=64, required=False)
    region = serializers.CharField(max_length=120, required=False)


class AcceptRequest(serializers.Serializer):  # type: ignore[type-arg]
    """How to accept."""

    wait_for_funds = serializers.BooleanField(
        required=False, default=False, help_text="Keep the nodes until the payment deadline when funds lack."
    )


class CancelRequest(serializers.Serializer):  # type: ignore[type-arg]
    """Without ``quote``: ask what it costs. With it: cancel on those terms."""

    quote = serializers.CharField(max_length=32, required=False)


class ComparisonRequest(serializers.Serializer):  # type: ignore[type-arg]
    """How long a lease our price is for."""

    hours = serializers.IntegerField(
        min_value=1, max_value=24 * 366 * 5, required=False, default=DEFAULT_HOURS
    )


class AvailabilityRequest(serializers.Serializer):  # type: ignore[type-arg]
    """A fixed window (``from`` to ``to``), or ``hours`` of it somewhere between."""

    gpu_model = serializers.SlugField()
    gpus_per_node = serializers.IntegerField(min_value=1, max_value=64, required=False, default=8)
    nodes = serializers.IntegerField(min_value=1, max_value=MAX_NODES, required=False, default=1)
    to = AwareDateTimeField()
    hours = serializers.IntegerField(min_value=1, max_value=24 * 366, required=False, allow_null=True)
    region = serializers.CharField(max_length=120, required=False, allow_null=True, default=None)
    one_fabric = serializers.BooleanField(required=False, default=False)
    stack = serializers.SlugField(required=False, allow_null=True, default=None)

    def get_fields(self) -> dict[str, serializers.Field]:  # type: ignore[type-arg]
        # "from" is a keyword of Python, so it cannot be a class attribute.
        return {"from": AwareDateTimeField(), **super().get_fields()}
