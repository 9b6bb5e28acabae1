"""The routes of `/v1`, put together."""

from __future__ import annotations

from flask import Flask

from webapp.api.v1 import chat
from webapp.api.v1.direct import Direct


def register(app: Flask) -> None:
    """Attach the routes."""
    for module in (chat,):
        app.register_blueprint(module.blueprint)
    app.wsgi_app = Direct(app)  # type: ignore[method-assign]
