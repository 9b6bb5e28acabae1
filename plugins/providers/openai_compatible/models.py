"""What is known of the vendors' models, as data: the first pattern that fits a model's name tells.

Sources: the vendors' documentation and published price tables, November 2026. A figure that is missing here is unknown, and
what a model refuses although nothing here says so is learned from its first refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.plugin import Capability, ModelInfo

TEXT_ONLY: frozenset[Capability] = frozenset()
JSON_AND_TOOLS = frozenset({Capability.JSON, Capability.TOOLS})
SEES = frozenset({Capability.VISION, Capability.JSON, Capability.TOOLS})


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the models whose whole name `pattern` describes (a regular expression)."""

    pattern: str
    context_tokens: int | None = None
    output_tokens: int | None = None
    capabilities: frozenset[Capability] | None = None
    sampling: bool | None = None
    """Whether it takes `temperature`, `top_p` and `stop`. None: unknown, they are sent and its refusal is remembered."""
    note: str = ""

    def fits(self, model: str) -> bool:
        """Whether this is about `model`."""
        return re.fullmatch(self.pattern, model) is not None

    def info(self, model: str) -> ModelInfo:
        """The same for the core."""
        return ModelInfo(model, "", self.context_tokens, self.output_tokens, self.capabilities, self.note)


NOTHING = Known(".*")
_DATED = r"(-\d{4}-\d\d-\d\d|-latest)?"  # a dated snapshot is the same model

# Reasoning models take a temperature only where their effort is `none` by default: gpt-5.1, 5.2 and 5.4.
OPENAI = (
    Known(r"gpt-(6|6\.1|5\.6)(-[a-z]+)?" + _DATED, 922_000, 128_000, SEES, sampling=False),
    Known(r"gpt-5\.[124](-mini)?" + _DATED, 272_000, 128_000, SEES, sampling=True),
    Known(r"gpt-5-mini" + _DATED, 272_000, 128_000, SEES, sampling=False, note="Switched off on 2026-12-11."),
    Known(r"gpt-5(\.\d)?(-[a-z]+)*" + _DATED, 272_000, 128_000, SEES, sampling=False),
    Known(r"gpt-4\.1(-mini|-nano)?" + _DATED, 1_047_576, 32_768, SEES, sampling=True),
    Known(r"gpt-4o(-mini)?" + _DATED, 128_000, 16_384, SEES, sampling=True),
    Known(r"o\d(-[a-z]+)*" + _DATED, sampling=False),
    Known(r"gpt-([6-9]|\d\d).*", sampling=False),
)

DEEPSEEK = (
    Known(r"deepseek-(v\d(\.\d)?-)?flash", 1_000_000, 384_000, SEES, sampling=True),
    Known(r"deepseek-v4-pro", 1_000_000, 384_000, JSON_AND_TOOLS, sampling=True),
    Known(r"deepseek-(chat|reasoner)", capabilities=JSON_AND_TOOLS, note="Switched off on 2026-07-24: use deepseek-flash."),
)

GROQ = (Known(r"openai/gpt-oss-\d+b", capabilities=JSON_AND_TOOLS),)

OPENROUTER = tuple(
    Known(f"{author}/(?:{known.pattern})", known.context_tokens, known.output_tokens, known.capabilities, None, known.note)
    for author, vendor in (("openai", OPENAI), ("deepseek", DEEPSEEK))
    for known in vendor
)


def known_of(catalog: tuple[Known, ...], model: str) -> Known:
    """What `catalog` tells of a model; a `Known` without content where it tells nothing."""
    return next((known for known in catalog if known.fits(model)), NOTHING)
