"""The lease's states: the table, and that one function alone writes them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from leases import lifecycle
from leases.errors import WrongState
from leases.models import Lease
from portal.accounts.models import Event
from portal.common.transactions import durable
from tests.factories import NOW, make_fleet, make_lease

BASE_DIR = Path(__file__).resolve().parents[2]
State = Lease.State


def written_lease_states(path: Path) -> list[int]:
    """Return the lines of ``path`` that write a lease's state other than through ``move``."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if (
                    isinstance(target, ast.Attribute)
                    and target.attr == "state"
                    and "lease" in ast.unparse(target.value).lower()
                ):
                    lines.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            writes = node.func.attr in {
                "update",
                "create",
                "bulk_create",
                "get_or_create",
                "update_or_create",
            }
            if writes and "Lease.objects" in called and any(word.arg == "state" for word in node.keywords):
                lines.append(node.lineno)
    return lines


def test_only_move_writes_a_lease_state():
    files = [
        path
        for package in ("portal", "inventory", "leases", "billing")
        for path in (BASE_DIR / package).rglob("*.py")
        if "migrations" not in path.parts
    ]
    found = {str(path.relative_to(BASE_DIR)): written_lease_states(path) for path in files}
    found = {name: lines for name, lines in found.items() if lines}
    assert list(found) == ["leases/lifecycle.py"], found
    assert len(found["leases/lifecycle.py"]) == 1


def test_that_check_sees_what_it_should(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "lease.state = 'ended'\n"
        "Lease.objects.filter(pk=1).update(state='ended')\n"
        "instance.state = 'running'\n"
        "Lease.objects.filter(state='held')\n"
    )
    assert sorted(written_lease_states(wrong)) == [1, 2]


def test_every_state_has_its_line_in_the_table():
    assert set(lifecycle.TRANSITIONS) == set(State)
    reached = {State.HELD}.union(*lifecycle.TRANSITIONS.values())
    assert reached == set(State)


@pytest.mark.django_db
@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", list(State))
def test_move_follows_the_table(before, after):
    make_fleet(nodes=1)
    lease = make_lease(state="held")
    lease.state = before
    lease.save()
    events = Event.objects.count()
    allowed = after in lifecycle.TRANSITIONS[before]
    with durable():
        locked = lifecycle.lock_lease(lease.pk)
        if allowed:
            lifecycle.move(locked, after, actor=None, now=NOW, deadline=NOW, reason="test")
        else:
            with pytest.raises(WrongState):
                lifecycle.move(locked, after, actor=None, now=NOW, deadline=NOW)
    lease.refresh_from_db()
    if not allowed:
        assert (lease.state, Event.objects.count()) == (before, events)
        return
    event = Event.objects.latest("pk")
    assert (lease.state, lease.state_changed_at) == (after, NOW)
    assert (event.kind, event.before, event.after["state"]) == (f"lease.{after}", {"state": before}, after)
    assert event.after["reason"] == "test"
    assert (lease.deadline is None) == (after not in lifecycle.WAITING)


@pytest.mark.django_db
def test_a_waiting_lease_needs_a_deadline():
    make_fleet(nodes=1)
    lease = make_lease(state="held")
    with durable(), pytest.raises(ValueError, match="deadline"):
        lifecycle.move(lifecycle.lock_lease(lease.pk), "awaiting", actor=None, now=NOW)


@pytest.mark.django_db(transaction=True)
def test_parts_refuse_to_run_without_a_transaction():
    make_fleet(nodes=1)
    lease = make_lease(state="held")
    for part in (
        lambda: lifecycle.lock_lease(lease.pk),
        lambda: lifecycle.move(lease, "scheduled", actor=None, now=NOW),
        lambda: lifecycle.cancel(lease, actor=None, now=NOW),
        lambda: lifecycle.release(lease, now=NOW),
    ):
        with pytest.raises(RuntimeError, match="transaction"):
            part()
    lease.refresh_from_db()
    assert (lease.state, lease.allocations.count()) == ("held", 1)
