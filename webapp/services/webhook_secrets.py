"""Signing secrets of outgoing webhooks (Standard Webhooks: `whsec_` and base64)."""

from __future__ import annotations

import base64
import secrets

from webapp.vault import current_vault

_BYTES = 32


def make() -> tuple[str, str]:
    """A fresh secret, and the same sealed as it is kept."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(_BYTES)).decode("ascii")
    return secret, current_vault().seal(secret)
