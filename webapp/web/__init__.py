"""HTML pages and the few routes beside them, one module per area."""

from __future__ import annotations

import logging

from flask import Flask

from webapp.extensions import csrf, current_settings
from webapp.pipeline.inbox import CoreInbox
from webapp.registry import Registry
from webapp.web import (
    auth,
    batches,
    chat,
    dashboard,
    dead_letters_page,
    errors,
    health,
    limits_page,
    organization,
    organization_join,
    organization_list,
    organization_people,
    organization_settings,
    organization_webhooks,
    people_bulk_page,
    people_page,
    pictures,
    plans_page,
    providers_page,
    queue_page,
    rendering,
    request_page,
    routing_page,
    schedule_page,
    security,
    settings_page,
    simulator,
    sms,
    streams,
    tokens_page,
    usage_page,
    waiting,
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
    batches.prepare(app)
    errors.prepare(app)
    streams.prepare(app, settings)
    for module in (health, sms, auth, chat, pictures, simulator, settings_page, providers_page, routing_page, schedule_page):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(batches.blueprint)
    app.register_blueprint(dead_letters_page.blueprint)
    organization.prepare(app)
    for module in (organization, organization_people, organization_settings, organization_list, organization_join):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(organization_webhooks.blueprint)
    for module in (waiting, queue_page):
        app.register_blueprint(module.blueprint)
    usage_page.prepare(app)
    for blueprint in (usage_page.blueprint, usage_page.of_organization, request_page.blueprint):
        app.register_blueprint(blueprint)
    for blueprint in (limits_page.blueprint, limits_page.tokens, plans_page.blueprint, people_page.blueprint):
        app.register_blueprint(blueprint)
    app.register_blueprint(people_bulk_page.blueprint)
    app.register_blueprint(tokens_page.blueprint)
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
