"""Takes requests back: each is answered with a failure of code `cancelled`, and not scored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from m3agiqa.contract import Failure, ScoreRequest
from m3agiqa.errors import NewerVersion, RequestCancelled, RequestInvalid, UsageError
from m3agiqa.queue import keys
from m3agiqa.queue.connection import Connection
from m3agiqa.queue.inbox import Admission, refusal
from m3agiqa.quoting import quoted
from m3agiqa.tenants import Tenants

logger = logging.getLogger(__name__)

#: Seconds to keep an answer, and bytes of dead letters to keep: the defaults of workers.
_RESULT_TTL_S, _DEAD_LETTERS_BYTES = 86_400, 64 * 2**20


class Cancelling:
    """Takes requests back. Methods raise QueueUnavailable as `Connection` does.

    A worker that is scoring one finishes it, and drops the result.
    """

    def __init__(self, connection: Connection, tenants: Tenants | None = None) -> None:
        self._connection = connection
        self._key = connection.key
        self._admission = Admission(
            connection, result_ttl_s=_RESULT_TTL_S, dead_letters_bytes=_DEAD_LETTERS_BYTES, tenants=tenants
        )

    def cancel(self, name: str) -> bool:
        """Answer the request of this name with code `cancelled`, and owe the deliveries of that answer. False if it was
        answered before.

        Raises:
            UsageError: no request has this name, or this version cannot read it.
        """
        self.take_in()
        if not self._connection.call("exists", self._key(keys.request(name))):
            raise UsageError(f"no request {quoted(name)} is known; those settled long ago are forgotten")
        return self._answer(name)

    def purge(self, within: str = "") -> Iterator[str]:
        """Take back every request that waits for its score now and has a name that begins with `within`. Yields the
        name of each once it is answered.
        """
        self.take_in()
        tasks = [str(task) for task in self._connection.call("zrange", self._key(keys.OWED), 0, -1)]
        for name in (task for task in tasks if ":" not in task and task.startswith(within)):
            try:
                if self._answer(name):
                    yield name
            except UsageError as error:
                logger.warning("%s", error)

    def take_in(self) -> None:
        """Admit what lies in the inbox, as workers do: perhaps none is running. Limits of tenants count where their
        files are here, as `tenants`.
        """
        for priority in keys.PRIORITIES:
            while self._admission.admit(priority):
                pass

    def _answer(self, name: str) -> bool:
        text = self._connection.call("hget", self._key(keys.request(name)), "request")
        if text is None:  # it is settled, and only its state is left
            return False
        try:
            request = ScoreRequest.parse(json.loads(text))
        except (ValueError, RecursionError, RequestInvalid, NewerVersion):
            raise UsageError(f"request {quoted(name)} cannot be read by this version") from None
        verdict = refusal(request, Failure.from_error(RequestCancelled())).model_dump_json()
        return bool(self._connection.run("cancel", [name, verdict, ",".join(request.deliveries), _RESULT_TTL_S]))
