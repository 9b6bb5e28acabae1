"""REST: what programs ask for. Thin; every answer is JSON, errors are problem details (RFC 9457)."""

from __future__ import annotations

from flask import Flask

from webapp.api import queue


def register(app: Flask) -> None:
    """Attach the routes. They read only, so nothing here needs a CSRF token."""
    app.register_blueprint(queue.blueprint)
