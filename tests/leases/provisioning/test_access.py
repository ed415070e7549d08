"""Delivery means that access was tested: an SSH server must say who it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from inventory.models import ProviderAccount
from leases.models import Access, Lease
from leases.provisioning import probe, sweep
from leases.provisioning.ssh import ssh_command
from tests.leases.provisioning.conftest import Cloud, Faults, at


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Listen on loopback; whoever connects gets ``answer`` and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", True),
        (b"Welcome\r\nSSH-2.0-dropbear\r\n", True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_an_ssh_banner_passes(answer: bytes, passes: bool) -> None:
    with server(answer) as port:
        assert probe.ssh_answers("127.0.0.1", port, timeout=2) is passes


def test_a_silent_or_closed_port_fails_within_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        assert not probe.ssh_answers("127.0.0.1", port, timeout=0.2)
    assert not probe.ssh_answers("127.0.0.1", port, timeout=0.2)


@pytest.mark.django_db(transaction=True)
def test_a_running_machine_is_delivered_when_its_ssh_answers(
    cloud: Cloud, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto's addresses lead nowhere: the machine is shown at loopback, where a server is or is not."""
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    lead_to_loopback(monkeypatch)

    def look(minutes: float, port: int) -> int:
        cloud.account.options["ssh_port"] = port
        cloud.account.delivery_probe = ProviderAccount.Probe.SSH
        cloud.account.save()
        return sweep.probe_due(now=at(minutes))

    with server(b"not yet\r\n") as port:
        assert look(2, port) == 0
    lease.refresh_from_db()
    assert lease.state == Lease.State.PROVISIONING
    with server(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        assert look(3, port) == 1
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    assert ssh_command(Access.objects.get(lease=lease)) == f"ssh -p {port} ubuntu@127.0.0.1"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("test", "sources"), [("ssh", {"198.51.100.9/32"}), ("provider_status", set())])
def test_our_own_address_may_test_access_where_that_is_how_it_is_tested(
    cloud: Cloud, lease: Lease, settings: Any, test: str, sources: set[str]
) -> None:
    settings.SUBLET_PROBE_ADDRESSES = ["198.51.100.9/32"]
    ProviderAccount.objects.update(delivery_probe=test)
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    [group] = cloud.groups()
    assert {found["CidrIp"] for rule in group["IpPermissions"] for found in rule["IpRanges"]} == sources


def lead_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.leases.provisioning.conftest import FaultyProvider

    call: Callable[[FaultyProvider, str], Any] = FaultyProvider.__getattr__

    def changed(self: FaultyProvider, name: str) -> Any:
        method = call(self, name)
        if name != "describe":
            return method
        return lambda **asked: [replace(machine, public_ip="127.0.0.1") for machine in method(**asked)]

    monkeypatch.setattr(FaultyProvider, "__getattr__", changed)


@pytest.mark.django_db(transaction=True)
def test_a_machine_that_is_not_healthy_yet_is_not_delivered_by_its_status(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    from inventory.providers.base import Machine, MachineState
    from tests.leases.provisioning.conftest import REGION, the_machine

    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    machine = Machine(the_machine(lease).provider_id, REGION, MachineState.RUNNING, public_ip="203.0.113.9")
    faults.answers["describe"] = [[machine], [replace(machine, status_ok=False)]]
    assert sweep.probe_due(now=at(2)) == 0
    assert sweep.probe_due(now=at(3)) == 0
    assert sweep.probe_due(now=at(4)) == 1


@pytest.mark.django_db(transaction=True)
def test_a_port_that_the_provider_mapped_is_tested_and_told(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    from inventory.providers.base import Machine, MachineState
    from tests.leases.provisioning.conftest import REGION, the_machine

    ProviderAccount.objects.update(delivery_probe=ProviderAccount.Probe.SSH)
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    with server(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        machine = Machine(
            the_machine(lease).provider_id,
            REGION,
            MachineState.RUNNING,
            public_ip="127.0.0.1",
            ssh_port=port,
        )
        faults.answers["describe"] = [[machine], [replace(machine, ssh_port=port - 1)]]
        assert sweep.probe_due(now=at(2)) == 1
    assert Access.objects.get(lease=lease).endpoint == f"127.0.0.1:{port}"
    sweep.probe_due(now=at(6))  # it was started again, and has another port
    old, new = Access.objects.filter(lease=lease).order_by("pk")
    assert old.revoked_at is not None
    assert (new.endpoint, new.revoked_at) == (f"127.0.0.1:{port - 1}", None)


@pytest.mark.parametrize(
    ("endpoint", "username", "command"),
    [
        ("203.0.113.7:22", "ubuntu", "ssh ubuntu@203.0.113.7"),
        ("203.0.113.7:2222", "ubuntu", "ssh -p 2222 ubuntu@203.0.113.7"),
        ("[2001:db8::7]:22", "ec2-user", "ssh ec2-user@2001:db8::7"),
        ("203.0.113.7:22", "$(reboot)", "ssh '$(reboot)@203.0.113.7'"),
    ],
)
def test_the_ssh_command(endpoint: str, username: str, command: str) -> None:
    assert ssh_command(Access(endpoint=endpoint, username=username)) == command
