"""The built-in plugins, written against `webapp.plugin` alone."""
