"""Sorts requests by the words in them: quick, deterministic, in English. A surer categorizer overrules it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from webapp.plugin import Categorizer, Sorting, hookimpl

READ_CHARS = 8000
"""Only so much of a request is looked at: what it is about shows early, and a long paste must cost no more."""

GENERAL = "general"
_GENERAL_CONFIDENCE = 0.3
_ENOUGH = 1.0

_LANGUAGES = r"python|javascript|typescript|java|golang|rust|kotlin|swift|c\+\+|c#|php|ruby|bash|sql|html|css"

# Weight and pattern. A pattern counts once for each different match, three at most.
_RULES: dict[str, tuple[tuple[float, str], ...]] = {
    "coding": (
        (1.0, rf"\b(?:{_LANGUAGES})(?!\w)"),
        (
            1.0,
            r"\b(?:write|implement|code|program|refactor)\b(?=.{0,60}\b(?:function|class|method|script|program|code|test))",
        ),
        (
            0.5,
            r"\b(?:function|class|method|script|algorithm|regex|loop|array|recursion|endpoint|unit tests?|refactor)\b",
        ),
        (0.7, r"\b(?:code|coding|programming|compiler?|git|api|json)\b"),
        (1.0, r"```"),
        (0.8, r"\b(?:def|import|return|const|let|var|public|void|select)\b[^.?!]*[(={;*]"),
    ),
    "debug": (
        (
            2.5,
            r"\btraceback\b|\bstack ?trace\b|(?-i:\b[A-Z]\w+(?:Error|Exception)\b)|\bsegmentation fault\b|\bsegfault\b",
        ),
        (1.7, r"\b(?:debug|debugging|bugs?|exceptions?|crash(?:es|ed|ing)?)\b"),
        (1.7, r"\b(?:does ?n[o']t|doesnt|is ?n[o']t|isnt|not|stopped) work(?:ing)?\b"),
        (1.2, r"\b(?:errors?|fail(?:s|ed|ing|ure)?|broken|undefined|null pointer|deadlocks?|memory leak)\b"),
        (0.7, r"\b(?:fix|wrong|troubleshoot|unexpected)\b"),
    ),
    "design": (
        (1.7, r"\b(?:system design|architecture|architect|data ?model|wireframes?|mock-?ups?|prototype)\b"),
        (1.7, r"\b(?:user interface|user experience|ui|ux|layout|logo|colou?r (?:palette|scheme)s?|typography)\b"),
        (1.5, r"\b(?:design|designing|redesign)\b"),
        (0.7, r"\b(?:schema|diagram|component|landing page|brand(?:ing)?|style guide)\b"),
    ),
    "documentation": (
        (
            3.0,
            r"\b(?:documentation|docstrings?|readme|change ?log|release notes|user guide|user manual|api reference)\b",
        ),
        (1.7, r"\bdocument (?:this|the|my|our|these|how)\b|\bdocs\b"),
        (1.0, r"\b(?:tutorial|how-to guide|manual|code comments|glossary)\b"),
    ),
    "analysis": (
        (1.7, r"\b(?:analy[sz](?:e|es|ing)|analysis|analytics)\b"),
        (1.7, r"\b(?:pros and cons|trade-?offs?|swot|cost[- ]benefit|root cause)\b"),
        (1.5, r"\b(?:compare|comparison|evaluate|assess|versus)\b"),
        (0.8, r"\b(?:trends?|statistics?|statistical|forecast|correlation|metrics|data ?set|spreadsheet|insights?)\b"),
        (0.7, r"\b(?:summari[sz]e|interpret|estimate|review)\b"),
    ),
}
_COMPILED = {
    category: [(weight, re.compile(pattern, re.IGNORECASE)) for weight, pattern in rules] for category, rules in _RULES.items()
}
_HARD = re.compile(
    r"\b(?:compare|prove|proof|derive|optimi[sz]e|trade-?offs?|architecture|step by step|in detail|comprehensive"
    r"|thorough|concurren(?:t|cy)|distributed|scal(?:e|able|ability)|complexity|rigorous|evaluate|migrat(?:e|ion))\b",
    re.IGNORECASE,
)
_ITEM = re.compile(r"^\s*(?:[-*]|\d+[.)])\s", re.MULTILINE)


class Keywords(Categorizer):
    """Counts telling words. Unsure of `general`, surer the more words speak for one category and against the others."""

    name = "keywords"

    def sort(self, text: str) -> Sorting:
        """An opinion about any text, the empty one included."""
        read = text[:READ_CHARS]
        ranked = sorted(((_score(read, rules), name) for name, rules in _COMPILED.items()), key=lambda s: (-s[0], s[1]))
        (best, category), (second, _) = ranked[:2]
        if best < _ENOUGH:
            return Sorting(GENERAL, _GENERAL_CONFIDENCE, complexity(text))
        strength, margin = 1 - 0.5**best, (best - second) / best
        return Sorting(category, round(0.3 + 0.65 * strength * (0.4 + 0.6 * margin), 3), complexity(text))


def _score(text: str, rules: list[tuple[float, re.Pattern[str]]]) -> float:
    return sum(weight * min(3, len({m.group().lower() for m in pattern.finditer(text)})) for weight, pattern in rules)


def complexity(text: str) -> float:
    """How much a request asks for, 0 to 1: its length (a third), questions, code, list items and demanding words."""
    read = text[:READ_CHARS]
    parts = (
        0.35 * min(1.0, len(text) / 2000),
        0.05 * min(3, max(0, read.count("?") - 1)),
        0.15 * min(1, read.count("```")),
        0.10 * min(3, len({m.group().lower() for m in _HARD.finditer(read)})),
        0.02 * min(5, len(_ITEM.findall(read))),
    )
    return round(min(1.0, sum(parts)), 3)


@hookimpl
def register_categorizers(settings: Mapping[str, str]) -> list[Categorizer]:  # noqa: ARG001 - it has no settings
    """The keyword rules."""
    return [Keywords()]
