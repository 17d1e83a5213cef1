"""A fake of a service over HTTP, in a thread of this process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler

S = TypeVar("S")


@contextmanager
def fake_server(
    handler: type[BaseHTTPRequestHandler],
    make_state: Callable[[str], S],
    server_class: type[ThreadingHTTPServer] = ThreadingHTTPServer,
) -> Iterator[S]:
    """Start a server, and end it with the block.

    Args:
        handler: of its requests, which has the state as its attribute ``state``.
        make_state: from the server's address.
        server_class: of its connections.
    """
    server = server_class(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state = make_state(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (handler,), {"state": state})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
