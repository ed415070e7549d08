"""What staff type when they ask the clouds, and when they take a list price."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy

from inventory.admin.base import moment_field
from inventory.models import Commitment, GpuModel
from leases.buying import inquiries


class AskForm(forms.Form):
    gpu_model = forms.ModelChoiceField(
        label=gettext_lazy("GPU model"), queryset=GpuModel.objects.order_by("name"), to_field_name="slug"
    )
    gpus = forms.IntegerField(
        label=gettext_lazy("GPUs"),
        min_value=1,
        max_value=inquiries.MOST_GPUS,
        help_text=gettext_lazy("Whole nodes are asked for: as many as hold these."),
    )
    gpus_per_node = forms.IntegerField(
        label=gettext_lazy("GPUs per node, at least"), min_value=1, max_value=1024, initial=8
    )
    hours = forms.IntegerField(
        label=gettext_lazy("Hours"),
        min_value=1,
        max_value=inquiries.MOST_HOURS,
        help_text=gettext_lazy("How long we would hold them; 720 hours are 30 days."),
    )
    start = moment_field(gettext_lazy("Not before"))
    end = moment_field(
        gettext_lazy("Not after"), help_text=gettext_lazy("The end of the time in which they may run.")
    )


class CommitForm(forms.Form):
    """What the contract says, begun with the list price."""

    quantity = forms.IntegerField(label=gettext_lazy("Nodes"), min_value=1)
    cost_per_node_hour = forms.DecimalField(
        label=gettext_lazy("Cost per node and hour"), min_value=0, max_digits=20, decimal_places=8
    )
    payment = forms.ChoiceField(label=gettext_lazy("Payment schedule"), choices=Commitment.Payment.choices)
    start = moment_field(gettext_lazy("Promised from"))
    end = moment_field(gettext_lazy("Promised until"))
    reservation_id = forms.CharField(
        label=gettext_lazy("Reservation id"),
        max_length=120,
        required=False,
        help_text=gettext_lazy("As the provider writes it; it can be added later."),
    )
    note = forms.CharField(label=gettext_lazy("Note"), max_length=500, required=False)
