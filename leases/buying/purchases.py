"""Taking a choice: a commitment by contract at once, or a reservation bought by API and journalled (P6).

Before a buying call there is a committed purchase with a token. No provider lets us rely
on an idempotency key for it, and a purchase cannot be given back: after a doubt the
reservations are listed and matched by the token, and where none shows within
:data:`LOOK_FOR` the purchase has failed and is never repeated by itself.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import cast

from django.db.models import F
from django.utils.translation import gettext as _

from inventory import commitments
from inventory.models import Commitment, Zone
from inventory.providers import base, naming
from inventory.providers.errors import ProviderError, RateLimited
from leases.models import CapacityChoice, CapacityPurchase
from leases.provisioning import upstream
from leases.provisioning.claims import Claimed, Clock, backoff, claim_next, release
from leases.provisioning.messages import tell_staff
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput
from portal.common.money import ledger
from portal.common.nudge import nudge
from portal.common.periods import Period, period
from portal.common.transactions import durable, require_transaction

RETRY, RETRY_LONGEST = timedelta(seconds=20), timedelta(minutes=5)
ATTEMPTS = 5  # of a call that certainly had no effect
LOOK_FOR = timedelta(minutes=15)  # how long a doubtful purchase is looked for

State = CapacityPurchase.State


class AlreadyTaken(Conflict):
    """Somebody took this choice before; it is bought once."""

    code = "choice-taken"


def commit_by_contract(
    *,
    choice_id: int,
    cost_per_node_hour: Decimal,
    quantity: int,
    promised: Period,
    payment: str,
    reservation_id: str = "",
    note: str = "",
    actor: User,
    now: datetime,
) -> Commitment:
    """Turn a list price into a commitment, with what the contract says; nothing is called upstream.

    The cost is per node and hour in the choice's currency, times are UTC. One transaction
    under the choice's lock: sent twice it makes one commitment. Raises
    :class:`AlreadyTaken`, and :class:`InvalidInput` naming the field.
    """
    with durable():
        choice = _lock(choice_id)
        if choice.offering_id:
            raise Conflict(_("The provider sells this one by API: buy it instead."))
        _check_free(choice)
        commitment = _commitment(
            choice,
            quantity=quantity,
            promised=promised,
            cost_per_node_hour=cost_per_node_hour,
            payment=payment,
            reservation_id=reservation_id,
            note=note,
        )
        commitments.check_commitment(commitment)
        commitments.enter(commitment, actor=actor, now=now)
        CapacityPurchase.objects.create(
            choice=choice,
            state=State.BOUGHT,
            commitment=commitment,
            bought_by=actor,
            created_at=now,
            next_try_at=now,
        )
    return commitment


def buy(*, choice_id: int, agreed_total: str, actor: User, now: datetime) -> CapacityPurchase:
    """Write down that a reservation is to be bought; :func:`settle_due` buys it.

    ``agreed_total`` is the total that the person was shown, as digits. Raises :class:`AlreadyTaken`, and
    :class:`Conflict` where the choice is no offering, has no price or another total, or
    has begun to expire.
    """
    with durable():
        choice = _lock(choice_id)
        _check_free(choice)
        if not choice.offering_id or choice.account is None or choice.total is None:
            raise Conflict(_("This is no reservation with a price that could be bought by API."))
        if str(choice.total) != agreed_total:
            raise Conflict(_("The total has changed. Look at it again before you buy."))
        if choice.period.upper <= now:
            raise Conflict(_("This reservation is over. Ask again for what is sold now."))
        if not choice.account.resale_allowed:
            raise commitments.ResaleNotAllowed(
                _(
                    "The contract of %(account)s does not say that its capacity may be sublet. Tick that it does, first."
                )
                % {"account": choice.account}
            )
        purchase = CapacityPurchase.objects.create(
            choice=choice, bought_by=actor, created_at=now, next_try_at=now
        )
        events.record(
            kind="purchase.decided",
            subject_type="capacity_purchase",
            subject_id=purchase.token,
            actor=actor,
            now=now,
            after={
                "account": choice.account.name,
                "offering": choice.offering_id,
                "instance_type": choice.instance_type.name,
                "nodes": choice.nodes,
                "total": str(choice.total),
                "currency": choice.currency,
            },
        )
        nudge("leases.tasks.settle_purchases")
    return purchase


def settle_due(*, now: datetime) -> int:
    """Buy what was decided and settle what is in doubt; return how many became commitments.

    Safe twice at once: a purchase that somebody works on is skipped.
    """
    clock, providers, bought = Clock(now), upstream.Providers(), 0
    rows = (
        CapacityPurchase.objects.filter(state__in=(State.PENDING, State.CALLING), next_try_at__lte=now)
        .select_related("choice__account__provider", "choice__region", "choice__instance_type", "bought_by")
        .order_by("next_try_at", "pk")
    )
    while claimed := claim_next(
        rows, clock=clock, prepare=lambda row: {"state": State.CALLING, "attempts": F("attempts") + 1}
    ):
        bought += _settle(claimed, providers, clock)
    return bought


def _settle(claimed: Claimed[CapacityPurchase], providers: upstream.Providers, clock: Clock) -> bool:
    purchase, choice = claimed.row, claimed.row.choice
    account = choice.account
    assert account is not None, "only offerings of an account are bought"
    # The row is as it was before the claim: CALLING means that a call may have been made.
    if purchase.state == State.CALLING and purchase.called_at is not None:
        try:
            if now_as := providers.stranger(account, purchase):
                _again(claimed, _strange(purchase, now_as), clock, doubtful=True)
                return False
            with providers.of(account) as provider:
                listed = cast(base.CapacitySeller, provider).reservations(region=choice.region.code)
        except ProviderError as error:
            _again(claimed, error, clock, doubtful=True)
            return False
        ours = [each for each in listed if naming.matches(each.tags, base.TAG_TOKEN, purchase.token)]
        if ours:
            return _record(claimed, sorted(ours, key=lambda each: each.id), clock)
        if clock() - purchase.called_at < LOOK_FOR:
            _again(claimed, None, clock, doubtful=True)
        else:
            _fail(claimed, _("The answer was lost, and the provider lists no such reservation."), clock)
        return False
    offering = base.CapacityOffering(
        id=choice.offering_id,
        instance_type=choice.instance_type.name,
        region=choice.region.code,
        zone=choice.zone_code,
        count=choice.nodes,
        start=choice.period.lower,
        end=choice.period.upper,
        total=choice.total,
        upfront=choice.upfront,
        currency=choice.currency,
    )
    called_with, called_as = upstream.fingerprint(account), providers.identity_if_known(account)
    if not claimed.extend(clock, called_at=clock(), called_with=called_with, upstream_account=called_as):
        return False
    try:
        with providers.of(account) as provider:
            reservation = cast(base.CapacitySeller, provider).buy_capacity(
                offering,
                client_token=purchase.token,
                tags={base.TAG_SITE: upstream.site_id(), base.TAG_TOKEN: purchase.token},
            )
    except ProviderError as error:
        if error.doubtful:
            _again(claimed, error, clock, doubtful=True)
        elif error.retryable and purchase.attempts + 1 < ATTEMPTS:
            _again(claimed, error, clock, doubtful=False)
        else:
            _fail(claimed, str(error), clock)
        return False
    return _record(claimed, [reservation], clock)


def _strange(purchase: CapacityPurchase, now_as: str) -> ProviderError:
    return ProviderError(
        _(
            "It was called with credentials of %(before)s, and these are of %(now)s, whose reservations say "
            "nothing about it. Enter the former ones."
        )
        % {"before": purchase.upstream_account, "now": now_as},
        retryable=True,
        doubtful=True,
    )


def _record(claimed: Claimed[CapacityPurchase], reservations: list[base.Reservation], clock: Clock) -> bool:
    """Make the commitment of a bought reservation, where the claim is still ours."""
    first = reservations[0]
    if all(reservation.state == "failed" for reservation in reservations):
        _fail(
            claimed,
            _("The provider says that the reservation is %(state)s.") % {"state": first.raw_state},
            clock,
        )
        return False
    with durable():
        choice = _lock(claimed.row.choice_id)
        purchase = claimed.still_ours()
        if purchase is None:
            return False
        promised = Period(first.start or choice.period.lower, first.end or choice.period.upper, "[)")
        assert choice.total is not None, "nothing without a price is bought"
        count = first.count or choice.nodes
        if first.total is not None or choice.upfront:
            total = first.total or choice.total
            rate = total / count / _hours(promised)
        else:
            # Due by the hour: each costs what was offered, also where it begins later than was asked.
            rate = choice.total / choice.nodes / _hours(choice.period)
            total = ledger(rate * count * _hours(promised))
        commitment = _commitment(
            choice,
            quantity=count,
            promised=promised,
            cost_per_node_hour=ledger(rate),
            payment=Commitment.Payment.UPFRONT if choice.upfront else Commitment.Payment.MONTHLY,
            reservation_id=first.id,
            note=_("Bought by API: %(total)s %(currency)s in all.")
            % {"total": total, "currency": choice.currency},
        )
        commitment.cutoff = max(first.cutoff, commitment.cutoff)
        commitments.enter(commitment, actor=purchase.bought_by, now=clock())
        purchase.state, purchase.commitment, purchase.last_error = State.BOUGHT, commitment, ""
        release(purchase)
        purchase.save()
        if len(reservations) > 1 or count != choice.nodes:
            tell_staff(
                kind="purchase.differs",
                subject_type="capacity_purchase",
                subject_id=purchase.token,
                now=clock(),
                after={"reservations": [each.id for each in reservations], "nodes": count},
                message=_("A purchase is not what was decided: look at reservations %(ids)s.")
                % {"ids": ", ".join(each.id for each in reservations)},
            )
        return True


def _hours(span: Period) -> Decimal:
    return Decimal(int((span.upper - span.lower).total_seconds())) / 3600


def _again(
    claimed: Claimed[CapacityPurchase], error: ProviderError | None, clock: Clock, *, doubtful: bool
) -> None:
    with durable():
        purchase = claimed.still_ours()
        if purchase is None:
            return
        purchase.last_error = str(error or "") or purchase.last_error
        wait = backoff(purchase.attempts, base=RETRY, longest=RETRY_LONGEST)
        if isinstance(error, RateLimited):
            wait += timedelta(seconds=error.retry_after)
        purchase.next_try_at = clock() + wait
        if not doubtful:
            purchase.state, purchase.called_at = State.PENDING, None
        release(purchase)
        purchase.save()
        if doubtful:
            tell_staff(
                kind="purchase.in_doubt",
                subject_type="capacity_purchase",
                subject_id=purchase.token,
                now=clock(),
                after={"error": purchase.last_error},
                message=_("Whether a reservation was bought is not known yet: %(error)s")
                % {"error": purchase.last_error},
                quiet=timedelta(days=1),
            )


def _fail(claimed: Claimed[CapacityPurchase], reason: str, clock: Clock) -> None:
    with durable():
        purchase = claimed.still_ours()
        if purchase is None:
            return
        purchase.state, purchase.last_error = State.FAILED, reason
        release(purchase)
        purchase.save()
        tell_staff(
            kind="purchase.failed",
            subject_type="capacity_purchase",
            subject_id=purchase.token,
            now=clock(),
            after={"error": reason},
            message=_("A reservation was not bought: %(error)s") % {"error": reason},
        )


def _lock(choice_id: int) -> CapacityChoice:
    """Part: lock a choice; whoever takes it holds this lock."""
    require_transaction()
    return (
        CapacityChoice.objects.select_for_update(no_key=True, of=("self",))
        .select_related("account__provider", "instance_type__provider", "region__provider", "inquiry")
        .get(pk=choice_id)
    )


def _check_free(choice: CapacityChoice) -> None:
    if CapacityPurchase.objects.filter(choice=choice).exists():
        raise AlreadyTaken(_("This choice was taken already. Ask again to buy more."))


def _commitment(
    choice: CapacityChoice,
    *,
    quantity: int,
    promised: Period,
    cost_per_node_hour: Decimal,
    payment: str,
    reservation_id: str,
    note: str,
) -> Commitment:
    """Part: return the choice's commitment, unsaved; its zone is made where no poll has named one."""
    require_transaction()
    if choice.account is None:
        raise InvalidInput(
            _("There is no account at %(provider)s yet: add one first.")
            % {"provider": choice.instance_type.provider},
            field="account",
        )
    zone, _created = Zone.objects.get_or_create(
        region=choice.region, code=choice.zone_code or choice.region.code
    )
    return Commitment(
        account=choice.account,
        zone=zone,
        instance_type=choice.instance_type,
        reservation_id=reservation_id.strip(),
        quantity=quantity,
        promised=period(promised.lower, promised.upper),
        payment=payment,
        cost_per_node_hour=cost_per_node_hour,
        currency=choice.currency,
        note=note,
    )
