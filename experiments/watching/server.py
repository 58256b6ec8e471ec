"""The server of the live page: the page, a stream of what it shows, and reports, all below an address with a token."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import importlib.resources
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from experiments.watching.reports import Reports
from experiments.watching.views import ViewRequest, Views
from fedsam.formatting import plural

POLL_SECONDS = 1.0  # between looks at the results, while a window of the page is open
SILENT_POLLS = 15  # after which a comment is sent, so that a window that is gone is noticed
LONGEST_PARAMETER = 200
NO_TOKEN = "This address lacks the token of the page: open the one that `fedsam watch` has printed.\n"
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
PLAIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{refresh}<title>{title}</title><h1>{title}</h1>{body}"""


class TokenGate:
    """An ASGI application that answers 403 unless the path begins with the token, and adds `HEADERS` to every answer."""

    def __init__(self, app: Callable[..., Any], token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        app = self._app
        if scope["type"] == "http":
            first = scope["path"].split("/")[1] if "/" in scope["path"] else ""
            if not secrets.compare_digest(first.encode(), self._token):
                app = PlainTextResponse(NO_TOKEN, 403)
        await app(scope, receive, send_guarded)


def application(views: Views, reports: Reports, token: str, is_ending: Callable[[], bool]) -> TokenGate:
    """The server's application.

    Args:
        token: The first part of every path that is answered.
        is_ending: Whether the server ends, and its streams with it.
    """
    text = (importlib.resources.files("experiments.watching") / "page.html").read_text(encoding="utf-8")
    policy = _policy(text)

    async def page(request: Request) -> Response:
        return HTMLResponse(text, headers={"content-security-policy": policy})

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(views, view_request(request.query_params), is_ending), media_type="text/event-stream")

    async def report(request: Request) -> Response:
        return await _report(views, reports, request.path_params["key"], request.path_params.get("number"))

    routes = [
        Route(f"/{token}/", page),
        Route(f"/{token}/events", stream),
        Route(f"/{token}/report/{{key}}", report),
        Route(f"/{token}/report/{{key}}/{{number:int}}", report),
    ]
    return TokenGate(Starlette(routes=routes), token)


def view_request(parameters: Any) -> ViewRequest:
    """What a window asks for; a parameter that is none is left out, and one that makes no sense has its default."""
    given = {name: str(parameters.get(name, ""))[:LONGEST_PARAMETER] for name in ("view", "key", "measure", "search")}
    page = str(parameters.get("page", ""))
    return ViewRequest(**{**given, "view": given["view"] or "latest"}, page=int(page) if page.isdecimal() and len(page) < 9 else 1)


async def events(
    views: Views, request: ViewRequest, is_ending: Callable[[], bool], poll_seconds: float = POLL_SECONDS
) -> AsyncIterator[str]:
    """Server-sent events: what a window shows, now and whenever it changes."""
    version, sent, silent = -1, "", 0
    yield "retry: 2000\n\n"
    while not is_ending():
        now = await asyncio.to_thread(views.version)
        text = sent
        if now != version:
            text, version = json.dumps(await asyncio.to_thread(views.show, request), allow_nan=False), now
        silent += 1
        if text != sent:
            sent, silent = text, 0
            yield f"data: {text}\n\n"
        elif silent >= SILENT_POLLS:
            silent = 0
            yield ": no change\n\n"
        await asyncio.sleep(poll_seconds)


async def _report(views: Views, reports: Reports, key: str, number: int | None) -> Response:
    """A report on the runs of a set that have ended, or the list of its reports where not all of them can be compared."""
    groups = await asyncio.to_thread(views.finished_runs, key)
    if not groups or (number or 0) >= len(groups):
        return _plain("No report", "<p>None of these runs has finished yet, or they are not there any more.</p>", 404)
    if number is None and len(groups) > 1:
        links = "".join(
            f'<li><a href="{html.escape(key)}/{place}">{html.escape(title)}: {plural(len(runs), "run")}</a>'
            for place, (title, runs) in enumerate(groups.items())
        )
        return _plain("Reports", f"<p>Runs of another dataset or length cannot be compared.</p><ul>{links}</ul>")
    runs = list(groups.values())[number or 0]
    made: Future[Path] = reports.get(runs)
    if not made.done():
        await asyncio.wait([asyncio.wrap_future(made)], timeout=POLL_SECONDS)
    if not made.done():
        text = f"<p>The report on {plural(len(runs), 'run')} is being made, which takes some seconds. It opens here.</p>"
        return _plain("Making the report", text, 202, '<meta http-equiv="refresh" content="1">')
    try:
        page = await asyncio.to_thread(made.result().read_text, encoding="utf-8")
    except Exception as error:
        return _plain("The report failed", f"<p>{html.escape(f'{type(error).__name__}: {error}')}</p>", 500)
    return HTMLResponse(page, headers={"content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"})


def _plain(title: str, body: str, status: int = 200, refresh: str = "") -> Response:
    page = PLAIN_PAGE.format(title=title, body=body, refresh=refresh)
    return HTMLResponse(page, status, headers={"content-security-policy": "default-src 'none'"})


def _policy(page: str) -> str:
    """The content security policy of the page: its own script and style by their hashes, its own streams, and nothing else."""
    hashes = {}
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    own = "; ".join(f"{tag}-src 'sha256-{value}'" for tag, value in hashes.items())
    return f"default-src 'none'; {own}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
