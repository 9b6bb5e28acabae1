"""What happens to 1,000 messages while processes, the queue and the database are killed: `make fault`."""
