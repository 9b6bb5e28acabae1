"""The entry point for WSGI servers: `application`."""

from webapp import create_app

application = create_app()
