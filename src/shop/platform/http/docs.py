"""The documentation pages: `/docs`, `/redoc`, and `/`, which leads there.

Nothing on them comes from elsewhere: the scripts are files of a pinned package (fastapi-offline), and
the pages' Content-Security-Policy lets a browser fetch nothing from another origin. Redoc, which wants
its maker's logo from a CDN, does without.
"""

import base64
import hashlib
import re
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_PACKAGE = "fastapi-offline"
_ASSETS = f"/docs/assets/{version(_PACKAGE)}"
"""With the version in the address, so that a browser may keep them for good."""
_KEPT = "public, max-age=31536000, immutable"

_LOGO = '<style>img[src^="https:"] { display: none }</style>'
"""In place of the mark of an image that can't be had."""


def add_docs(app: FastAPI) -> None:
    """Serve them, beside the app's OpenAPI document. They stand in no document themselves."""

    async def swagger(request: Request) -> Response:
        base = _base(request)
        return _page(
            get_swagger_ui_html(
                openapi_url=f"{base}{app.openapi_url}",
                title=app.title,
                swagger_js_url=f"{base}{_ASSETS}/swagger-ui-bundle.js",
                swagger_css_url=f"{base}{_ASSETS}/swagger-ui.css",
                swagger_favicon_url=f"{base}{_ASSETS}/favicon.png",
                # Or it would have the document judged by its maker's server.
                swagger_ui_parameters={"validatorUrl": None},
            )
        )

    async def redoc(request: Request) -> Response:
        base = _base(request)
        return _page(
            get_redoc_html(
                openapi_url=f"{base}{app.openapi_url}",
                title=app.title,
                redoc_js_url=f"{base}{_ASSETS}/redoc.standalone.js",
                redoc_favicon_url=f"{base}{_ASSETS}/favicon.png",
                with_google_fonts=False,
            ),
            head=_LOGO,
        )

    async def root(request: Request) -> Response:
        return RedirectResponse(f"{_base(request)}/docs")

    for path, page in (("/docs", swagger), ("/redoc", redoc), ("/", root)):
        app.add_route(path, page, include_in_schema=False)
    app.mount(_ASSETS, _Assets(packages=[(_PACKAGE.replace("-", "_"), "static")]))


class _Assets(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = _KEPT
        response.headers["x-content-type-options"] = "nosniff"
        return response


def _base(request: Request) -> str:
    root_path: str = request.scope.get("root_path", "")
    return root_path.rstrip("/")


def _page(made: Response, head: str = "") -> Response:
    html = bytes(made.body).decode().replace("</head>", f"{head}</head>")
    own = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    scripts = ["'self'", *(f"'sha256-{_digest(script)}'" for script in own)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(scripts),
        # Both write their styles themselves.
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "blob:",  # Redoc's search
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {what}" for name, what in policy.items()),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return Response(html, headers=headers, media_type="text/html")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
