"""A lease on machines of an independent EC2 server (moto), through the real adapter, with faults on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import boto3
import pytest

from inventory.models import ProviderAccount
from inventory.providers import registry
from inventory.providers.base import Capability, Provider
from leases import audit
from leases.models import Instance, LaunchIntent, Lease
from leases.provisioning import sweep, upstream
from leases.provisioning.audit import CHECKS
from portal.common.audit import Check
from portal.common.crypto import encrypt
from tests.factories import Fleet, make_account, make_fleet, make_lease, make_organization, make_provider

# The lease began half an hour ago by the database's clock, which the audit reads.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
END = START + timedelta(hours=24)
BOOKED = START - timedelta(days=1)
REGION = "us-east-1"
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v"


class WorkerDied(BaseException):
    """The process ends here: nothing may catch it."""


@dataclass
class Faults:
    """What goes wrong at which call. Each fault strikes once, in order; calls are counted."""

    before: dict[str, list[BaseException | Callable[[], None] | None]] = field(default_factory=dict)
    after: dict[str, list[BaseException | Callable[[], None] | None]] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)  # instead of calling at all
    calls: list[str] = field(default_factory=list)
    # What the provider can do besides, and cannot do.
    more: frozenset[Capability] = frozenset()
    less: frozenset[Capability] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self, faults: dict[str, list[Any]], call: str) -> None:
        with self.lock:
            fault = faults[call].pop(0) if faults.get(call) else None
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            fault()

    def count(self, call: str) -> int:
        return self.calls.count(call)


class FaultyProvider:
    """The real adapter; ``before`` a call nothing has happened yet, ``after`` it the answer is lost."""

    def __init__(self, real: Provider, faults: Faults) -> None:
        self._real, self._faults = real, faults

    @property
    def capabilities(self) -> frozenset[Capability]:
        return (self._real.capabilities | self._faults.more) - self._faults.less

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._faults.calls.append(name)
            self._faults.strike(self._faults.before, name)
            if self._faults.answers.get(name):
                return self._faults.answers[name].pop(0)
            answer = method(*args, **kwargs)
            self._faults.strike(self._faults.after, name)
            return answer

        return call


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    found, real = Faults(), registry.provider_for
    monkeypatch.setattr(
        upstream.registry, "provider_for", lambda account: FaultyProvider(real(account), found)
    )
    return found


@dataclass
class Cloud:
    """The EC2 server as its own console would show it."""

    endpoint: str
    account: ProviderAccount

    @cached_property
    def ec2(self) -> Any:
        return boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def machines(self, *states: str) -> list[dict[str, Any]]:
        """Return the machines that run (or are in the given states)."""
        filters = [{"Name": "instance-state-name", "Values": list(states or ("pending", "running"))}]
        reservations = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [machine for reservation in reservations for machine in reservation["Instances"]]

    def groups(self) -> list[dict[str, Any]]:
        found = self.ec2.describe_security_groups()["SecurityGroups"]
        return [group for group in found if group["GroupName"].startswith("sublet-")]

    def keys(self) -> list[dict[str, Any]]:
        return list(self.ec2.describe_key_pairs()["KeyPairs"])

    def run(self, **tags: str) -> str:
        """Start a machine behind Sublet's back; return its id."""
        tag_list = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
        answer = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            InstanceType="p5.48xlarge",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tag_list}],
        )
        return str(answer["Instances"][0]["InstanceId"])


@pytest.fixture
def cloud(transactional_db: None, moto_ec2: str, faults: Faults) -> Cloud:
    make_provider(slug="aws", kind="aws")
    account = make_account(
        credentials=encrypt({"access_key_id": "test", "secret_access_key": "test"}),
        options={"endpoint_url": moto_ec2, "regions": [REGION], "image": "ami-12c6146b"},
        delivery_probe=ProviderAccount.Probe.PROVIDER_STATUS,
    )
    return Cloud(moto_ec2, account)


@pytest.fixture
def fleet(cloud: Cloud) -> Fleet:
    return make_fleet(nodes=2, account=cloud.account, reservation_id="cr-0123456789abcdef0")


@pytest.fixture
def lease(fleet: Fleet) -> Lease:
    """A lease of one node whose term has begun and which nobody has started yet."""
    return book()


def book(*, nodes: int = 1, start: datetime = START, end: datetime = END, **wanted: Any) -> Lease:
    organization = wanted.pop("organization", None) or make_organization()
    return make_lease(organization=organization, now=BOOKED, start=start, end=end, nodes=nodes, **wanted)


def at(minutes: float) -> datetime:
    """Return the moment so many minutes after the lease's start."""
    return START + timedelta(minutes=minutes)


def run_until_active(lease: Lease, *, minutes: float = 1) -> Lease:
    sweep.start_due(now=at(minutes))
    sweep.launch_due(now=at(minutes))
    sweep.probe_due(now=at(minutes + 1))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    return lease


def the_machine(lease: Lease) -> Instance:
    return Instance.objects.get(allocation__lease=lease, state__in=("pending", "running", "stopping"))


def the_intent(lease: Lease) -> LaunchIntent:
    return LaunchIntent.objects.get(allocation__lease=lease)


def problems() -> list[str]:
    """Return what the audit finds wrong now."""
    checks: list[Check] = [*audit.CHECKS, *CHECKS]
    return [f"{check.id}: {found}" for check in checks for found in check.run()[1]]


@pytest.fixture
def sound_at_the_end(cloud: Cloud) -> Iterator[None]:
    """After the test: the audit is clean, and what runs upstream is exactly what is recorded as running."""
    yield
    assert problems() == []
    running = {
        machine["InstanceId"] for machine in cloud.machines("pending", "running", "stopping", "stopped")
    }
    recorded = Instance.objects.filter(state__in=("pending", "running", "stopping"))
    assert running == set(recorded.values_list("provider_id", flat=True))
