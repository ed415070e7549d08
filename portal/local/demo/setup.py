"""The demo's beginning: staff, the cloud, commitments, prices and customers."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from allauth.account.models import EmailAddress
from django.conf import settings

from billing import accounts as money
from billing.models import BillingAccount, PriceRule, Seller
from inventory import accounts as upstream
from inventory import catalog, commitments, polling
from inventory.models import (
    Architecture,
    Commitment,
    GpuModel,
    InstanceType,
    PollRun,
    Provider,
    ProviderAccount,
    Region,
    SoftwareStack,
    StackImage,
    Zone,
)
from portal.accounts import projects, ssh_keys
from portal.accounts.models import Organization, User
from portal.accounts.organizations import create_organization
from portal.common.periods import Period
from portal.local.demo.story import A100, CUDA, CUSTOMERS, H100, HOLDINGS, PASSWORD, STAFF, Calendar, Customer

REGION = "us-east-1"
IMAGE = "ami-12c6146b"  # one that the demo's cloud has
ACCOUNT = "Demo cloud"
# A public key whose private half nobody has.
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUZ5bVr3L0bG6zN8cQm8kP6wQ2dXv1oYFzqkR0l4T5e"


def person(email: str, name: str, *, staff: bool = False) -> User:
    """Create a person with a verified address and the demo's password."""
    create = User.objects.create_superuser if staff else User.objects.create_user
    user = create(email, PASSWORD, full_name=name)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


def staff() -> User:
    """Create the reseller's staff."""
    return person(STAFF, "Sam Rivera", staff=True)


def cloud(actor: User, calendar: Calendar) -> tuple[ProviderAccount, list[PollRun]]:
    """Load the shipped catalog, open the account at the demo's cloud, and poll it over HTTP."""
    now = calendar.opening
    catalog.load_shipped(now=now)
    account = ProviderAccount.objects.create(
        provider=Provider.objects.get(slug="aws"),
        name=ACCOUNT,
        account_id="123456789012",  # the account that moto plays
        options={
            "endpoint_url": settings.SUBLET_EC2_ENDPOINT,
            "regions": [REGION],
            "image": IMAGE,
        },
        delivery_probe=ProviderAccount.Probe.PROVIDER_STATUS,
        resale_allowed=True,
    )
    upstream.set_credentials(
        account_id=account.pk,
        credentials={"access_key_id": "demo", "secret_access_key": "demo"},
        actor=actor,
        now=now,
    )
    runs = polling.poll_account(account_id=account.pk, now=now)
    software(account)
    return account, runs


def software(account: ProviderAccount) -> None:
    """Map the shipped stacks to the demo cloud's one image, in the one region that it has."""
    region = Region.objects.get(provider=account.provider, code=REGION)
    everywhere = StackImage.objects.filter(provider=account.provider, region=None)
    StackImage.objects.bulk_create(
        StackImage(
            stack=image.stack,
            provider=account.provider,
            region=region,
            architecture=image.architecture,
            instance_types=image.instance_types,
            reference=IMAGE,
            login_user=image.login_user,
            note="The demo's cloud has one image.",
        )
        for image in everywhere.filter(architecture=Architecture.X86_64)
    )
    SoftwareStack.objects.filter(slug=CUDA).update(is_default=True)


