"""What pages and commands share beside the road."""
