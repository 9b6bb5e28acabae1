"""The form of a provider's settings: what its fields show, what comes back in them, and which of them a fault belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from webapp.contracts.errors import BadInput
from webapp.contracts.providers import Variable, VariableKind
from webapp.contracts.texts import clean
from webapp.routing import vendors
from webapp.routing.prices import Override
from webapp.services import provider_values
from webapp.services.providers import Change, ProviderView, VariableView

LIMITS = (
    ("requests_per_minute", "Calls a minute"),
    ("tokens_per_minute", "Tokens a minute"),
    ("concurrent", "Calls at the same time"),
)
PRICES = (
    ("input_usd", "Input"),
    ("output_usd", "Output"),
    ("cached_usd", "Cached input"),
    ("cache_write_usd", "Cache write"),
    ("picture_usd", "Picture"),
    ("credit_usd", "Credit"),
)
_PER_TOKENS = "$ per million tokens"
PRICE_UNITS = dict.fromkeys((key for key, _ in PRICES), _PER_TOKENS) | {
    "picture_usd": "$ per picture",
    "credit_usd": "$ per credit of the vendor",
}
_SPARE_ROWS = 2
_ROWS_MAX = 100
_VALUE_MAX = 4000
_SET_HERE, _ENVIRONMENT = "set here", "environment"


# -- the fields ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Field:
    """A variable as a field. `remover` is the name of its checkbox."""

    variable: Variable
    name: str
    label: str
    remover: str
    placeholder: str
    hint: str
    removable: bool
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LimitField:
    """A limit as a field; the placeholder says what counts while it is empty."""

    name: str
    label: str
    placeholder: str


@dataclass(slots=True)
class Form:
    """The settings of a provider as text in fields: from what is stored, or from what was typed."""

    view: ProviderView
    text: dict[str, str]
    ticked: set[str]
    rows: list[dict[str, str]]
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """What was typed into secret fields: never shown again."""
    faults: dict[str, str] = field(default_factory=dict)
    """Name of a field -> what is wrong with it."""

    @classmethod
    def of(cls, view: ProviderView) -> Form:
        """As it is stored."""
        text = {_name(v): _own(v) for v in view.variables if not v.variable.secret}
        text |= {f"limit-{name}": str(view.limits.get(name, "")) for name, _ in LIMITS}
        # The model that counts is a placeholder; only one that was chosen in the pages is a value.
        text["default_model"] = vendors.known().vendor(view.name).default_model
        text["peak"] = "vendor" if view.peak_hours_set is None else "own"
        text["peak_hours"] = view.peak_hours_set or ""
        rows = [{"model": model} | _amounts(price.as_json()) for model, price in view.prices.items()]
        return cls(view, text, {"enabled"} if view.enabled else set(), _with_spare(rows))

    @classmethod
    def read(cls, view: ProviderView, given: Mapping[str, str]) -> Form:
        """As it was typed; with faults where a number is none."""
        form = cls.of(view)
        for name in form.text:
            form.text[name] = clean(given.get(name, "")).strip()[:_VALUE_MAX]
        if form.text["peak_hours"] not in ("", view.peak_hours_set):
            # Who writes hours means them, whichever button was left pressed.
            form.text["peak"] = "own"
        secret = [v for v in view.variables if v.variable.secret]
        form.secrets = {v.variable.name: typed for v in secret if (typed := clean(given.get(_name(v), "")).strip())}
        form.ticked = {name for name in ("enabled", *(_remover(v) for v in view.variables)) if given.get(name)}
        form.rows = _with_spare([row for n in range(1, _ROWS_MAX + 1) if any((row := _row(given, n)).values())])
        form.faults = form._all_faults()
        return form

    @property
    def removed(self) -> list[str]:
        """The variables whose stored value is to go."""
        stored = [v for v in self.view.variables if v.source == _SET_HERE and _remover(v) in self.ticked]
        return [v.variable.name for v in stored]

    @property
    def secrets_lost(self) -> bool:
        """Whether something was typed that the page will not show again."""
        return bool(self.secrets)

    @property
    def fields(self) -> list[Field]:
        """The variables as fields."""
        return [_field(v) for v in self.view.variables]

    @property
    def limit_fields(self) -> list[LimitField]:
        """The limits as fields."""
        return [LimitField(f"limit-{name}", label, self._in_force(name)) for name, label in LIMITS]

    @property
    def faults_named(self) -> list[tuple[str, str, str]]:
        """The faults with their fields' names and what the page calls them."""
        labels = {"enabled": "Settings", "default_model": "Default model", "prices": "Prices", "peak_hours": "Peak hours"}
        labels |= {_name(v): _label(v) for v in self.view.variables}
        labels |= {f"limit-{name}": label for name, label in LIMITS}
        for n in range(1, len(self.rows) + 1):
            labels |= {f"price-{n}-{key}": f"{label}, row {n}" for key, label in (("model", "Model"), *PRICES)}
        return [(name, labels.get(name, name), words) for name, words in self.faults.items()]

    def change(self) -> Change:
        """What the service is asked for."""
        return Change(
            enabled="enabled" in self.ticked,
            default_model=self.text["default_model"],
            values=self._values(),
            limits={name: int(typed) if (typed := self.text[f"limit-{name}"]) else None for name, _ in LIMITS},
            prices=self._prices(),
            peak_hours=self.text["peak_hours"] if self.text["peak"] == "own" else provider_values.DEFAULT,
        )

    def _all_faults(self) -> dict[str, str]:
        """Every fault that can be seen without asking anybody, so that nobody has to mend them one by one."""
        found = {f"limit-{name}": _WHOLE for name, _ in LIMITS if not _whole(self.text[f"limit-{name}"])}
        seen: set[str] = set()
        for limit, _ in LIMITS:
            if (number := self.text[f"limit-{limit}"]) and _whole(number):
                _try(found, f"limit-{limit}", partial(provider_values.limit, limit, int(number)))
        changed = self._values()
        for v in self.view.variables:
            if value := changed.get(v.variable.name):
                _try(found, _name(v), partial(provider_values.checked, v.variable, value))
        if model := self.text["default_model"]:
            _try(found, "default_model", partial(provider_values.model, "default_model", model))
        for n, row in enumerate(self.rows, start=1):
            if any(row.values()):
                found |= {f"price-{n}-{name}": words for name, words in _row_faults(row, seen).items()}
                seen.add(row["model"])
        if self.text["peak"] == "own":
            _try(found, "peak_hours", partial(provider_values.hours, self.text["peak_hours"]))
        return found

    def blame(self, exc: BadInput) -> None:
        """Put a fault that the service found beside its field."""
        self.faults[self._field_of(exc.field)] = _beside(exc)

    def _values(self) -> dict[str, str | None]:
        """Only what was changed: a value that is shown without its password must not be stored as it is shown."""
        changed: dict[str, str | None] = {}
        for v in self.view.variables:
            name, typed = v.variable.name, self.secrets.get(v.variable.name, self.text.get(_name(v), ""))
            if v.source == _SET_HERE and _remover(v) in self.ticked:
                changed[name] = None
            elif v.variable.secret:
                if typed:
                    changed[name] = typed
            elif typed != _own(v):
                changed[name] = typed or None
        return changed

    def _prices(self) -> dict[str, Override | None]:
        """Only what was changed: a price keeps the day on which it was entered."""
        changed: dict[str, Override | None] = dict.fromkeys(self.view.prices)
        for row in self.rows:
            if not any(row.values()):
                continue
            old, new = self.view.prices.get(row["model"]), Override.read(_amounts(row))
            if old is not None and replace(old, as_of="") == new:
                del changed[row["model"]]
            else:
                changed[row["model"]] = new
        return changed

    def _in_force(self, name: str) -> str:
        if name in self.view.limits:
            return "as everywhere"
        return f"{limit:,}" if (limit := getattr(self.view.pace, name)) else "no limit"

    def _field_of(self, blamed: str) -> str:
        if any(blamed == v.variable.name for v in self.view.variables):
            return f"var-{blamed}"
        if any(blamed == name for name, _ in LIMITS):
            return f"limit-{blamed}"
        kind, _, model = blamed.partition(" ")
        if kind in ("price", "prices"):
            rows = [n for n, row in enumerate(self.rows, start=1) if model and row["model"] == model]
            return f"price-{rows[0]}-model" if rows else "prices"
        return blamed if blamed in ("default_model", "peak_hours") else "enabled"


