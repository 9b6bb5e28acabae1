"""The routes of `/v1`, put together."""

from __future__ import annotations

from flask import Flask

from webapp.api.v1 import chat, images, messages, models, unserved
from webapp.api.v1.direct import Direct


def register(app: Flask) -> None:
    """Attach the routes."""
    for module in (chat, messages, images, models, unserved):
        app.register_blueprint(module.blueprint)
    app.wsgi_app = Direct(app)  # type: ignore[method-assign]
