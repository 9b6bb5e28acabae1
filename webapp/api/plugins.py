"""The plugins for programs of administrators."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response
from pydantic import Field

from webapp.api import access
from webapp.api.base import ApiModel, answer, area
from webapp.models import PersonRole
from webapp.services import plugins

blueprint = area("plugins", "Plugins", "What is plugged in. For administrators of the installation.")


class PluginItem(ApiModel):
    """A plugin."""

    name: str
    source: str = Field(description="built-in, entry point, or folder.")
    version: str = Field(description="Of the package that it was installed with; empty for the others.")
    loaded: bool = Field(description="False where it is left out.")
    hooks: list[str] = Field(description="The hooks that it implements.")
    gives: dict[str, list[str]] = Field(description="What it registered, by kind: providers, channels, quota_policies…")
    fault: str = Field(description="Why it is left out, or what of it does not work; empty where all does.")


class PluginList(ApiModel):
    """All plugins of the process that answers."""

    items: list[PluginItem]


@blueprint.get("/plugins", summary="List plugins", responses={200: PluginList})
@access.opens("admin", role=PersonRole.ADMIN)
def list_plugins() -> Response:
    """Those that are loaded, in that order, and those that are left out, each with the reason."""
    return answer(PluginList(items=[PluginItem(**asdict(each)) for each in plugins.plugins()]))
