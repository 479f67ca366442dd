"""The documentation pages: `/docs`, `/redoc`, and `/`, which redirects to them.

They load nothing from other hosts. The scripts are files of a pinned package (fastapi-offline), and the pages'
Content-Security-Policy allows no other origin. Redoc would load its logo from a CDN; here it has none.
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
"""The version is part of the address, so a browser may cache the files without a time limit."""
_KEPT = "public, max-age=31536000, immutable"

_LOGO = '<style>img[src^="https:"] { display: none }</style>'
"""Hides the broken image of Redoc's logo."""


def add_docs(app: FastAPI) -> None:
    """Add the pages to the app. The OpenAPI document does not list them."""

    async def swagger(request: Request) -> Response:
        base = _base(request)
        return _page(
            get_swagger_ui_html(
                openapi_url=f"{base}{app.openapi_url}",
                title=app.title,
                swagger_js_url=f"{base}{_ASSETS}/swagger-ui-bundle.js",
                swagger_css_url=f"{base}{_ASSETS}/swagger-ui.css",
                swagger_favicon_url=f"{base}{_ASSETS}/favicon.png",
                # Otherwise Swagger UI would send the document to its validation server.
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
        # Both pages use inline styles.
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
