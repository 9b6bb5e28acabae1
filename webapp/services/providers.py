"""What administrators do with providers: look at them, set them up, try them. The work is in three modules beside this one."""

from __future__ import annotations

from webapp.services.provider_changes import Change, change, reset
from webapp.services.provider_trial import Tested, models, test
from webapp.services.provider_views import Live, ProviderView, VariableView, overview, show

__all__ = [
    "Change",
    "Live",
    "ProviderView",
    "Tested",
    "VariableView",
    "change",
    "models",
    "overview",
    "reset",
    "show",
    "test",
]
