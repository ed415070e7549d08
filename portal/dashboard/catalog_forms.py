"""What the catalog's lists can be narrowed and ordered by; every choice stands in the address."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from billing.market import DEFAULT_HOURS
from inventory.market import Facets
from inventory.models import GpuModel, Offer, Provider

VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
# Hours a lease could last: longer ones may have another price rule.
DURATIONS = (
    (24, gettext_lazy("1 day")),
    (DEFAULT_HOURS, gettext_lazy("7 days")),
    (30 * 24, gettext_lazy("30 days")),
    (90 * 24, gettext_lazy("90 days")),
    (365 * 24, gettext_lazy("1 year")),
)
RANGES = (("30d", gettext_lazy("30 days")), ("1y", gettext_lazy("1 year")), ("all", gettext_lazy("All")))


ANY = "any"


def vendor_name(vendor: str) -> str:
    """Return a GPU vendor as it writes itself."""
    return VENDORS.get(vendor, vendor.capitalize())


class AddressForm(forms.Form):
    """A form whose every field is optional and has a default; what is not valid counts as not said."""

    def __init__(self, data: QueryDict) -> None:
        said = data.copy()
        for name, field in self.base_fields.items():
            if field.initial and name not in said:
                said[name] = str(field.initial)
        super().__init__(said)

    def value(self, name: str) -> Any:
        """Return what was chosen, or the field's default."""
        self.is_valid()
        return self.cleaned_data.get(name) or self.fields[name].initial or ""

    @property
    def narrowed(self) -> bool:
        """Whether anything but the order and the duration was chosen."""
        return any(self.value(name) for name in self.fields if name not in ("sort", "hours", "range", "page"))


class ModelFilter(AddressForm):
    """The list of GPU models."""

    q = forms.CharField(label=gettext_lazy("Search"), required=False, max_length=60)
    vendor = forms.ChoiceField(label=gettext_lazy("Vendor"), required=False)
    memory = forms.TypedChoiceField(
        label=gettext_lazy("Memory"), required=False, coerce=int, empty_value=None
    )
    purchase = forms.ChoiceField(label=gettext_lazy("Purchase"), required=False)
    cloud = forms.ChoiceField(label=gettext_lazy("Cloud"), required=False)
    hours = forms.TypedChoiceField(
        label=gettext_lazy("Our price for"),
        required=False,
        coerce=int,
        choices=DURATIONS,
        initial=DEFAULT_HOURS,
    )
    sort = forms.ChoiceField(
        label=gettext_lazy("Order"),
        required=False,
        initial="held",
        choices=(
            ("held", gettext_lazy("Ours first")),
            ("price", gettext_lazy("Lowest price")),
            ("memory", gettext_lazy("Most memory")),
            ("clouds", gettext_lazy("Most clouds")),
            ("name", gettext_lazy("Name")),
        ),
    )

    def __init__(self, data: QueryDict) -> None:
        super().__init__(data)
        sold = GpuModel.objects.filter(instance_types__isnull=False)
        known = list(sold.order_by().values_list("vendor", "memory_gib").distinct())
        self._choices("vendor", [(slug, vendor_name(slug)) for slug in sorted({row[0] for row in known})])
        sizes = sorted({row[1] for row in known})
        self._choices("memory", [(size, _("%(n)d GiB or more") % {"n": size}) for size in sizes])
        self._choices("purchase", Offer.Purchase.choices)
        clouds = Provider.objects.filter(instance_types__isnull=False)
        self._choices("cloud", list(clouds.values_list("slug", "name").distinct()))

    def _choices(self, name: str, choices: list[Any]) -> None:
        field: Any = self.fields[name]
        field.choices = [("", _("Any")), *choices]


class OfferFilter(AddressForm):
    """The comparison of one GPU model: of what is sold on demand, unless something else is asked for."""

    cloud = forms.ChoiceField(label=gettext_lazy("Cloud"), required=False)
    region = forms.ChoiceField(label=gettext_lazy("Region"), required=False)
    purchase = forms.ChoiceField(
        label=gettext_lazy("Purchase"), required=False, initial=Offer.Purchase.ON_DEMAND.value
    )
    hours = forms.TypedChoiceField(
        label=gettext_lazy("Our price for"),
        required=False,
        coerce=int,
        choices=DURATIONS,
        initial=DEFAULT_HOURS,
    )
    sort = forms.ChoiceField(
        label=gettext_lazy("Order"),
        required=False,
        initial="price",
        choices=(
            ("price", gettext_lazy("Lowest price")),
            ("size", gettext_lazy("Largest node")),
            ("cloud", gettext_lazy("Cloud")),
            ("region", gettext_lazy("Region")),
        ),
    )
    range = forms.ChoiceField(required=False, choices=RANGES, initial="1y", widget=forms.HiddenInput)

    def __init__(self, data: QueryDict, facets: Facets) -> None:
        super().__init__(data)
        labels = dict(Offer.Purchase.choices)
        for name, choices in (
            ("cloud", [("", _("Any")), *facets.clouds]),
            ("region", [("", _("Any")), *((code, code) for code in facets.regions)]),
            ("purchase", [*((value, labels[value]) for value in facets.purchases), (ANY, _("Any"))]),
        ):
            field: Any = self.fields[name]
            field.choices = choices

    @property
    def wanted_purchase(self) -> str:
        """The purchase option that was chosen, empty for any."""
        chosen = str(self.value("purchase"))
        known = [value for value, _label in self.fields["purchase"].choices]  # type: ignore[attr-defined]
        return chosen if chosen in known and chosen != ANY else ""
