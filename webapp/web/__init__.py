"""HTML pages and the few routes beside them, one module per area."""

from __future__ import annotations

import logging

from flask import Flask

from webapp.extensions import csrf, current_settings
from webapp.pipeline.inbox import CoreInbox
from webapp.registry import Registry
from webapp.web import (
    auth,
    chat,
    dashboard,
    errors,
    health,
    pictures,
    providers_page,
    rendering,
    routing_page,
    security,
    settings_page,
    simulator,
    sms,
    streams,
)

log = logging.getLogger(__name__)


def register(app: Flask, registry: Registry) -> None:
    """Attach every route: ours, and those of the channels."""
    with app.app_context():
        settings = current_settings()
    security.protect(app, settings)
    auth.prepare(app, settings)
    rendering.prepare(app)
    dashboard.prepare(app)
    errors.prepare(app)
    streams.prepare(app, settings)
    for module in (health, sms, auth, chat, pictures, simulator, settings_page, providers_page, routing_page):
        app.register_blueprint(module.blueprint)
    _register_channels(app, registry)


def _register_channels(app: Flask, registry: Registry) -> None:
    """A channel whose routes cannot be attached is reported; the others serve."""
    inbox = CoreInbox()
    for channel in registry.channels.values():
        try:
            blueprint = channel.blueprint(inbox)
            if blueprint is not None:
                csrf.exempt(blueprint)
                app.register_blueprint(blueprint)
        except Exception as exc:
            log.exception("the routes of channel %s are left out", channel.name)
            registry.fault(channel.name, f"its routes cannot be attached: {type(exc).__name__}: {exc}")
