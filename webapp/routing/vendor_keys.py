"""The secrets of providers: which of the environment's a plugin may have, and how all are taken out of what vendors say.

Whoever may set an address in the pages must not thereby get a key that the operator put into the environment: it goes to the
addresses that the operator named, and to the plugin's own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from webapp.contracts.providers import Provider, Variable, VariableKind
from webapp.contracts.texts import bare
from webapp.registry import Registry

BLOT = "[key]"
NOT_USED = "its key in the environment is not used with an address that was set here: set the key here too"
"""What is said of a provider with a secret that is left out."""
_LEAST_CHARS = 4
"""What is shorter protects nothing, and would be found in every other word."""

SetHere = Mapping[str, list[Any]]
"""Variable -> what the rows of all providers hold for it, as it is stored."""


def variables_of(found: Iterable[Provider]) -> tuple[Variable, ...]:
    """The variables of a provider's kinds, each once, in the order in which the plugins declare them."""
    merged: dict[str, Variable] = {}
    for provider in found:
        for variable in provider.environment:
            known = merged.get(variable.name)
            # What one of the two takes for a secret is none of anybody's business in the other.
            if known is None or (variable.secret and not known.secret):
                merged[variable.name] = variable
    return tuple(merged.values())


def declared(registry: Registry) -> dict[str, tuple[Variable, ...]]:
    """Provider -> the variables of all its kinds."""
    return {name: variables_of(registry.any_provider(name)) for name in {**registry.providers, **registry.image_providers}}


def set_here(values: Iterable[object]) -> dict[str, list[Any]]:
    """What several rows' `values` hold, by variable: providers share variables by their names."""
    found: dict[str, list[Any]] = {}
    for each in values:
        for name, value in each.items() if isinstance(each, dict) else ():
            found.setdefault(name, []).append(value)
    return found


def moved(variable: Variable, here: SetHere, given: Mapping[str, str]) -> list[Any]:
    """What was set here for an address and leads neither where the environment nor where the plugin itself points."""
    if variable.kind is not VariableKind.URL:
        return []
    own = {place(given.get(variable.name, "")), place(variable.default)} | {""}
    return [value for value in here.get(variable.name, ()) if _plain(value) is None or place(_plain(value) or "") not in own]


def left_out(here: SetHere, given: Mapping[str, str], providers: Iterable[Iterable[Variable]]) -> frozenset[str]:
    """The variables whose secrets are in the environment (`given`) only, and must not go to the address that was set here.

    A variable that several providers share is left out for all of them: they are handed one environment.
    """
    found: set[str] = set()
    for variables in providers:
        if any(moved(variable, here, given) for variable in variables):
            secret = {variable.name for variable in variables if variable.secret}
            found |= {name for name in secret if name not in here and given.get(name, "").strip()}
    return frozenset(found)


def place(url: str) -> str:
    """An address for comparing: the whole of it, since a gateway may serve several parties below one origin."""
    return url.strip().rstrip("/")


def forms(secrets: Iterable[str], addresses: Iterable[str]) -> tuple[str, ...]:
    """Every form in which secrets, and what addresses hold of a sign-in, may come back from a vendor; the longest first."""
    found: set[str] = set()
    for secret in secrets:
        found |= {secret, secret.strip(), quote(secret.strip(), safe=""), json.dumps(secret.strip())[1:-1]}
    for address in addresses:
        found |= _sign_in(address)
    return tuple(sorted((form for form in found if len(form) >= _LEAST_CHARS), key=len, reverse=True))


def blot(text: str, found: Iterable[str]) -> str:
    """`text` without characters that nobody sees, which could hide a secret, and without these `forms`."""
    text = bare(text)
    for form in found:
        text = text.replace(form, BLOT)
    return text


def _plain(value: object) -> str | None:
    """A stored value that is no secret; None for one that is sealed or cannot be read."""
    plain = value.get("plain") if isinstance(value, dict) else None
    return plain if isinstance(plain, str) else None


def _sign_in(address: str) -> set[str]:
    """The user, the password and their base64 form of an address; nothing where it has none."""
    try:
        netloc = urlsplit(address.strip()).netloc
    except ValueError:
        # It is no address, but what stands before the last @ may still be meant as a secret.
        netloc = address.partition("://")[2]
    pair = netloc.rpartition("@")[0]
    if not pair:
        return set()
    found = {pair, unquote(pair)}
    for text in (pair, unquote(pair)):
        user, separator, password = text.partition(":")
        found |= {password} if separator and password else {user}
        encoded = base64.b64encode(f"{user}:{password}".encode("utf-8", "replace")).decode()
        found |= {encoded, encoded.rstrip("=")}
    return found
