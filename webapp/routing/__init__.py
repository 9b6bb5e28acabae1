"""Which provider, at what price, over which connection."""
