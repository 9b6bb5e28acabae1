"""Limits: windows, holds, and what becomes of them."""
