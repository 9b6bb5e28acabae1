"""Sorts requests by the words in them: quick, deterministic, in English. A surer categorizer overrules it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import NamedTuple

from webapp.plugin import Categorizer, Sorting, hookimpl

READ_CHARS = 8000
"""Only so much of a request is looked at: what it is about shows early, and a long paste must cost no more."""

GENERAL = "general"
_GENERAL_CONFIDENCE = 0.3
_ENOUGH = 1.0

_LANGUAGES = r"python|javascript|typescript|java|golang|rust|kotlin|swift|c\+\+|c#|php|ruby|bash|sql|html|css"


class Rule(NamedTuple):
    """A pattern and what it weighs. It counts once for each different match, three at most. `words` are such that each match
    has one of them as a word of its own: a text without them need not be searched."""

    weight: float
    pattern: str
    words: str


RULES: dict[str, tuple[Rule, ...]] = {
    "coding": (
        Rule(
            1.0,
            rf"\b(?:{_LANGUAGES})(?!\w)",
            "python javascript typescript java golang rust kotlin swift c php ruby bash sql html css",
        ),
        Rule(
            1.0,
            r"\b(?:write|implement|code|program|refactor)\b(?=.{0,60}\b(?:function|class|method|script|program|code|test))",
            "write implement code program refactor",
        ),
        Rule(
            0.5,
            r"\b(?:function|class|method|script|algorithm|regex|loop|array|recursion|endpoint|unit tests?|refactor)\b",
            "function class method script algorithm regex loop array recursion endpoint unit refactor",
        ),
        Rule(
            0.7,
            r"\b(?:code|coding|programming|compiler?|git|api|json)\b",
            "code coding programming compile compiler git api json",
        ),
        Rule(1.0, r"```", "```"),
        Rule(
            0.8,
            r"\b(?:def|import|return|const|let|var|public|void|select)\b[^.?!]*[(={;*]",
            "def import return const let var public void select",
        ),
    ),
    "debug": (
        Rule(
            2.5,
            r"\btraceback\b|\bstack ?trace\b|(?-i:\b[A-Z]\w+(?:Error|Exception)\b)|\bsegmentation fault\b|\bsegfault\b",
            "traceback stack stacktrace segmentation segfault Error Exception",
        ),
        Rule(
            1.7,
            r"\b(?:debug|debugging|bugs?|exceptions?|crash(?:es|ed|ing)?)\b",
            "debug debugging bug bugs exception exceptions crash crashes crashed crashing",
        ),
        Rule(
            1.7,
            r"\b(?:does ?n[o']t|doesnt|is ?n[o']t|isnt|not|stopped) work(?:ing)?\b",
            "work working",
        ),
        Rule(
            1.2,
            r"\b(?:errors?|fail(?:s|ed|ing|ure)?|broken|undefined|null pointer|deadlocks?|memory leak)\b",
            "error errors fail fails failed failing failure broken undefined pointer deadlock deadlocks leak",
        ),
        Rule(0.7, r"\b(?:fix|wrong|troubleshoot|unexpected)\b", "fix wrong troubleshoot unexpected"),
    ),
    "design": (
        Rule(
            1.7,
            r"\b(?:system design|architecture|architect|data ?model|wireframes?|mock-?ups?|prototype)\b",
            "system architecture architect model datamodel wireframe wireframes mock mockup mockups prototype",
        ),
        Rule(
            1.7,
            r"\b(?:user interface|user experience|ui|ux|layout|logo|colou?r (?:palette|scheme)s?|typography)\b",
            "interface experience ui ux layout logo color colour typography",
        ),
        Rule(1.5, r"\b(?:design|designing|redesign)\b", "design designing redesign"),
        Rule(
            0.7,
            r"\b(?:schema|diagram|component|landing page|brand(?:ing)?|style guide)\b",
            "schema diagram component landing brand branding style",
        ),
    ),
    "documentation": (
        Rule(
            3.0,
            r"\b(?:documentation|docstrings?|readme|change ?log|release notes|user guide|user manual|api reference)\b",
            "documentation docstring docstrings readme log changelog notes guide manual reference",
        ),
        Rule(1.7, r"\bdocument (?:this|the|my|our|these|how)\b|\bdocs\b", "document docs"),
        Rule(
            1.0,
            r"\b(?:tutorial|how-to guide|manual|code comments|glossary)\b",
            "tutorial guide manual comments glossary",
        ),
    ),
    "analysis": (
        Rule(
            1.7,
            r"\b(?:analy[sz](?:e|es|ing)|analysis|analytics)\b",
            "analyse analyze analyses analyzes analysing analyzing analysis analytics",
        ),
        Rule(
            1.7,
            r"\b(?:pros and cons|trade-?offs?|swot|cost[- ]benefit|root cause)\b",
            "cons trade tradeoff tradeoffs swot benefit cause",
        ),
        Rule(
            1.5,
            r"\b(?:compare|comparison|evaluate|assess|versus)\b",
            "compare comparison evaluate assess versus",
        ),
        Rule(
            0.8,
            r"\b(?:trends?|statistics?|statistical|forecast|correlation|metrics|data ?set|spreadsheet|insights?)\b",
            "trend trends statistic statistics statistical forecast correlation metrics set dataset spreadsheet insight"
            " insights",
        ),
        Rule(
            0.7,
            r"\b(?:summari[sz]e|interpret|estimate|review)\b",
            "summarise summarize interpret estimate review",
        ),
    ),
}
HARD = Rule(
    0.10,
    r"\b(?:compare|prove|proof|derive|optimi[sz]e|trade-?offs?|architecture|step by step|in detail|comprehensive"
    r"|thorough|concurren(?:t|cy)|distributed|scal(?:e|able|ability)|complexity|rigorous|evaluate|migrat(?:e|ion))\b",
    "compare prove proof derive optimise optimize trade tradeoff tradeoffs architecture step detail comprehensive thorough"
    " concurrent concurrency distributed scale scalable scalability complexity rigorous evaluate migrate migration",
)
_HARD = re.compile(HARD.pattern, re.IGNORECASE)
_HARD_WORDS = frozenset(HARD.words.split())
_ITEM = re.compile(r"^\s*(?:[-*]|\d+[.)])\s", re.MULTILINE)

_COMPILED = [
    (category, rule.weight, re.compile(rule.pattern, re.IGNORECASE)) for category, rules in RULES.items() for rule in rules
]
_BY_WORD: dict[str, list[int]] = {}
"""Which rules a word calls for, by their places in `_COMPILED`."""
for _place, _rule in enumerate(rule for rules in RULES.values() for rule in rules):
    for _word in _rule.words.split():
        _BY_WORD.setdefault(_word, []).append(_place)
_TELLING = frozenset(_BY_WORD) | _HARD_WORDS
_INSIDE = ("```", "Error", "Exception")
"""What tells of a rule wherever it stands: it may be no word of its own."""
_WORD = re.compile(r"\w+")
# The letters beyond ASCII that a pattern which ignores case takes for those of ASCII.
_SAME_LETTERS = str.maketrans("\u0130\u0131\u017f\u212a", "iisk")


class Keywords(Categorizer):
    """Counts telling words. Unsure of `general`, surer the more words speak for one category and against the others."""

    name = "keywords"

    def sort(self, text: str) -> Sorting:
        """An opinion about any text, the empty one included."""
        read = text[:READ_CHARS]
        words = _telling(read)
        demand = complexity(text, words)
        if not words:
            return Sorting(GENERAL, _GENERAL_CONFIDENCE, demand)
        ranked = sorted(_scores(read, words).items(), key=lambda s: (-s[1], s[0]))
        (category, best), (_, second) = ranked[:2]
        if best < _ENOUGH:
            return Sorting(GENERAL, _GENERAL_CONFIDENCE, demand)
        strength, margin = 1 - 0.5**best, (best - second) / best
        return Sorting(category, round(0.3 + 0.65 * strength * (0.4 + 0.6 * margin), 3), demand)


def _telling(read: str) -> set[str]:
    """The words of a text that rules go by: without any there is nothing to search for."""
    plain = read if read.isascii() else read.translate(_SAME_LETTERS)
    words = set(_WORD.findall(plain.lower())) & _TELLING
    for inside in _INSIDE:
        if inside in read:
            words.add(inside)
    return words


def _scores(read: str, words: set[str]) -> dict[str, float]:
    """What speaks for each category. Only rules that the words call for are searched, in the rules' own order."""
    scores = dict.fromkeys(RULES, 0.0)
    for place in sorted({place for word in words for place in _BY_WORD.get(word, ())}):
        category, weight, pattern = _COMPILED[place]
        scores[category] += weight * min(3, len({m.group().lower() for m in pattern.finditer(read)}))
    return scores


def complexity(text: str, words: Set[str] | None = None) -> float:
    """How much a request asks for, 0 to 1: its length (a third), questions, code, list items and demanding words. `words` are
    those of the text that rules go by, where they are known."""
    read = text[:READ_CHARS]
    words = _telling(read) if words is None else words
    questions = max(0, min(3, read.count("?") - 1)) if "?" in read else 0
    demanding = 0
    if words and not _HARD_WORDS.isdisjoint(words):
        demanding = min(3, len({m.group().lower() for m in _HARD.finditer(read)}))
    # The only line of a text can be one item itself, and is looked at once.
    items = min(5, len(_ITEM.findall(read))) if "\n" in read else int(_ITEM.match(read) is not None)
    parts = (
        0.35 * min(1.0, len(text) / 2000),
        0.05 * questions,
        0.15 * ("```" in read),
        HARD.weight * demanding,
        0.02 * items,
    )
    return round(min(1.0, sum(parts)), 3)


@hookimpl
def register_categorizers(settings: Mapping[str, str]) -> list[Categorizer]:  # noqa: ARG001 - it has no settings
    """The keyword rules."""
    return [Keywords()]
