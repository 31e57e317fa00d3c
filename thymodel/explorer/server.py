"""The page on this machine: answered to this machine alone, without a request to any other."""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from thymodel.errors import Fault, InputError, SolveError

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route
except ImportError:
    raise InputError([Fault("thymodel explore", "starlette and uvicorn are not installed",
                            'pip install "thymodel[explorer]", or write a file with --static FILE')]) from None

from thymodel.explorer.answers import Answers, setup_of
from thymodel.explorer.pages import FOLDER, page_html
from thymodel.explorer.ports import HOST
from thymodel.explorer.views import View, first_view, read_view

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin"}


def make_app(answers: Answers) -> Starlette:
    """The pages of one record. An address that is no question gets status 400 and the faults as plain text."""
    bench = answers.bench

    def asked(reply: Callable[[View], Response]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:  # not async: it computes, on a thread of its own
            try:
                response = reply(read_view(request.url.query, bench.controls, bench.fit.model))
            except InputError as error:
                response = PlainTextResponse(f"{error}\n", 400)
            except SolveError as error:
                response = PlainTextResponse(f"{error}\n", 500)
            response.headers.update(_HEADERS)
            return response

        return endpoint

    def kept(name: str, kind: str) -> Route:
        text = (FOLDER / name).read_text(encoding="utf-8")
        return Route(f"/{name}", lambda request: Response(text, media_type=kind, headers=_HEADERS))

    first = first_view(bench.controls)
    for answer in (answers.view, answers.dose_response):
        answer(first)  # compiles, before anybody waits for it
    return Starlette(
        routes=[Route("/", asked(lambda view: HTMLResponse(page_html(setup_of(bench, view))))),
                Route("/answer", asked(lambda view: _json(answers.view(view)))),
                Route("/dose-response", asked(lambda view: _json(answers.dose_response(view)))),
                kept("page.js", "text/javascript"), kept("page.css", "text/css"),
                Route("/favicon.ico", lambda request: Response(status_code=204, headers=_HEADERS))],
        # a page of elsewhere whose name was made to lead here must not read the answers
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])])


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content, allow_nan=False, separators=(",", ":")), media_type="application/json")


def serve(app: Starlette, taken: socket.socket) -> None:
    """Answers until it is interrupted."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                           lifespan="off"))
    with suppress(KeyboardInterrupt):  # which uvicorn raises again after it has stopped
        server.run(sockets=[taken])
