"""What every answer of the web process says to the browser: where things may be loaded from, and what may be remembered."""

from __future__ import annotations

from flask import Flask, Response, redirect, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_talisman import Talisman

from webapp.settings import Settings

POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
    "base-uri": "'none'",
}
"""Nothing from other hosts and nothing inline: text that slips through the sanitizer still cannot run."""

# Called by machines: a load balancer takes a redirect for a failure, and a redirected webhook no longer fits its signature.
_NEVER_REDIRECTED = ("/health", "/sms/", "/metrics", "/api/", "/v1/")


def protect(app: Flask, settings: Settings) -> None:
    """Attach the headers, and where the installation has an https address, the way there."""
    Talisman(
        app,
        force_https=False,
        content_security_policy=POLICY,
        frame_options="DENY",
        referrer_policy="same-origin",
        strict_transport_security=settings.secure,
        # The operator's other hosts are none of our business.
        strict_transport_security_include_subdomains=False,
        session_cookie_secure=settings.secure,
        session_cookie_samesite="Lax",
    )
    app.config.update(REMEMBER_COOKIE_HTTPONLY=True, REMEMBER_COOKIE_SAMESITE="Lax", REMEMBER_COOKIE_SECURE=settings.secure)
    app.after_request(_keep_private)
    if settings.secure:
        app.before_request(lambda: _to_https(settings.public_url))


def _to_https(public_url: str) -> ResponseReturnValue | None:
    """Send a browser that came by plain HTTP to the public address.

    Only where the proxy in front says that it did: one that ends TLS and says nothing would be redirected for ever.
    """
    plain = request.headers.get("X-Forwarded-Proto", "").strip().lower() == "http" and not request.is_secure
    if not plain or request.method not in ("GET", "HEAD") or request.path.startswith(_NEVER_REDIRECTED):
        return None
    return redirect(public_url + request.full_path.rstrip("?"), 308)


def _keep_private(response: Response) -> Response:
    """A page about somebody is in no cache, and gone from the back button after signing out."""
    if response.mimetype == "text/html" and "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    if request.endpoint == "static" and "v" in request.args and response.status_code == 200:
        # The address carries a digest of the file: what it names never changes.
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


def signed_in() -> bool:
    """Whether somebody is signed in."""
    return bool(current_user.is_authenticated)
