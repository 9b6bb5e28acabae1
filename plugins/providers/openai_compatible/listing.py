"""What a server tells of its models and of the account: lists and balances in the shapes that are met. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from plugins.providers.openai_compatible.models import Known, known_of
from webapp.plugin import Capability, ModelInfo, clean, token_count, vendor_id

# What a server lists beside chat models.
_NOT_FOR_CHAT = ("embed", "rerank", "whisper", "tts", "moderation", "dall-e", "image", "bge-", "minilm")
_CONTEXT_NAMES = ("context_length", "context_window", "max_context_length", "max_model_len")
_OUTPUT_NAMES = ("max_completion_tokens", "max_output_tokens")
_SIGNS = {"USD": "$", "EUR": "€", "CNY": "¥"}
_LABEL_CHARS = 100
_MONEY_MAX = Decimal(10**9)


def models_in(document: object, catalog: tuple[Known, ...]) -> list[ModelInfo]:
    """The models of a list that can chat, in the server's order. `ValueError` if it is no list of models."""
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the list has no `data`")
    found: dict[str, ModelInfo] = {}
    for entry in entries:
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or name != vendor_id(name):
            continue  # no name at all, or one that no call could carry
        if not any(word in name.lower() for word in _NOT_FOR_CHAT):
            found.setdefault(name, _model(name, entry, catalog))
    return list(found.values())


def _model(name: str, entry: Mapping[str, Any], catalog: tuple[Known, ...]) -> ModelInfo:
    known = known_of(catalog, name)
    label = entry.get("name")
    top = entry.get("top_provider")
    context = _first_count(entry, _CONTEXT_NAMES)
    output = _first_count(entry, _OUTPUT_NAMES) or _first_count(top if isinstance(top, dict) else {}, _OUTPUT_NAMES)
    ends = entry.get("shutdown_date")
    return ModelInfo(
        name,
        clean(label).strip()[:_LABEL_CHARS] if isinstance(label, str) and label != name else "",
        context or known.context_tokens,
        output or known.output_tokens,
        _capabilities(entry) or known.capabilities,
        f"Switched off on {vendor_id(ends)[:10]}." if isinstance(ends, str) and ends else known.note,
    )


def _first_count(entry: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := token_count(entry.get(name)))), None)


def _capabilities(entry: Mapping[str, Any]) -> frozenset[Capability] | None:
    """What an entry says the model can do, in Mistral's or OpenRouter's way; None where it says nothing."""
    able = entry.get("capabilities")
    if isinstance(able, dict) and isinstance(able.get("vision"), bool):
        calls = {Capability.TOOLS} if able.get("function_calling") is True else set()
        return frozenset({Capability.JSON} | calls | ({Capability.VISION} if able["vision"] else set()))
    built = entry.get("architecture")
    takes, obeys = built.get("input_modalities") if isinstance(built, dict) else None, entry.get("supported_parameters")
    if not isinstance(takes, list) or not isinstance(obeys, list):
        return None
    seeing = {Capability.VISION} if "image" in takes else set()
    named = {"response_format": Capability.JSON, "tools": Capability.TOOLS}
    return frozenset(seeing | {able for name, able in named.items() if name in obeys})


def money(value: object) -> Decimal | None:
    """An amount of money that a vendor wrote as a number or a string; None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount) <= _MONEY_MAX else None


def balance_in(document: object) -> tuple[str, bool]:
    """What is left on the account ('$12.30', '' if it is not told), and whether calls are still served."""
    if not isinstance(document, dict):
        return "", True
    infos = document.get("balance_infos")
    if isinstance(infos, list):  # DeepSeek: one entry for each currency, amounts as strings
        told = [(_currency(info), money(info.get("total_balance"))) for info in infos if isinstance(info, dict)]
        left = ", ".join(_written(amount, sign) for sign, amount in told if amount is not None)
        return left, document.get("is_available") is not False
    data = document.get("data")
    if isinstance(data, dict):  # OpenRouter: what was bought, and what of it was used
        bought, used = money(data.get("total_credits")), money(data.get("total_usage"))
        if bought is not None and used is not None:
            return _written(bought - used, "$"), True
    return "", True


def _written(amount: Decimal, sign: str) -> str:
    return f"{'-' if amount < 0 else ''}{sign}{abs(amount):,.2f}"


def _currency(info: Mapping[str, Any]) -> str:
    code = info.get("currency")
    code = vendor_id(code)[:8] if isinstance(code, str) else ""
    return _SIGNS.get(code, f"{code} " if code else "")
