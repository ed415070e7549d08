"""Forms about leases: where to look for capacity, and how a lease is set up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.models import Node, SoftwareStack
from leases.models import Lease
from leases.software import offered_stacks, stacks_of
from portal.accounts.models import Organization, Project, SSHKey

MAX_NODES = 1000
OWN_IMAGE = gettext_lazy("The cloud’s own image")
MAX_HOURS = 5 * 366 * 24


class LeaseSettingsForm(forms.Form):
    """Name, project, software, keys and addresses of a lease that has not started."""

    name = forms.CharField(label=gettext_lazy("Name"), max_length=80)
    project = forms.ModelChoiceField(
        label=gettext_lazy("Project"),
        queryset=Project.objects.none(),
        required=False,
        to_field_name="uid",
        empty_label=gettext_lazy("No project"),
    )
    stack = forms.ChoiceField(
        label=gettext_lazy("Software"),
        choices=(),
        required=False,
        help_text=gettext_lazy("What the servers of this lease can start with."),
    )
    ssh_keys = forms.ModelMultipleChoiceField(
        label=gettext_lazy("SSH keys that get in"),
        queryset=SSHKey.objects.none(),
        required=False,
        to_field_name="uid",
        widget=forms.CheckboxSelectMultiple,
    )
    allowed_addresses = forms.CharField(
        label=gettext_lazy("Networks that reach SSH"),
        required=False,
        max_length=3000,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=gettext_lazy(
            "One a line, for example 203.0.113.7 or 203.0.113.0/24. Empty: nobody gets in."
        ),
    )

    def __init__(self, *args: Any, organization: Organization, lease: Lease, **kwargs: Any) -> None:
        kwargs.setdefault(
            "initial",
            {
                "name": lease.name,
                "project": lease.project.uid if lease.project else "",
                "ssh_keys": [key.uid for key in lease.ssh_keys.all()],
                "allowed_addresses": "\n".join(lease.allowed_addresses),
                "stack": lease.stack.slug if lease.stack else "",
            },
        )
        self.lease = lease
        super().__init__(*args, **kwargs)
        projects: Any = self.fields["project"]
        projects.queryset = organization.projects.filter(archived_at=None)
        keys: Any = self.fields["ssh_keys"]
        keys.queryset = organization.ssh_keys.all()
        if not keys.queryset.exists():
            keys.help_text = _("You have no SSH keys yet: add one under SSH keys, then choose it here.")
        self.stacks = {stack.slug: stack for stack in stacks_of(lease)}
        if lease.stack:  # also where it is no longer offered
            self.stacks.setdefault(lease.stack.slug, lease.stack)
        stack: Any = self.fields["stack"]
        stack.choices = [("", OWN_IMAGE), *((slug, found.name) for slug, found in self.stacks.items())]

    def clean_stack(self) -> SoftwareStack | None:
        """Return the stack; a page that was opened without this field changes nothing."""
        if self.add_prefix("stack") not in self.data:
            return self.lease.stack
        return self.stacks.get(self.cleaned_data["stack"])

    def clean_allowed_addresses(self) -> list[str]:
        """Split what the person wrote; the domain checks each network."""
        text: str = self.cleaned_data["allowed_addresses"]
        return text.replace(",", "\n").split()


def sellable_gpus() -> list[tuple[str, str]]:
    """Return the GPU models and node sizes that we hold: ``slug:gpus`` and its words."""
    rows = (
        Node.objects.exclude(health=Node.Health.RETIRED)
        .exclude(commitment=None)
        .values_list(
            "instance_type__gpu_model__slug",
            "instance_type__gpu_model__name",
            "instance_type__gpus_per_node",
        )
        .distinct()
        .order_by("instance_type__gpu_model__name", "instance_type__gpus_per_node")
    )
    return [
        (f"{slug}:{size}", _("%(model)s, %(size)d per node") % {"model": name, "size": size})
        for slug, name, size in rows
    ]


def held_regions() -> list[tuple[str, str]]:
    """Return the regions in which we hold nodes: ``provider/code``."""
    rows = (
        Node.objects.exclude(health=Node.Health.RETIRED)
        .exclude(commitment=None)
        .values_list("region__provider__slug", "region__code")
        .distinct()
        .order_by("region__provider__slug", "region__code")
    )
    return [(f"{provider}/{code}", f"{provider} {code}") for provider, code in rows]


class SearchForm(forms.Form):
    """N nodes for so long, somewhere between two times."""

    gpu = forms.ChoiceField(label=gettext_lazy("GPU"), choices=())
    nodes = forms.IntegerField(label=gettext_lazy("Nodes"), min_value=1, max_value=MAX_NODES, initial=1)
    earliest = forms.DateTimeField(
        label=gettext_lazy("Earliest start"),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    latest = forms.DateTimeField(
        label=gettext_lazy("Latest end"),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    duration = forms.IntegerField(
        label=gettext_lazy("For how long"), min_value=1, max_value=MAX_HOURS, initial=7
    )
    unit = forms.ChoiceField(
        label=gettext_lazy("Unit"),
        choices=(("24", gettext_lazy("days")), ("1", gettext_lazy("hours")), ("168", gettext_lazy("weeks"))),
        initial="24",
    )
    region = forms.ChoiceField(label=gettext_lazy("Region"), choices=(), required=False)
    stack = forms.ChoiceField(
        label=gettext_lazy("Software"),
        choices=(),
        required=False,
        help_text=gettext_lazy("Only servers that can start with it are shown."),
    )
    one_fabric = forms.BooleanField(label=gettext_lazy("All nodes on one fabric"), required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gpu: Any = self.fields["gpu"]
        gpu.choices = sellable_gpus()
        region: Any = self.fields["region"]
        region.choices = [("", _("Any region")), *held_regions()]
        self.stacks = offered_stacks()
        stack: Any = self.fields["stack"]
        stack.choices = [
            ("", OWN_IMAGE),
            *((offered.stack.slug, offered.stack.name) for offered in self.stacks),
        ]
        stack.initial = next((row.stack.slug for row in self.stacks if row.stack.is_default), "")

    @staticmethod
    def defaults(now: datetime) -> dict[str, Any]:
        """Return what the page asks for before the person has said anything."""
        start = (timezone.localtime(now) + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
        return {
            "nodes": 1,
            "earliest": start,
            "latest": start + timedelta(days=28),
            "duration": 7,
            "unit": "24",
        }

    def clean(self) -> dict[str, Any]:
        """Turn the choices into the domain's words, and check that they fit together."""
        data: dict[str, Any] = super().clean() or {}
        if self.errors:
            return data
        data["gpu_model"], size = data["gpu"].rsplit(":", 1)
        data["gpus_per_node"] = int(size)
        data["hours"] = data["duration"] * int(data["unit"])
        if data["hours"] > MAX_HOURS:
            self.add_error("duration", _("A lease lasts five years at most."))
        elif data["latest"] <= data["earliest"]:
            self.add_error("latest", _("The latest end must be after the earliest start."))
        elif data["earliest"] + timedelta(hours=data["hours"]) > data["latest"]:
            self.add_error(
                "duration", _("That is longer than the time between the earliest start and the latest end.")
            )
        return data
