"""`mobisim explore`: the page and its answers, to this machine alone."""

from __future__ import annotations

import socket
from asyncio import Lock
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mobisim.errors import InputError
from mobisim.pages.explorer import Explorer, OvertakenError
from mobisim.pages.knobs import Settings
from mobisim.pages.template import asset, policy_of, whole_page

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    hint = "install it with: pip install 'mobisim[explore]'"
    raise InputError("mobisim explore needs starlette and uvicorn", hint=hint) from error

LOOPBACK = "127.0.0.1"
# A page elsewhere whose name is made to point here would come with its own name as the host.
HOSTS = [LOOPBACK, "localhost"]
MAX_TABS = 64
OWN = ("at", "tab", "whole")  # of a question; all else are knobs
OVERTAKEN, REFUSED = 409, 422


class Desk:
    """Answers one question at a time, and of each tab the latest only, which ends those before."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer, self.lock = answer, Lock()
        self.latest: OrderedDict[str, int] = OrderedDict()

    async def ask(self, tab: str, at: int, settings: Settings, *, whole: bool) -> Any:
        """The answer to question `at` of a tab; None where a later one came before it was there."""
        if at < self.latest.get(tab, 0):
            return None
        self.latest[tab] = at
        self.latest.move_to_end(tab)
        while len(self.latest) > MAX_TABS:
            self.latest.popitem(last=False)

        def overtaken() -> bool:
            return self.latest.get(tab) != at

        async with self.lock:
            if overtaken():
                return None
            with suppress(OvertakenError):
                return await run_in_threadpool(
                    self.answer, settings, whole=whole, overtaken=overtaken
                )
        return None


def application(explorer: Explorer) -> Starlette:
    """The page at /, its answers at /answer."""
    styles, script = asset("page.css") + asset("explore.css"), asset("explore.js")
    page = whole_page(
        "explore.html",
        styles,
        script,
        connect="'self'",
        title=explorer.scenario.name,
        knobs=explorer.knobs,
    )
    headers = {
        "Content-Security-Policy": policy_of(styles, script, "'self'") + "; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    desk = Desk(explorer.answer)

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    async def answer(request: Request) -> Response:
        asked = request.query_params
        at = asked.get("at", "")
        if not at.isdecimal() or len(at) > 15:  # noqa: PLR2004 - as large as a number is in a browser
            return JSONResponse({"error": "a question needs its number, at"}, REFUSED, headers)
        settings = {key: value for key, value in asked.items() if key not in OWN}
        whole = asked.get("whole") == "1"
        try:
            found = await desk.ask(asked.get("tab", "")[:40], int(at), settings, whole=whole)
        except InputError as error:
            return JSONResponse({"at": int(at), "error": str(error)}, REFUSED, headers)
        if found is None:
            return JSONResponse({"at": int(at), "error": "overtaken"}, OVERTAKEN, headers)
        return JSONResponse({"at": int(at), **found}, headers=headers)

    guard = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return Starlette(routes=[Route("/", show), Route("/answer", answer)], middleware=[guard])


def listen(port: int) -> socket.socket:
    """A socket on this machine alone; any free port where `port` is 0.

    Raises:
        InputError: the port is taken, or may not be used.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "choose another, or 0 for one that is free"
        raise InputError(reason, where="--port", got=str(port), hint=hint) from error


def server(explorer: Explorer) -> uvicorn.Server:
    """The server, to be run on a socket."""
    app = application(explorer)
    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
    )


def address(listening: socket.socket) -> str:
    """Where a browser finds the page."""
    return f"http://{LOOPBACK}:{listening.getsockname()[1]}"


def explore(explorer: Explorer, port: int, say: Callable[[str], object]) -> None:
    """Serve the page until interrupted."""
    with listen(port) as listening:
        say(f"{address(listening)}: open it in a browser; Ctrl-C ends it")
        try:
            server(explorer).run(sockets=[listening])
        except KeyboardInterrupt:  # how it is meant to end
            say("")
