"""Switchhook: a self-hosted assistant switchboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from webapp.resources import folder
from webapp.settings import Settings, read_settings

if TYPE_CHECKING:
    from webapp.registry import Registry

__version__ = "0.1.0"


def create_app(settings: Settings | None = None, *, doors: bool = True) -> Flask:
    """The application, wired: the only place that knows every part. `SetupError` says what is wrong with the settings. Without
    `doors` it has no pages and no API, for processes that serve nobody: they take a fifth less memory."""
    from webapp import extensions, logs
    from webapp.registry import Registry
    from webapp.routing import guard

    settings = settings or read_settings()
    logs.configure(settings)

    templates = str(folder("templates"))
    app = _open(templates) if doors else Flask(__name__, template_folder=templates)
    app.config.update(
        SECRET_KEY=settings.load_secret_key(),
        SQLALCHEMY_DATABASE_URI=settings.effective_database_url,
        SQLALCHEMY_ENGINE_OPTIONS=extensions.engine_options(settings),
        MAX_CONTENT_LENGTH=1024 * 1024,
        SESSION_COOKIE_NAME="switchhook",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.secure,
        WTF_CSRF_TIME_LIMIT=None,
        RATELIMIT_STORAGE_URI=extensions.limiter_storage(settings),
        RATELIMIT_IN_MEMORY_FALLBACK_ENABLED=True,
    )
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_port=hops)  # type: ignore[method-assign]

    extensions.bind(app, settings)
    registry = Registry()
    registry.load(settings.for_plugins(), settings.plugins_dir)
    app.extensions["switchhook.registry"] = registry
    # What the operator named in the environment may be an internal address; what is set in the pages may not.
    guard.install(settings.allow_outbound, [*settings.urls_for_plugins(), *registry.addresses()])
    if settings.encryption_keys.get_secret_value():
        # A key that is none is said now, and not when the first secret is needed.
        from webapp.vault import current_vault

        with app.app_context():
            current_vault()
    if doors:
        _hang_doors(app, registry)
    return app


def _open(templates: str) -> Flask:
    from flask_openapi3 import Info, OpenAPI

    from webapp.api import problems

    return OpenAPI(
        __name__,
        info=Info(title="Switchhook", version=__version__),
        doc_ui=False,
        validation_error_model=problems.Problem,
        validation_error_callback=problems.of_validation,
        template_folder=templates,
    )


def _hang_doors(app: Flask, registry: Registry) -> None:
    from flask_openapi3 import OpenAPI

    from webapp import api, web
    from webapp.api import bodies

    assert isinstance(app, OpenAPI)
    web.register(app, registry)
    api.register(app)
    # Outermost, before anything reads.
    app.wsgi_app = bodies.Bodies(app)  # type: ignore[method-assign]
