"""Pure values and base classes: what the core and its plugins say to each other. Nothing here does I/O."""
