"""The models that a server has, as it lists and describes them. Pure functions, no I/O.

Source: `GET /api/tags` and `POST /api/show`, August 2026. Older servers list no capabilities: then only the description
of each model tells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.plugin import Capability, ModelInfo, token_count

_NAME_CHARS = 200
_MODELS = 2000
# What a server lists beside chat models, where it does not tell what each can do.
_NOT_FOR_CHAT = ("embed", "rerank", "whisper", "tts", "moderation", "dall-e", "image", "bge-", "minilm")


@dataclass(frozen=True, slots=True)
class Installed:
    """A model of the list. None means that the server did not say."""

    name: str
    digest: str = ""
    label: str = ""
    host: str = ""
    """Where it really runs, '' for the server itself."""
    abilities: frozenset[str] | None = None
    context: int | None = None

    @property
    def can_chat(self) -> bool:
        """Whether it is for conversation; judged by its name where the server does not tell."""
        if self.abilities is not None:
            return "completion" in self.abilities
        return not any(word in self.name.lower() for word in _NOT_FOR_CHAT)

    @property
    def info(self) -> ModelInfo:
        """What the core wants to know of it."""
        can: frozenset[Capability] | None = None
        if self.abilities is not None:
            # `format` is a matter of the server, not of the model.
            named = {"vision": Capability.VISION, "tools": Capability.TOOLS}
            can = frozenset({Capability.JSON, *(able for word, able in named.items() if word in self.abilities)})
        note = f"Runs at {self.host}, not on your own machine." if self.host else ""
        return ModelInfo(self.name, label=self.label, context_tokens=self.context, capabilities=can, note=note)


def read_tags(payload: object) -> list[Installed] | None:
    """The models of a list, in the server's order; None if it is no list."""
    entries = payload.get("models") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        return None
    found = [_entry(entry) for entry in entries[:_MODELS] if isinstance(entry, dict)]
    return [entry for entry in found if entry is not None]


def _entry(entry: Mapping[str, Any]) -> Installed | None:
    name = _line(entry.get("name")) or _line(entry.get("model"))
    if not name:
        return None
    details = entry.get("details")
    details = details if isinstance(details, dict) else {}
    size = ", ".join(part for key in ("parameter_size", "quantization_level") if (part := _line(details.get(key))))
    return Installed(
        name=name,
        digest=_line(entry.get("digest")),
        label=f"{name} ({size})" if size else name,
        host=_line(entry.get("remote_host")),
        abilities=_abilities(entry),
        context=token_count(details.get("context_length")) or None,
    )


def read_show(payload: object) -> tuple[frozenset[str] | None, int | None]:
    """Capabilities and context in tokens from the description of a model; None for what it does not tell."""
    if not isinstance(payload, dict):
        return None, None
    about = payload.get("model_info")
    about = about if isinstance(about, dict) else {}
    family = about.get("general.architecture")
    context = token_count(about.get(f"{family}.context_length")) if isinstance(family, str) else None
    return _abilities(payload), context or None


def same_name(name: str) -> str:
    """A model's name as the server compares it: without the tag that it adds by itself.

    >>> same_name("Llama3.2:latest") == same_name("llama3.2")
    True
    """
    return name.strip().lower().removesuffix(":latest")


def runs_elsewhere(name: str) -> bool:
    """Whether a model is of Ollama's own cloud, which serves it through a server that does not have it."""
    return name.strip().lower().endswith(("-cloud", ":cloud"))


def _abilities(entry: Mapping[str, Any]) -> frozenset[str] | None:
    told = entry.get("capabilities")
    return frozenset(word for word in told[:50] if isinstance(word, str)) if isinstance(told, list) and told else None


def _line(value: object) -> str:
    """A short, printable text from outside; '' for anything else."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= _NAME_CHARS else ""
