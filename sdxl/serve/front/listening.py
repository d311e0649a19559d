"""Listening: connections that the app never hears of are closed here: too many of them, and those that say nothing."""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection", "connections"]


class Connection(H11Protocol):
    """One connection. Between two requests, and before the first, it has so many seconds to send a whole header."""

    header_seconds = 30.0
    most = 512  # at once
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins; ends at once where there are too many."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        # asyncio sets this only for sockets whose protocol number was named; an answer in two parts would take 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Reads on."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """The next header may come."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Runs the clock while a header is due. More bytes of the same header do not set it back."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connections(most: int, header_seconds: float) -> type[Connection]:
    """Connections with these limits, as uvicorn's `http` takes them."""
    return type("LimitedConnection", (Connection,), {"most": most, "header_seconds": header_seconds})
