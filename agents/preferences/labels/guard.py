"""Who may ask the page for what: a browser of this machine, for what the page itself needs.

Any web page that somebody visits can send requests to this machine, under its own name if that is
made to point here. So the name that a request asks for, and the page that it comes from, must be
this machine's own. Gradio offers more than these pages use, such as uploads: none of it is there.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]

OF_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
POSTS = ("/gradio_api/run/", "/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/cancel")
NOT_NEEDED = tuple(
    f"/gradio_api/{name}"
    for name in ("file", "proxy", "stream", "upload", "run-history", "runs", "vibe", "profiling")
) + ("/monitoring", "/runs")


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or allowed(scope):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        text = b"Only the page of the labels itself, on this machine, may ask for this."
        await send({"type": "http.response.body", "body": text})


def allowed(scope: Message) -> bool:
    """Whether a request is one of the page itself."""
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value.decode("latin-1"))
    hosts = [f"//{host}" for host in headers.get(b"host", [])]
    origins = headers.get(b"origin", [])  # which not all requests have
    if len(hosts) != 1 or not all(map(_is_here, [*hosts, *origins])):
        return False
    path = scope["path"]
    if path.startswith(NOT_NEEDED):
        return False
    return scope.get("method", "GET") in ("GET", "HEAD") or path.startswith(POSTS)


def _is_here(address: str) -> bool:
    try:
        return urlsplit(address).hostname in OF_THIS_MACHINE
    except ValueError:
        return False
