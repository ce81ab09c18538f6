from __future__ import annotations

from typing import Any

from redis import Redis

from m3agiqa.errors import Busy
from producers import Client, State
from tests.worker.ledger import delivery, pass_time
from worker.courier import Courier
from worker.deliver import Delivery
from worker.settings import Settings
from worker.store import Store


class Receiver:
    """Stands for a sender: busy until it is not."""

    busy = True

    def send(self, delivery: Delivery) -> None:
        if self.busy:
            raise Busy("its server has all threads that one may have", 7.5)


def test_a_delivery_to_a_busy_receiver_is_put_off_and_has_no_attempt_less(
    store: Store, client: Client, redis: Redis
) -> None:
    # given a receiver that is busy more often than a delivery has attempts
    receiver: Any = Receiver()
    courier = Courier(Settings(deliver_retry_delays_s=()), store, receiver)
    for _ in range(10):
        said = courier.handle(delivery(), store.begin_delivery(delivery()))
        assert said == "its server has all threads that one may have, again in 7.5 s"
        # when its time has come
        assert store.sweep() == 0
        pass_time(redis, 7.6)
        assert store.sweep() == 1
    # then it is tried as if nothing had been
    receiver.busy = False
    assert courier.handle(delivery(), store.begin_delivery(delivery())) == "delivered"
    assert client.state("r") == State.SETTLED
