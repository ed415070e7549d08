"""Staff look at deliveries and send them again; they type nothing."""

import pytest

from portal.notifications.models import Delivery
from tests.factories import make_user
from tests.notifications.test_sending import make_delivery

pytestmark = pytest.mark.django_db
LIST = "/admin/notifications/delivery/"


@pytest.fixture
def staff(client):
    person = make_user(is_staff=True, is_superuser=True)
    client.force_login(person)
    return person


def test_a_failed_delivery_is_sent_again(client, staff):
    failed, waiting = make_delivery(state="failed", attempts=8), make_delivery(attempts=3)
    response = client.post(
        LIST, {"action": "send_again", "_selected_action": [failed.pk, waiting.pk]}, follow=True
    )
    texts = [str(message) for message in response.context["messages"]]
    assert any("still waiting" in text for text in texts)
    failed.refresh_from_db()
    waiting.refresh_from_db()
    assert (failed.state, failed.attempts, failed.edition) == ("pending", 0, 2)
    assert (waiting.state, waiting.attempts, waiting.edition) == ("pending", 3, 1)


def test_deliveries_are_not_typed_over(client, staff):
    delivery = make_delivery()
    before = Delivery.objects.values().get()
    row = f"{LIST}{delivery.pk}/"
    assert client.get(LIST, {"state__exact": "pending"}).status_code == 200
    assert client.get(f"{row}change/").status_code == 200
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{row}change/", {"state": "sent"}).status_code == 403
    assert client.post(f"{row}delete/", {"post": "yes"}).status_code == 403
    assert Delivery.objects.values().get() == before
