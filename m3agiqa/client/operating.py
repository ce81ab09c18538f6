"""What operators do with a queue: look at it, take requests back, erase them, and see to dead letters."""

from __future__ import annotations

from collections.abc import Iterator

from m3agiqa.client.reading import Reader
from m3agiqa.errors import UsageError
from m3agiqa.queue import keys, overview
from m3agiqa.queue.cancelling import Cancelling
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.dead import DeadLetter, DeadLetters
from m3agiqa.queue.erasing import Erased, ErasedTenant, Erasing
from m3agiqa.queue.overview import Overview
from m3agiqa.tenants import Tenants


class Operator(Reader):
    """Takes the rights of the user `operator` of `deploy/redis/users.acl`. Dead letters are those of every tenant."""

    def __init__(self, connection: Connection, tenant: str | None = None, tenants: Tenants | None = None) -> None:
        super().__init__(connection, tenant)
        self._dead = DeadLetters(connection)
        self._cancelling = Cancelling(connection, tenants)
        self._erasing = Erasing(connection, tenants)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """What workers gave up, the newest first. The log names dead letters that cannot be read.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        yield from self._dead.all()

    def dead_letter_ids(self) -> list[str]:
        """Ids of all dead letters, also of those that cannot be read.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return [str(letter_id) for letter_id in self._connection.call("hkeys", self._connection.key(keys.DEAD))]

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            UsageError: there is no such dead letter, or it cannot be read.
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.get(letter_id)

    def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter back, with as many attempts as a new one. False if it is no dead letter any more.

        Raises:
            UsageError: it was not kept whole, its request was answered meanwhile, or its request is forgotten.
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.replay(letter)

    def drop(self, letter_id: str) -> bool:
        """Forget a dead letter, even one that cannot be read. False if there is none of this id.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        return self._dead.drop(letter_id)

    def cancel(self, request_id: str) -> bool:
        """Take a request back: a verdict `failed` of code `cancelled` answers it, and its state becomes `cancelled`.
        False if it was answered before.

        Raises:
            UsageError: no request has this id.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        return self._cancelling.cancel(self._name(request_id))

    def take_in(self) -> None:
        """Admit what producers submitted, as workers do: afterwards `state` knows every request.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        self._cancelling.take_in()

    def erase(self, request_id: str) -> Erased:
        """Remove every trace of a request from Redis; says what it was, and which objects in S3 are still there.

        Raises:
            UsageError: this is no request id.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        return self._erasing.erase(self._name(request_id))

    def erase_tenant(self, tenant: str, *, keep_usage: bool = False) -> ErasedTenant:
        """Remove every trace of all requests of a tenant from Redis, and what it used unless that is to be kept; says
        how much it was, and which objects in S3 it could not remove. What is submitted for it meanwhile is left.

        Raises:
            UsageError: this is no name of a tenant, or another than this client's.
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        if self.tenant not in (None, tenant):
            raise UsageError(f"this client is for tenant {self.tenant} alone")
        return self._erasing.erase_tenant(tenant, keep_usage=keep_usage)

    def purge(self) -> Iterator[str]:
        """Take back every request that waits for its score now; with a tenant, its own. Yields the id of each once
        it is answered.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to.
        """
        within = self._name("")
        for name in self._cancelling.purge(within):
            yield name.removeprefix(within)

    def overview(self) -> Overview:
        """How the queue is now: what waits, who works, and how often what happened.

        Raises:
            QueueUnavailable: Redis cannot be reached, or forbids this user to look.
        """
        return overview.read(self._connection)
