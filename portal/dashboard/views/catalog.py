"""The catalog: what every cloud asks for each GPU, how that changed, and our price beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from billing import market as selling
from billing.accounts import account_for
from billing.market import OurModel, OurOffer
from inventory import market
from inventory.market import Lowest, MarketOffer, ModelSummary
from inventory.models import GpuModel, Offer
from inventory.price_history import ChartedOffer, cheapest_per_cloud, chosen_offers, history
from portal.common.errors import NotFound
from portal.common.freshness import is_stale
from portal.dashboard.catalog_forms import DURATIONS, ModelFilter, OfferFilter, vendor_name
from portal.dashboard.catalog_forms import RANGES as CHART_RANGES
from portal.dashboard.market_charts import RANGES, price_chart
from portal.dashboard.pages import page_links
from portal.dashboard.tenancy import TenantRequest, member_page

ON_DEMAND, SPOT = Offer.Purchase.ON_DEMAND.value, Offer.Purchase.SPOT.value
MOST_CHARTED = 6  # as many as there are colours to tell apart


@dataclass(frozen=True, slots=True)
class Compared:
    """Our price beside one of a cloud's: the difference as a share, None between currencies."""

    ours: OurOffer
    difference: Decimal | None

    @property
    def tone(self) -> str:
        """Good where we are cheaper."""
        if not self.difference:
            return ""
        return "good" if self.difference < 0 else "bad"


def compared(ours: OurModel | None, direct: Decimal | None, currency: str) -> Compared | None:
    """Put our lowest price beside a cloud's price per GPU-hour."""
    low = ours.lowest if ours else None
    if low is None or low.per_gpu_hour is None:
        return None
    if direct is None or low.currency != currency:
        return Compared(low, None)
    return Compared(low, selling.difference(low.per_gpu_hour, direct))


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A GPU model's line: its lowest price for each column, and ours."""

    model: ModelSummary
    vendor: str
    lowest: list[Lowest | None]
    held: OurModel | None
    ours: Compared | None
    reserve: str


