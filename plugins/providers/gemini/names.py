"""Gemini's models by their names: how a name goes into a path, and what is known of a model without asking.

Source: Google's documentation and a price list of November 2026.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from webapp.plugin import Capability, ModelInfo, Rejected

_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?-")
_INPUT_TOKENS = 1_048_576
_OUTPUT_TOKENS = 65_536
_ABLE = frozenset({Capability.VISION, Capability.JSON, Capability.TOOLS})
_NOTES = {"gemini-2.5-flash-image": "It is switched off on 2027-03-15."}
# These answer `generateContent` too, but with sound or after a conversation of another kind.
_NOT_TEXT = ("tts", "-audio", "-live", "embedding")


def bare(model: str) -> str:
    """A model's name without the `models/` that Google's lists put before it."""
    return model.strip().removeprefix("models/")


def path_of(label: str, model: str) -> str:
    """The place of a model, named without `models/`, under the base URL. Raises `Rejected` for a name that could lead
    elsewhere."""
    if not model or len(model) > 200 or ".." in model or not model.isprintable() or any(c in model for c in "/\\"):
        raise Rejected(f"This is not the name of a model at {label}.", detail=f"the model's name is {model[:100]!r}")
    return f"/models/{quote(model, safe='')}"


def draws(model: str) -> bool:
    """Whether the model makes pictures, by its name."""
    return "image" in model or "nano-banana" in model


def writes(model: str) -> bool:
    """Whether the model's answers are texts, by its name."""
    return not draws(model) and not any(word in model for word in _NOT_TEXT)


def version(model: str) -> tuple[int, int] | None:
    """(3, 5) for `gemini-3.5-flash`, None where the name holds no version."""
    found = _VERSION.match(bare(model))
    return (int(found[1]), int(found[2] or 0)) if found else None


def takes_temperature(model: str) -> bool:
    """Gemini 3 and later want their own value or refuse any. Names without a version are of the newest ones."""
    number = version(model)
    return number < (3, 0) if number else not bare(model).startswith("gemini-")


def thinking(model: str) -> dict[str, object] | None:
    """The least thinking that the model allows, because thoughts count towards the cap of a short answer.

    None where the model does not think or nothing is known of it.
    """
    name, number = bare(model), version(model)
    if number == (2, 5):
        # 2.5 Pro cannot be kept from thinking; this is its least.
        return {"thinkingBudget": 0 if "flash" in name else 128}
    if number is not None and number < (3, 0):
        return None
    if not name.startswith("gemini-"):
        return None
    return {"thinkingLevel": "MINIMAL" if "flash-lite" in name else "LOW"}


def signs_tool_calls(model: str) -> bool:
    """Gemini 3 and later want the signature of a thought with each step of tool calls. Names without a version are of the
    newest ones."""
    number = version(model)
    return number >= (3, 0) if number else bare(model).startswith("gemini-")


def takes_image_size(model: str) -> bool:
    """Gemini 2 draws in one size only."""
    number = version(model)
    return number is None or number >= (3, 0)


def known(model: str) -> ModelInfo:
    """What is known of a model by its name alone."""
    name, number = bare(model), version(model)
    if draws(name) or not writes(name):
        return ModelInfo(name, note=_NOTES.get(name, ""))
    if number is None or number < (2, 5):
        return ModelInfo(name, capabilities=_ABLE if name.startswith("gemini-") else None)
    # Sources disagree about how much version 4 writes.
    return ModelInfo(
        name,
        context_tokens=_INPUT_TOKENS,
        output_tokens=_OUTPUT_TOKENS if number < (4, 0) else None,
        capabilities=_ABLE,
    )
