"""What answers look like, for the OpenAPI schema: the shapes that ``representations`` sends.

These serializers only describe. A test compares them with real answers of every address, so
that neither can change without the other.
"""

from __future__ import annotations

from rest_framework import serializers

from billing.models import Charge, Invoice, Quote
from inventory.market import UNDISCLOSED
from inventory.models import Offer
from leases.models import Lease

AMOUNT = "A decimal number as text."
SOURCE = "api, rate_card, or nothing where there is no price."


class Money(serializers.Serializer):  # type: ignore[type-arg]
    """An amount with its currency."""

    amount = serializers.RegexField(r"^-?[0-9]+(\.[0-9]+)?$", help_text=AMOUNT)
    currency = serializers.RegexField(r"^[A-Z]{3}$", help_text="ISO 4217.")


class GpuModelSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A GPU model of the catalog."""

    slug = serializers.CharField()
    name = serializers.CharField()
    vendor = serializers.CharField()
    memory_gib = serializers.IntegerField()
    family = serializers.CharField()


class StackPartSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Something that a stack holds."""

    name = serializers.CharField()
    version = serializers.CharField(help_text="Empty where it follows the vendor's latest.")


class StackSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Software that machines can start with, and on what we can deliver it."""

    slug = serializers.CharField()
    name = serializers.CharField()
    summary = serializers.CharField()
    operating_system = serializers.CharField()
    contents = StackPartSerializer(many=True)
    gpu_models = serializers.ListField(child=serializers.CharField(), help_text="By name.")
    regions = serializers.ListField(child=serializers.CharField(), help_text="provider/code")
    default = serializers.BooleanField()


class StackListSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """All stacks on offer: few, so they come in one page."""

    results = StackSerializer(many=True)


class OfferSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What a cloud sells in a region, with the age of its figures."""

    id = serializers.IntegerField()
    provider = serializers.CharField()
    region = serializers.CharField(help_text="As the provider writes it.")
    instance_type = serializers.CharField()
    gpu_model = serializers.CharField(help_text="A slug from /gpu-models.")
    gpus_per_node = serializers.IntegerField()
    purchase = serializers.ChoiceField(choices=Offer.Purchase.choices)
    price_per_hour = Money(allow_null=True)
    price_per_gpu_hour = Money(allow_null=True)
    price_source = serializers.CharField(help_text=SOURCE)
    price_seen_at = serializers.DateTimeField(
        allow_null=True, help_text="How old the price is: the last complete poll, or the rate card’s date."
    )
    first_seen_at = serializers.DateTimeField()
    availability = serializers.ChoiceField(choices=[*Offer.Availability.values, UNDISCLOSED])
    availability_seen_at = serializers.DateTimeField(allow_null=True)
    zones = serializers.ListField(child=serializers.CharField())


class PricePeriodSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What an offer cost while it did. Between two periods of an offer no price is known."""

    offer = serializers.IntegerField(help_text="An id from /offers.")
    provider = serializers.CharField()
    region = serializers.CharField()
    instance_type = serializers.CharField()
    gpus_per_node = serializers.IntegerField()
    purchase = serializers.ChoiceField(choices=Offer.Purchase.choices)
    price_per_hour = Money()
    price_per_gpu_hour = Money()
    price_source = serializers.CharField(help_text=SOURCE)
    start = serializers.DateTimeField()
    end = serializers.DateTimeField(allow_null=True, help_text="Null: the price now.")


class LowestSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """The lowest list price among the clouds for one purchase option and currency."""

    purchase = serializers.ChoiceField(choices=Offer.Purchase.choices)
    provider = serializers.CharField()
    region = serializers.CharField()
    price_per_gpu_hour = Money()
    price_source = serializers.CharField(help_text=SOURCE)
    price_seen_at = serializers.DateTimeField(allow_null=True)
    sold_out = serializers.BooleanField(help_text="Every offer at a price is known to be sold out.")


class OursSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What we hold of one node size in one region, and your price for it, before tax."""

    region = serializers.CharField(help_text="provider/code")
    gpus_per_node = serializers.IntegerField()
    hours = serializers.IntegerField(help_text="The duration that the price is for.")
    price_per_gpu_hour = Money(allow_null=True)
    to_lowest_on_demand = serializers.CharField(
        allow_null=True,
        help_text="The difference to the lowest on-demand price as a share of it: -0.0542. "
        "Null between currencies: nothing is converted.",
    )
    gpus_free = serializers.IntegerField(help_text="Free now for all of these hours.")


class ComparisonSerializer(GpuModelSerializer):
    """A GPU model over all clouds, and with us."""

    clouds = serializers.IntegerField()
    regions = serializers.IntegerField()
    regions_polled = serializers.IntegerField(help_text="Regions with a recent word about stock.")
    regions_available = serializers.IntegerField(help_text="Of these, with stock.")
    availability_seen_at = serializers.DateTimeField(allow_null=True)
    newest_price_at = serializers.DateTimeField(allow_null=True)
    oldest_price_at = serializers.DateTimeField(allow_null=True)
    lowest = LowestSerializer(many=True)
    ours = OursSerializer(many=True)


class AlternativeSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A near miss: a request that fits now, and how it differs."""

    kind = serializers.ChoiceField(
        choices=["shorter", "longer", "fewer", "later", "earlier", "other_region", "other_gpu", "other_stack"]
    )
    gpu_model = serializers.CharField()
    gpus_per_node = serializers.IntegerField()
    nodes = serializers.IntegerField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    region = serializers.CharField(allow_null=True)
    one_fabric = serializers.BooleanField()
    stack = serializers.CharField(allow_null=True)


class SlotSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """When the nodes could start."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    latest_start = serializers.DateTimeField(help_text="Any start from `start` to here fits as well.")
    region = serializers.CharField(help_text="provider/code")
    nodes_free = serializers.IntegerField()
    rate_per_gpu_hour = Money(allow_null=True)
    total = Money(allow_null=True)


class AvailabilitySerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Slots, cheapest first; near misses when there is none."""

    slots = SlotSerializer(many=True)
    alternatives = AlternativeSerializer(many=True)


class QuoteSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Capacity held until ``expires_at``, with its price."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=Quote.Kind.choices)
    state = serializers.ChoiceField(choices=Quote.State.choices)
    expires_at = serializers.DateTimeField()
    lease = serializers.CharField(help_text="The lease that it books or cancels.")
    due_now = Money()
    due_later = Money()
    total = Money(help_text="Before tax.")
    rate_per_gpu_hour = Money(allow_null=True)
    arithmetic = serializers.DictField(help_text="How the total came about.")
    created_at = serializers.DateTimeField()
    accepted_at = serializers.DateTimeField(allow_null=True)


class TermSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What holds during a part of a lease."""

    start = serializers.DateTimeField(allow_null=True)
    end = serializers.DateTimeField(allow_null=True)
    gpu_model = serializers.CharField()
    gpus_per_node = serializers.IntegerField()
    nodes = serializers.IntegerField()
    gpus = serializers.IntegerField()
    region = serializers.CharField(allow_null=True)
    rate_per_gpu_hour = Money(allow_null=True)


class LeaseSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What was promised, and its state."""

    id = serializers.CharField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=Lease.State.choices)
    state_changed_at = serializers.DateTimeField()
    deadline = serializers.DateTimeField(
        allow_null=True, help_text="Until when the nodes are kept without payment."
    )
    project = serializers.CharField(allow_null=True)
    one_fabric = serializers.BooleanField()
    stack = serializers.CharField(allow_null=True, help_text="Its software: a slug from /stacks.")
    terms = TermSerializer(many=True)
    created_at = serializers.DateTimeField()


class LeaseWithAccessSerializer(LeaseSerializer):
    """A lease, and how to get into its machines."""

    ssh = serializers.ListField(child=serializers.CharField(), help_text="One command for each machine.")


class CancellationSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """``quote`` when you asked what it costs; ``lease`` when it was cancelled."""

    quote = QuoteSerializer(required=False)
    lease = LeaseSerializer(required=False)


class InvoiceLineSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A line of an invoice."""

    description = serializers.CharField()
    quantity = serializers.CharField(help_text=AMOUNT)
    unit = serializers.CharField()
    unit_price = Money()
    amount = Money()
    tax_code = serializers.CharField()
    tax_rate = serializers.CharField(help_text="A share of one, as text.")
    tax_amount = Money()


class InvoiceSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """An invoice with its lines."""

    id = serializers.CharField()
    number = serializers.CharField(allow_null=True)
    month = serializers.RegexField(r"^[0-9]{4}-[0-9]{2}$")
    state = serializers.ChoiceField(choices=Invoice.State.choices)
    issued_at = serializers.DateTimeField(allow_null=True)
    due_on = serializers.DateField(allow_null=True)
    subtotal = Money()
    tax = Money()
    total = Money()
    lines = InvoiceLineSerializer(many=True)


class ChargeSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """One charge: what was delivered, when, and what it cost."""

    id = serializers.CharField()
    lease = serializers.CharField(allow_null=True)
    project = serializers.CharField(allow_null=True)
    kind = serializers.ChoiceField(choices=Charge.Kind.choices)
    description = serializers.CharField()
    start = serializers.DateTimeField(allow_null=True)
    end = serializers.DateTimeField(allow_null=True)
    seconds = serializers.IntegerField()
    quantity = serializers.CharField(help_text=AMOUNT)
    unit = serializers.CharField()
    unit_price = Money()
    amount = Money()
    invoiced = serializers.BooleanField()


class FieldError(serializers.Serializer):  # type: ignore[type-arg]
    """What is wrong with one field."""

    field = serializers.CharField()
    message = serializers.CharField()


class Problem(serializers.Serializer):  # type: ignore[type-arg]
    """An error (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField(help_text="What went wrong and what to do.")
    errors = FieldError(many=True, required=False)  # type: ignore[assignment]  # the RFC names it so
    retry_after = serializers.IntegerField(required=False, help_text="Seconds.")
    missing = Money(required=False, help_text="With insufficient-funds: what lacks.")
    alternatives = AlternativeSerializer(
        many=True, required=False, help_text="With not-enough-capacity: what would fit."
    )
