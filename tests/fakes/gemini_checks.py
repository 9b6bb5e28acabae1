"""What Google's `generateContent` takes and what it refuses, for the fake of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from .server import FakeReply, FakeRequest

_TOP = {"contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig", "cachedContent"}
_CONFIG = {
    "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "candidateCount", "seed", "responseMimeType",
    "responseJsonSchema", "responseSchema", "thinkingConfig", "responseModalities", "imageConfig",
}  # fmt: skip
_PICTURES = {"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}
# Google takes a field's name in either spelling.
_DECLARATION = {"name", "description", "parameters", "parametersJsonSchema", "parameters_json_schema", "behavior", "response"}
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}\Z")
_RATIOS = {"1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9"}


def error_body(code: int, status: str, message: str, *details: Mapping[str, object]) -> dict[str, Any]:
    """Google's error object."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": error | ({"details": list(details)} if details else {})}


class Complaint(Exception):
    """A request that Google would not accept."""

    def __init__(self, code: int, status: str, message: str, *details: Mapping[str, object]) -> None:
        super().__init__(message)
        self.reply = FakeReply.json(error_body(code, status, message, *details), status=code)


def checked(request: FakeRequest, model: str) -> dict[str, Any]:
    """The body, if it is as Google wants it."""
    try:
        body: dict[str, Any] = request.json()
    except ValueError:
        raise invalid("Invalid JSON payload received.") from None
    for name in body.keys() - _TOP:
        raise invalid(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified")
    for position, content in enumerate(contents):
        if content.get("role") not in ("user", "model"):
            raise invalid("Please use a valid role: user, model.")
        if position and contents[position - 1]["role"] == content["role"]:
            raise invalid("Please ensure that multiturn requests alternate between user and model.")
        _check_parts(content)
    _check_function_turns(contents, model)
    _check_tools(body)
    if contents[-1]["role"] != "user":
        raise invalid("Please ensure that the last turn is the user's.")
    if "systemInstruction" in body:
        _check_parts(body["systemInstruction"])
    _check_config(body.get("generationConfig", {}), model)
    return body


def invalid(message: str) -> Complaint:
    """A call whose form is wrong."""
    return Complaint(400, "INVALID_ARGUMENT", message)


def _check_parts(content: Mapping[str, Any]) -> None:
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise invalid("* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.")
    for part in parts:
        if set(part) == {"text"} and isinstance(part["text"], str) and part["text"]:
            continue
        if set(part) - {"thoughtSignature"} == {"functionCall"} or set(part) == {"functionResponse"}:
            continue
        inline = part.get("inlineData")
        # Google takes a field's name in either spelling, and its own SDK sends this one in the other.
        kind = inline.get("mimeType", inline.get("mime_type")) if isinstance(inline, dict) else None
        if set(part) != {"inlineData"} or kind is None or set(inline) - {"mimeType", "mime_type"} != {"data"}:
            raise invalid("* contents.parts.data: required oneof field 'data' must have one initialized field")
        if kind not in _PICTURES:
            raise invalid(f"Unsupported MIME type: {kind}")
        base64.b64decode(inline["data"], validate=True)


def _check_function_turns(contents: list[dict[str, Any]], model: str) -> None:
    """What functions gave follows at once to the turn that called them, one for each and under the same names."""
    waiting: list[str] = []
    for content in [*contents, {"role": "", "parts": []}]:
        given = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        if len(given) != len(waiting):
            raise invalid(
                "Please ensure that the number of function response parts is equal to the number of function call parts of "
                "the function call turn."
            )
        if [one.get("name") for one in given] != waiting or not all(isinstance(one.get("response"), dict) for one in given):
            raise invalid("Function response parts have to name the functions that were called, with an object each.")
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and content["role"] != "model":
            raise invalid("Please ensure that function call turn comes immediately after a user turn.")
        if calls and model.startswith(("gemini-3", "gemini-4")) and not calls[0].get("thoughtSignature"):
            raise invalid("Function call is missing a thought_signature in functionCall parts.")
        if not all(isinstance(part["functionCall"].get("args", {}), dict) for part in calls):
            raise invalid("Invalid value at 'contents.parts.function_call.args'")
        waiting = [part["functionCall"]["name"] for part in calls]


def _check_tools(body: Mapping[str, Any]) -> None:
    declared = functions_of(body)
    for function in declared:
        if not _TOOL_NAME.match(str(function.get("name"))):
            raise invalid("* GenerateContentRequest.tools[0].function_declarations[0].name: Invalid function name.")
        if function.keys() - _DECLARATION:
            raise invalid(
                "Invalid JSON payload received. Unknown name at 'tools[0].function_declarations[0]': Cannot find field."
            )
    config = body.get("toolConfig", {}).get("functionCallingConfig", {})
    if config.get("mode", "AUTO") not in ("AUTO", "ANY", "NONE", "VALIDATED"):
        raise invalid("Invalid value at 'tool_config.function_calling_config.mode'")
    if not {*config.get("allowedFunctionNames", ())} <= {function["name"] for function in declared}:
        raise invalid("allowed_function_names must be declared")
    if "allowedFunctionNames" in config and config.get("mode") not in ("ANY", "VALIDATED"):
        raise invalid("allowed_function_names is only supported with mode ANY or VALIDATED.")


def functions_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions that a call declares."""
    return [function for tool in body.get("tools", ()) for function in tool.get("functionDeclarations", ())]


def _check_config(config: Mapping[str, Any], model: str) -> None:
    for name in config.keys() - _CONFIG:
        raise invalid(f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config': Cannot find field.")
    if len(config.get("stopSequences", ())) > 5:
        raise invalid("The number of stop sequences must not exceed 5.")
    if "responseJsonSchema" in config and config.get("responseMimeType") != "application/json":
        raise invalid("Response schema is only supported with response mime type application/json.")
    if not 0 <= config.get("temperature", 1) <= 2:
        raise invalid("temperature must be in the range [0.0, 2.0].")
    if config.get("maxOutputTokens", 1) < 1:
        raise invalid("max_output_tokens must be positive.")
    thinking = config.get("thinkingConfig", {})
    if "thinkingLevel" in thinking and ("2.5" in model or not model.startswith("gemini-")):
        raise invalid("Thinking level is not supported for this model.")
    if "thinkingBudget" in thinking and "2.5" not in model:
        raise invalid("Thinking budget is not supported for this model.")
    shape = config.get("imageConfig", {})
    if not set(shape) <= {"aspectRatio", "imageSize"} or shape.get("aspectRatio", "1:1") not in _RATIOS:
        raise invalid("Invalid aspect_ratio.")
    if shape.get("imageSize", "1K") not in ("1K", "2K", "4K"):
        raise invalid("Invalid image_size.")
    if "IMAGE" in config.get("responseModalities", ()) and "image" not in model:
        raise invalid("Model does not support the requested response modalities: image")


def words_of(body: Mapping[str, Any]) -> int:
    """The tokens of a request: a word is one, a picture is 258."""
    contents = [*body["contents"], *([body["systemInstruction"]] if "systemInstruction" in body else [])]
    parts = [part for content in contents for part in content["parts"]]
    return sum(len(part["text"].split()) if "text" in part else 258 if "inlineData" in part else 1 for part in parts)
