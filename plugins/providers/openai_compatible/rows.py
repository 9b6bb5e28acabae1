"""The vendors and servers that speak OpenAI's chat format, as data. Adding one means adding a row.

Source: the vendors' own documentation, November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from webapp.plugin import Variable


@dataclass(frozen=True, slots=True)
class Row:
    """How one vendor differs from the others."""

    name: str
    label: str
    preference: int
    base_url: str = ""
    """Where it answers unless `base_url_variable` says otherwise; '' means that the variable must be set."""
    base_url_variable: str = ""
    key_variable: str = ""
    key_required: bool = True
    model_variable: str = ""
    default_model: str = ""
    """'' means the first model that the server lists."""
    price_as: str = ""
    cap_field: str = "max_tokens"
    """The name of the cap on the answer's tokens."""
    person_field: str = ""
    """Where the vendor takes a hash of whom the call is for, '' if nowhere."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Sent with every call as it is."""
    headers: tuple[tuple[str, str], ...] = ()
    """Header and the variable that gives its value."""
    free_when_local: bool = False
    """Whether nobody is billed when it runs on the operator's own network."""
    detect: bool = False
    """Whether it is looked for where `base_url` says although no variable names it."""
    no_model_cure: str = "Load a model in the server."

    def variables(self) -> tuple[Variable, ...]:
        """The environment variables that this row reads."""
        found = []
        if self.key_variable:
            found.append(Variable(self.key_variable, f"API key for {self.label}.", secret=True))
        found.append(Variable(self.base_url_variable, f"Address of {self.label}'s API.", default=self.base_url))
        listed = "the first model that the server lists"
        found.append(Variable(self.model_variable, f"Model to use at {self.label}.", default=self.default_model or listed))
        found += [Variable(name, f"Value of the header {header} for {self.label}.") for header, name in self.headers]
        return tuple(found)


ROWS = (
    Row(
        name="openai",
        label="OpenAI",
        preference=10,
        base_url="https://api.openai.com/v1",
        base_url_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
        model_variable="OPENAI_MODEL",
        default_model="gpt-4.1-mini",
        price_as="openai",
        # Reasoning models refuse max_tokens, and this one counts their hidden tokens too.
        cap_field="max_completion_tokens",
        person_field="safety_identifier",
        extra={"store": False},
        headers=(("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID")),
    ),
    Row(
        name="compatible",
        label="OpenAI-compatible server",
        preference=20,
        base_url_variable="SWITCHHOOK_COMPATIBLE_BASE_URL",
        key_variable="SWITCHHOOK_COMPATIBLE_API_KEY",
        key_required=False,
        model_variable="SWITCHHOOK_COMPATIBLE_MODEL",
    ),
    Row(
        name="deepseek",
        label="DeepSeek",
        preference=30,
        base_url="https://api.deepseek.com",
        base_url_variable="DEEPSEEK_BASE_URL",
        key_variable="DEEPSEEK_API_KEY",
        model_variable="DEEPSEEK_MODEL",
        default_model="deepseek-flash",
        price_as="deepseek",
        person_field="user_id",
        # Thinking is on by default and would use up the cap of a short answer.
        extra={"thinking": {"type": "disabled"}},
    ),
    Row(
        name="mistral",
        label="Mistral",
        preference=31,
        base_url="https://api.mistral.ai/v1",
        base_url_variable="MISTRAL_BASE_URL",
        key_variable="MISTRAL_API_KEY",
        model_variable="MISTRAL_MODEL",
        default_model="mistral-small-latest",
        price_as="mistral",
    ),
    Row(
        name="groq",
        label="Groq",
        preference=32,
        base_url="https://api.groq.com/openai/v1",
        base_url_variable="GROQ_BASE_URL",
        key_variable="GROQ_API_KEY",
        model_variable="GROQ_MODEL",
        default_model="openai/gpt-oss-20b",
        price_as="groq",
    ),
    Row(
        name="openrouter",
        label="OpenRouter",
        preference=33,
        base_url="https://openrouter.ai/api/v1",
        base_url_variable="OPENROUTER_BASE_URL",
        key_variable="OPENROUTER_API_KEY",
        model_variable="OPENROUTER_MODEL",
        default_model="openai/gpt-4.1-mini",
        price_as="openrouter",
    ),
    Row(
        name="vllm",
        label="vLLM",
        preference=40,
        base_url_variable="VLLM_BASE_URL",
        key_variable="VLLM_API_KEY",
        key_required=False,
        model_variable="VLLM_MODEL",
        free_when_local=True,
    ),
    Row(
        name="llamacpp",
        label="llama.cpp",
        preference=41,
        base_url_variable="LLAMACPP_BASE_URL",
        key_variable="LLAMA_API_KEY",
        key_required=False,
        model_variable="LLAMACPP_MODEL",
        free_when_local=True,
    ),
    Row(
        name="lmstudio",
        label="LM Studio",
        preference=42,
        base_url_variable="LMSTUDIO_BASE_URL",
        key_variable="LMSTUDIO_API_KEY",
        key_required=False,
        model_variable="LMSTUDIO_MODEL",
        free_when_local=True,
    ),
    Row(
        name="ollama",
        label="Ollama",
        preference=50,
        base_url="http://127.0.0.1:11434",
        base_url_variable="OLLAMA_HOST",
        key_variable="OLLAMA_API_KEY",
        key_required=False,
        model_variable="OLLAMA_MODEL",
        free_when_local=True,
        detect=True,
        no_model_cure="Install one, for example: ollama pull llama3.2",
    ),
)