def reserve_link(ours: OurOffer, now: datetime) -> str:
    """Return the search for one node of this kind, starting as soon as it can."""
    start = (timezone.localtime(now) + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    days = ours.hours // 24
    query = urlencode(
        {
            "gpu": f"{ours.gpu_model}:{ours.gpus_per_node}",
            "nodes": "1",
            "earliest": f"{start:%Y-%m-%dT%H:%M}",
            "latest": f"{start + timedelta(days=days + 28):%Y-%m-%dT%H:%M}",
            "duration": str(days),
            "unit": "24",
            "region": ours.region,
        }
    )
    return f"{reverse('dashboard:availability')}?{query}#results"


def _row(
    model: ModelSummary, held: OurModel | None, columns: list[str], currency: str, now: datetime
) -> ModelRow:
    lowest = [model.lowest_of(purchase, currency) for purchase in columns]
    direct = lowest[0]
    first = held.offers[0] if held else None
    return ModelRow(
        model=model,
        vendor=vendor_name(model.vendor),
        lowest=lowest,
        held=held,
        ours=compared(held, direct.per_gpu_hour if direct else None, direct.currency if direct else currency),
        reserve=reserve_link(first, now) if first else "",
    )


def _sorted(rows: list[ModelRow], order: str, currency: str) -> list[ModelRow]:
    def price(row: ModelRow) -> tuple[Any, ...]:
        low = row.lowest[0]
        return (low is None, low.currency != currency if low else 0, low.per_gpu_hour if low else 0)

    keys: dict[str, Any] = {
        "name": lambda row: row.model.name,
        "price": price,
        "memory": lambda row: -row.model.memory_gib,
        "clouds": lambda row: -row.model.clouds,
        "held": lambda row: (row.held is None, -row.model.clouds, row.model.name),
    }
    return sorted(rows, key=keys[order])


@member_page()
def model_list(request: TenantRequest) -> HttpResponse:
    """One line per GPU model: the clouds' lowest prices, ours, what is free, and how old all that is."""
    now = timezone.now()
    form = ModelFilter(request.GET)
    currency = account_for(request.organization).currency
    hours = form.value("hours")
    models = market.model_summaries(
        now=now,
        vendor=form.value("vendor"),
        memory_gib=form.value("memory") or 0,
        provider=form.value("cloud"),
        purchase=form.value("purchase"),
        text=form.value("q"),
    )
    ours = selling.our_offers(organization=request.organization, hours=hours, now=now)
    purchase = form.value("purchase")
    columns = [purchase] if purchase else [ON_DEMAND, SPOT]
    labels = dict(Offer.Purchase.choices)
    rows = [_row(model, ours.get(model.slug), columns, currency, now) for model in models]
    context = {
        "form": form,
        "rows": _sorted(rows, form.value("sort"), currency),
        "columns": [labels[name] for name in columns],
        "duration": dict(DURATIONS)[hours],
        "currency": currency,
        "currencies": sorted({low.currency for model in models for low in model.lowest}),
        "now": now,
        "query": request.GET.urlencode(),
        "stale": sum(is_stale(row.model.oldest, row.model.oldest_source, now) for row in rows),
    }
    template = (
        "dashboard/_catalog_models.html" if getattr(request, "htmx", None) else "dashboard/catalog.html"
    )
    return render(request, template, context)


@dataclass(frozen=True, slots=True)
class OfferRow:
    """A line of the comparison: a cloud's offer, ours beside it, and the way into the chart and out of it."""

    offer: MarketOffer
    ours: Compared | None
    held: OurOffer | None
    charted: bool
    toggle: str


def _offer_row(offer: MarketOffer, ours: OurModel | None, chosen: list[int], query: QueryDict) -> OfferRow:
    same = next(
        (
            one
            for one in (ours.offers if ours else ())
            if one.region == f"{offer.provider}/{offer.region}" and one.gpus_per_node == offer.gpus_per_node
        ),
        None,
    )
    # The same machine where we hold it, else our lowest.
    beside = OurModel((same,)) if same and same.per_gpu_hour is not None else ours
    ids = [pk for pk in chosen if pk != offer.id]
    if offer.id not in chosen:
        ids.append(offer.id)
    changed = query.copy()
    changed.setlist("chart", [str(pk) for pk in ids])
    return OfferRow(
        offer=offer,
        ours=compared(beside, offer.per_gpu_hour, offer.currency) if offer.price is not None else None,
        held=same,
        charted=offer.id in chosen,
        toggle=f"?{changed.urlencode()}#history",
    )


def _charted(
    request: TenantRequest, slug: str, purchase: str, currency: str, region: str
) -> tuple[list[ChartedOffer], bool]:
    """Return the offers to draw, and whether the person chose them."""
    ids = [
        int(text)
        for text in request.GET.getlist("chart")
        if text.isascii() and text.isdigit() and len(text) < 20
    ]
    ids = [pk for pk in dict.fromkeys(ids) if pk < 2**63][-MOST_CHARTED:]
    if ids and (chosen := chosen_offers(gpu_model=slug, ids=ids, currency=currency)):
        return chosen, True
    best = cheapest_per_cloud(
        gpu_model=slug,
        purchase=purchase or ON_DEMAND,
        currency=currency,
        region=region,
        most=MOST_CHARTED,
    )
    return best, False


def _with(query: QueryDict, **changes: str) -> str:
    changed = query.copy()
    for name, value in changes.items():
        changed[name] = value
    return f"?{changed.urlencode()}"


@member_page()
def model_page(request: TenantRequest, slug: str) -> HttpResponse:
    """One GPU model: every cloud's offers beside ours, and what they cost since they were first seen."""
    now = timezone.now()
    known = GpuModel.objects.filter(slug=slug).first()
    if known is None:
        raise NotFound(_("There is no such GPU model."))
    facets = market.facets(gpu_model=slug)
    form = OfferFilter(request.GET, facets)
    ours = selling.our_offers(organization=request.organization, hours=form.value("hours"), now=now).get(slug)
    mine = account_for(request.organization).currency
    currency = mine if mine in facets.currencies or not facets.currencies else facets.currencies[0]
    summary = next(iter(market.model_summaries(now=now, slug=slug)), None)
    purchase, region = form.wanted_purchase, form.value("region")

    def page(number: int) -> tuple[list[MarketOffer], int]:
        return market.compare(
            gpu_model=slug,
            currency=currency,
            provider=form.value("cloud"),
            region=region,
            purchase=purchase,
            order=form.value("sort"),
            offset=(number - 1) * market.PER_PAGE,
        )

    asked = request.GET.get("page", "")
    number = max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 1
    offers, total = page(number)
    if not offers and number > 1:  # there were more when the link was made
        number = 1
        offers, total = page(number)
    charted, chosen = _charted(request, slug, purchase, currency, region)
    span = form.value("range")
    since = now - RANGES[span] if span in RANGES else None
    query = request.GET.copy()
    query.pop("page", None)
    pages = Paginator(range(total), market.PER_PAGE)
    ids = [offer.id for offer in charted]
    context = {
        "model": known,
        "vendor": vendor_name(known.vendor),
        "summary": summary,
        "row": _row(summary, ours, [ON_DEMAND, SPOT], currency, now) if summary else None,
        "form": form,
        "duration": dict(DURATIONS)[form.value("hours")],
        "held": [(one, reserve_link(one, now)) for one in ours.offers] if ours else [],
        "ours": ours,
        "offers": [_offer_row(offer, ours, ids, query) for offer in offers],
        "total": total,
        "pages": page_links(request, pages.page(number)),
        "currency": currency,
        "mine": mine,
        "currencies": facets.currencies,
        "charted": charted,
        "chosen": chosen,
        "chart": price_chart(
            offers=charted,
            periods=history(offer_ids=ids, currency=currency, since=since),
            since=since,
            now=now,
            currency=currency,
        ),
        "ranges": [
            {"label": label, "url": _with(query, range=name) + "#history", "current": name == span}
            for name, label in CHART_RANGES
        ],
        "purchase_label": dict(Offer.Purchase.choices)[purchase or ON_DEMAND],
        "automatic": _with(query, chart="") + "#history",
        "now": now,
    }
    return render(request, "dashboard/catalog_model.html", context)
