"""Work that does not happen in a web request: the worker, its tasks, and what runs by the clock."""
