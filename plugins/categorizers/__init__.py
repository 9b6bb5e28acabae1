"""Built-in categorizers."""
