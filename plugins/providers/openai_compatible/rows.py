"""The vendors and servers that speak OpenAI's chat format, as data. Adding one means adding a row.

Source: the vendors' own documentation, November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plugins.providers.openai_compatible.models import DEEPSEEK, GROQ, OPENAI, OPENROUTER, Known
from webapp.plugin import Hours, Variable, VariableKind


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
    catalog: tuple[Known, ...] = ()
    """What is known of its models."""
    json_schema: bool = True
    """Whether it holds answers to a schema, not only to JSON."""
    parallel_tools: bool = True
    """Whether it takes `parallel_tool_calls`."""
    tool_id_chars: int = 0
    """How many letters and digits the id of a tool call has to have; 0: any number up to 40."""
    costs_told: bool = False
    """Whether `usage.cost` of an answer is what it charged, in dollars."""
    key_path: str = ""
    """What to ask below the base URL to learn whether the key is good, where listing models does not show it."""
    balance_path: str = ""
    """What to ask below the base URL for the money that is left, '' where it does not tell."""
    capabilities_variable: str = ""
    """The variable that says what the server's models can do, where nothing else can."""
    peak_hours: Hours = field(default_factory=Hours)

    def variables(self) -> tuple[Variable, ...]:
        """The environment variables that this row reads."""
        found = []
        if self.key_variable:
            found.append(Variable(self.key_variable, f"API key for {self.label}.", secret=True))
        address = f"Address of {self.label}'s API."
        found.append(Variable(self.base_url_variable, address, default=self.base_url, kind=VariableKind.URL))
        model = self.default_model or "the first model that the server lists"
        found.append(Variable(self.model_variable, f"Model to use at {self.label}.", default=model, kind=VariableKind.MODEL))
        if self.capabilities_variable:
            able = "What its models can do besides text: of `vision`, `json` and `tools`, or `none`. Empty: it is tried."
            found.append(Variable(self.capabilities_variable, able))
        found += [
            Variable(name, f"{header.rpartition('-')[2]} at {self.label}, for an account that has several.")
            for header, name in self.headers
        ]
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
        catalog=OPENAI,
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
        capabilities_variable="SWITCHHOOK_COMPATIBLE_CAPABILITIES",
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
        catalog=DEEPSEEK,
        json_schema=False,
        parallel_tools=False,
        balance_path="/user/balance",
        # Its tariff is double at these times, but for Chinese public holidays, whose list changes from year to year.
        peak_hours=Hours.parse("Mon-Fri 01:00-04:00, Mon-Fri 06:00-10:00"),
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
        tool_id_chars=9,
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
        catalog=GROQ,
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
        catalog=OPENROUTER,
        costs_told=True,
        key_path="/key",
        balance_path="/credits",
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
)