def holdings(account: ProviderAccount, actor: User, calendar: Calendar) -> list[Commitment]:
    """Enter the commitments and record their deliveries."""
    made = []
    for holding in HOLDINGS:
        zone = Zone.objects.get(region__provider=account.provider, region__code=REGION, code=holding.zone)
        entered = Commitment(
            account=account,
            zone=zone,
            instance_type=InstanceType.objects.get(provider=account.provider, name=holding.instance_type),
            reservation_id=holding.reservation_id,
            quantity=holding.nodes,
            promised=Period(calendar.opening, calendar.ahead(days=270)),
            payment=Commitment.Payment.HOURLY,
            cost_per_node_hour=holding.cost_per_node_hour,
            notice_date=(calendar.now + timedelta(days=180)).date(),
            fabric_size=holding.fabric_size,
            note="Twelve-month wholesale contract.",
            created_at=calendar.opening,
        )
        commitment = commitments.enter_commitment(commitment=entered, actor=actor, now=calendar.opening)
        for part, nodes in enumerate(holding.delivered_in_parts):
            commitments.record_delivery(
                commitment_id=commitment.pk,
                nodes=nodes,
                accepted_from=calendar.opening + timedelta(days=part),
                actor=actor,
                now=calendar.opening + timedelta(days=part, hours=1),
            )
        made.append(commitment)
    return made


def prices(calendar: Calendar) -> list[PriceRule]:
    """Set list prices, a segment's price, and a mark-up for everything else."""
    Seller.objects.update_or_create(
        is_default=True,
        defaults={
            "name": "Sublet Demo Ltd",
            "address": "4 Harbour Row\nDublin 2",
            "country": "IE",
            "tax_id": "IE 0000000AA",
            "email": "billing@example.com",
            "tax_code": "ZERO",
            "tax_reason": "Demonstration only: no tax is due.",
            "payment_note": "Please pay within the term to IBAN IE00 DEMO 0000 0000 0000 00.",
        },
    )
    always = Period(calendar.opening, None)
    h100, a100 = GpuModel.objects.get(slug=H100), GpuModel.objects.get(slug=A100)
    rules = [
        PriceRule(
            name="Everything else: cost + 30 %", kind="markup", amount=Decimal("0.30"), effective=always
        ),
        PriceRule(name="H100 list", kind="fixed", amount=Decimal("2.79"), gpu_model=h100, effective=always),
        PriceRule(
            name="H100 from two weeks",
            kind="fixed",
            amount=Decimal("2.59"),
            gpu_model=h100,
            min_hours=14 * 24,
            effective=always,
        ),
        PriceRule(
            name="H100 for enterprises",
            kind="fixed",
            amount=Decimal("2.49"),
            gpu_model=h100,
            segment=Organization.Segment.ENTERPRISE,
            effective=always,
        ),
        PriceRule(
            name="A100: cost + 55 %", kind="markup", amount=Decimal("0.55"), gpu_model=a100, effective=always
        ),
    ]
    return PriceRule.objects.bulk_create(rules)


def customer(facts: Customer, actor: User, calendar: Calendar) -> Organization:
    """Sign a customer up, give it keys and projects, and fill its wallet or set its credit."""
    now = calendar.opening + timedelta(days=2)
    user = person(facts.email, facts.person)
    zones = {"IE": "Europe/Dublin", "JP": "Asia/Tokyo", "DE": "Europe/Berlin"}
    user.time_zone = ZoneInfo(zones[facts.country]).key
    user.save(update_fields=["time_zone"])
    organization = create_organization(
        user=user, name=facts.name, segment=facts.segment, country=facts.country, now=now
    )
    ssh_keys.add_ssh_key(
        actor=user, organization=organization, name=f"{facts.person}’s laptop", public_key=PUBLIC_KEY, now=now
    )
    for name in ("Research", "Production"):
        projects.create_project(actor=user, organization=organization, name=name, now=now)
    if facts.mode == BillingAccount.Mode.POSTPAID:
        money.set_terms(
            organization=organization,
            mode=facts.mode,
            credit_limit=facts.credit_limit,
            payment_days=30,
            actor=actor,
            now=now,
        )
    if facts.top_up:
        money.top_up(
            organization=organization,
            amount=facts.top_up,
            reference=f"DEMO-{organization.uid}",
            actor=actor,
            now=now,
        )
    return organization


def customers(actor: User, calendar: Calendar) -> dict[str, Organization]:
    """Sign everyone up; return them by name."""
    return {facts.name: customer(facts, actor, calendar) for facts in CUSTOMERS}