_WHOLE = "Write a whole number, or leave it empty."


def _try(found: dict[str, str], name: str, check: Callable[[], object]) -> None:
    """Note the fault that a check raises, under a field's name."""
    try:
        check()
    except BadInput as exc:
        found[name] = _beside(exc)


def _name(v: VariableView) -> str:
    return f"var-{v.variable.name}"


def _label(v: VariableView) -> str:
    """What a variable is, in plain words: its meaning as the plugin tells it, without the marks of code."""
    return v.variable.meaning.rstrip(".").replace("`", "")


def _remover(v: VariableView) -> str:
    return f"remove-{v.variable.name}"


def _own(v: VariableView) -> str:
    """What was set in the pages, as its field has it. A flag that was switched off holds nothing."""
    if v.source == _SET_HERE and v.variable.kind is VariableKind.FLAG:
        return "1" if v.shown else "0"
    return v.shown if v.source == _SET_HERE and not v.variable.secret else ""


def _whole(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and len(text) <= 12)


def _row(given: Mapping[str, str], n: int) -> dict[str, str]:
    names = ("model", *(key for key, _ in PRICES))
    return {name: clean(given.get(f"price-{n}-{name}", "")).strip()[:120] for name in names}


def _row_faults(row: Mapping[str, str], seen: set[str]) -> dict[str, str]:
    """What is wrong with a row of prices, by column."""
    found: dict[str, str] = {}
    if not row["model"]:
        found["model"] = "Name the model, or write * for all of them."
    elif row["model"] in seen:
        found["model"] = f"There are two rows for {row['model']}."
    elif not any(row[key] for key, _ in PRICES):
        found["model"] = "Enter a price, or empty the row."
    elif row["model"] != "*":
        try:
            provider_values.model("price", row["model"])
        except BadInput as exc:
            found["model"] = _beside(exc)
    for key, _ in PRICES:
        try:
            Override.read({key: row[key]})
        except ValueError as exc:
            found[key] = _sentence(str(exc).removeprefix(f"{key}: "))
    return found


