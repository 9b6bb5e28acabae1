"""Built-in quotas."""
