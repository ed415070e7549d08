"""Nodes and fabrics. Health and periods change by way of leases, which may have to move."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from inventory.admin.base import ReadOnlyAdmin, span
from inventory.models import Fabric, Node
from portal.common.html import BAD, GOOD, NEUTRAL, WARN, pill

HEALTH = {
    Node.Health.HEALTHY: GOOD,
    Node.Health.DRAINING: WARN,
    Node.Health.UNHEALTHY: BAD,
    Node.Health.RETIRED: NEUTRAL,
}


USED_REGIONS = ("region", admin.RelatedOnlyFieldListFilter)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Looking only: the leases app adds actions for health, maintenance and shorter periods."""

    list_display = ("name", "health_", "instance_type", "zone", "fabric", "available_")
    list_filter = (
        "health",
        ("instance_type__gpu_model", admin.RelatedOnlyFieldListFilter),
        USED_REGIONS,
        "account",
    )
    list_select_related = ("instance_type", "zone", "fabric")
    search_fields = ("name", "host", "commitment__uid", "commitment__reservation_id")
    fields = (
        "name",
        "account",
        "commitment",
        "instance_type",
        "region",
        "zone",
        "fabric",
        "host",
        "health_",
        "health_note",
        "from_",
        "until",
        "turnaround",
        "created_at",
    )

    @admin.display(description=gettext_lazy("health"), ordering="health")
    def health_(self, node: Node) -> SafeString:
        health = Node.Health(node.health)
        return pill(health.label, HEALTH[health])

    @admin.display(description=gettext_lazy("available"), ordering="available")
    def available_(self, node: Node) -> str:
        return span(node.available.lower, node.available.upper)

    @admin.display(description=gettext_lazy("available from"))
    def from_(self, node: Node) -> Any:
        return node.available.lower

    @admin.display(description=gettext_lazy("available until"))
    def until(self, node: Node) -> Any:
        return node.available.upper


@admin.register(Fabric)
class FabricAdmin(ReadOnlyAdmin):
    list_display = ("name", "zone", "nodes_")
    list_filter = ("zone__region__provider",)
    list_select_related = ("zone",)
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Fabric]:
        return super().get_queryset(request).annotate(nodes_n=Count("nodes"))

    @admin.display(description=gettext_lazy("nodes"), ordering="nodes_n")
    def nodes_(self, fabric: Any) -> int:
        return fabric.nodes_n