def _beside(exc: BadInput) -> str:
    """A fault as it stands beside its field, whose name it need not repeat."""
    words = exc.message.replace("`", "")
    for name in (exc.field, exc.field.replace("_", " ")):
        if name and words.lower().startswith(name.lower()):
            rest = words[len(name) :]
            words = f"It{rest}" if rest.startswith(" ") else rest.lstrip(" :")
            break
    return _sentence(words)


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def _amounts(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(row.get(key, "")) for key, _ in PRICES}


def _with_spare(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    empty = {"model": ""} | _amounts({})
    return rows + [dict(empty) for _ in range(_SPARE_ROWS)]


def _field(v: VariableView) -> Field:
    options = tuple((value, value) for value in v.variable.choices if value)
    if v.variable.kind is VariableKind.FLAG:
        options = (("1", "On"), ("0", "Off"))
    return Field(v.variable, _name(v), _label(v), _remover(v), _placeholder(v), _hint(v), _removable(v), options)


def _removable(v: VariableView) -> bool:
    """An ordinary value is removed by emptying its field; a secret's field is always empty."""
    return v.source == _SET_HERE and v.variable.secret


def _placeholder(v: VariableView) -> str:
    if v.variable.secret:
        if v.source == "nothing":
            return "not set"
        ends = f", ends in {v.shown}" if v.shown else ""
        return f"set{ends}" if v.source == _SET_HERE else f"from the environment{ends}"
    if v.source == _ENVIRONMENT:
        return f"{v.shown} (from the environment)"
    return v.variable.default


def _hint(v: VariableView) -> str:
    if v.source == _SET_HERE:
        if v.variable.secret:
            return f"set{f', ends in {v.shown}' if v.shown else ''}. Leave the field empty to keep it."
        return "set here. Empty the field to go back to the environment or the default."
    if v.source == _ENVIRONMENT:
        ends = f", ends in {v.shown}" if v.variable.secret and v.shown else ""
        return f"set in the environment{ends}. What you enter here goes before it."
    if v.variable.default:
        return f"default: {v.variable.default}"
    return "not set"
