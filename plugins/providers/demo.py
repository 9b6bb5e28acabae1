"""A provider without a model: it lets a new installation run whole, and says in every answer that it is no model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from webapp.plugin import (
    Capability,
    Finish,
    Health,
    ModelInfo,
    Role,
    Text,
    TextCall,
    TextProvider,
    TimedOut,
    Usage,
    Variable,
    VariableKind,
    clean,
    hookimpl,
)

if TYPE_CHECKING:
    import httpx

DELAY_VARIABLE = "SWITCHHOOK_DEMO_DELAY_MS"
DEFAULT_DELAY_MS = 15
MAX_DELAY_MS = 5000

NOTICE = (
    "This is the demo provider, not a model: for real answers set OPENAI_API_KEY in .env and restart, "
    "or run Ollama on this machine."
)
_REVERSE = """To reverse a list in Python:

```python
numbers = [1, 2, 3]
print(numbers[::-1])  # a new list: [3, 2, 1]
numbers.reverse()     # in place
```"""
_CODE = """A code block looks like this:

```python
def greet(name: str) -> str:
    return f"Hello, {name}!"
```"""
_TABLE = """A table looks like this:

| | tea | coffee |
|---|---|---|
| caffeine in a cup | about 45 mg | about 95 mg |
| time to brew | 3 to 5 minutes | 4 minutes |
| water | 70 to 100 °C | 92 to 96 °C |"""
_LIST = """A list looks like this:

1. Ask a question.
2. Read the answer as it comes.
3. See in Settings what you have used."""
_ANYTHING = """A model would answer here. Until there is one, try:

- *reverse a list in Python*
- *show me a table*
- *list the steps*"""

_SAMPLES = (
    (re.compile(r"\brevers\w*\b.*\blist\b|\blist\b.*\brevers", re.I | re.S), _REVERSE),
    (re.compile(r"\btables?\b|\bcompar", re.I), _TABLE),
    (re.compile(r"\bcode\b|\bpython\b|\bfunctions?\b|\bscript\b|\bprogram", re.I), _CODE),
    (re.compile(r"\blists?\b|\bsteps?\b|\bhow (do|to|can)\b", re.I), _LIST),
)
_WORDS = re.compile(r"\s*\S+")
_TOPIC_CHARS = 100
_DEEPEST_SAMPLE = 8


class DemoProvider(TextProvider):
    """Answers from a few fixed texts, word by word. Deterministic; bills nobody; a token is a word."""

    name = "demo"
    label = "Demo"
    default_model = "demo"
    free_of_charge = True
    demo = True
    preference = 1000
    environment = (
        Variable(
            DELAY_VARIABLE,
            "Milliseconds between two words of a demo answer, 0 to 5000.",
            default=str(DEFAULT_DELAY_MS),
            kind=VariableKind.NUMBER,
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = settings.get(DELAY_VARIABLE, "").strip() or str(DEFAULT_DELAY_MS)
        self._valid = given.isascii() and given.isdigit() and len(given) < 5 and int(given) <= MAX_DELAY_MS
        self._delay_s = int(given) / 1000 if self._valid else 0.0

    def missing(self) -> str:
        """Nothing, unless the one setting is wrong."""
        return "" if self._valid else f"{DELAY_VARIABLE} is not a whole number from 0 to {MAX_DELAY_MS}"

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:  # noqa: ARG002 - it calls nobody
        """Yield the answer to the last turn word by word, no more of it than `max_output_tokens` words."""
        deadline = time.monotonic() + call.timeout_s
        words = _WORDS.findall(self._answer(call))
        finish = Finish.STOP if len(words) <= call.max_output_tokens else Finish.LENGTH
        words = words[: call.max_output_tokens]
        for word in words:
            if self._delay_s:
                if time.monotonic() + self._delay_s > deadline:
                    raise TimedOut("The demo did not answer in time.")
                time.sleep(self._delay_s)
            yield Text(word)
        yield Usage(
            input_tokens=sum(len(turn.text.split()) for turn in call.turns),
            output_tokens=len(words),
            finish=finish,
            model=self.default_model,
            vendor_request_id=f"demo-{call.request_id}",
        )

    def _answer(self, call: TextCall) -> str:
        if call.output is not None:
            return json.dumps(sample_of(call.output.schema or _ANY_OBJECT), ensure_ascii=False)
        return answer_to(last_prompt(call), sum(len(turn.pictures) for turn in call.turns))

    def model_info(self, model: str) -> ModelInfo:
        """It takes all that people may bring, so that every page can be tried; it calls no tools."""
        able = frozenset({Capability.VISION, Capability.JSON})
        return ModelInfo(model, self.label, capabilities=able, note="Not a model: fixed texts.")

    def models(self, http: httpx.Client) -> list[ModelInfo]:  # noqa: ARG002
        """The one there is."""
        return [self.model_info(self.default_model)]

    def check(self, http: httpx.Client) -> Health:  # noqa: ARG002
        """Always there, but no substitute for a model."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Mend or remove it, then restart.")
        return Health(True, "The demo answers; it is no model.")


def last_prompt(call: TextCall) -> str:
    """What the person said last."""
    return next((turn.text for turn in reversed(call.turns) if turn.role is Role.USER), "")


def answer_to(prompt: str, pictures: int = 0) -> str:
    """The demo's answer: what it is, what it was asked, and a sample that suits the question. Always the same."""
    sample = next((sample for pattern, sample in _SAMPLES if pattern.search(prompt)), _ANYTHING)
    topic = " ".join(clean(prompt).split())
    if len(topic) > _TOPIC_CHARS:
        topic = topic[: _TOPIC_CHARS - 1].rstrip() + "…"
    asked = f"You asked: “{topic}”\n\n" if topic else ""
    if pictures:
        asked += f"You sent {pictures} picture{'s' if pictures > 1 else ''}, which the demo cannot look at.\n\n"
    return f"{NOTICE}\n\n{asked}{sample}"


_ANY_OBJECT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}


def sample_of(schema: object, depth: int = _DEEPEST_SAMPLE) -> Any:
    """The simplest value of a JSON Schema, with the demo's notice for every text. What it does not know of schemas, such as
    patterns and references, it does not obey."""
    if not isinstance(schema, Mapping) or depth <= 0:
        return NOTICE
    if "const" in schema:
        return schema["const"]
    for choices in (schema.get("enum"), schema.get("examples")):
        if isinstance(choices, list) and choices:
            return choices[0]
    for parts in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(parts, list) and parts:
            return sample_of(parts[0], depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties")
        inside = properties.items() if isinstance(properties, Mapping) else ()
        return {name: sample_of(part, depth - 1) for name, part in inside}
    if kind == "array":
        least = schema.get("minItems", 1)
        # Lists inside lists would grow without bound.
        count = min(least, 10) if isinstance(least, int) and depth > _DEEPEST_SAMPLE - 2 else 1
        return [sample_of(schema.get("items", {}), depth - 1) for _ in range(count)]
    if kind in ("integer", "number"):
        least = schema.get("minimum", 0)
        return least if isinstance(least, int | float) and not isinstance(least, bool) else 0
    if kind == "string":
        most = schema.get("maxLength")
        return NOTICE[:most] if isinstance(most, int) and most >= 0 else NOTICE
    return False if kind == "boolean" else None


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """The demo, which serves where nothing else is ready."""
    return [DemoProvider(settings)]
