"""Every setting of the core, once: type, unit, default, environment name, one-line meaning.

Values come from the environment, then from a `.env` file in the working directory. Plugins read their own variables from
`for_plugins()`, which leaves out the core's secrets.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict

from webapp.contracts.errors import SetupError
from webapp.settings_faults import in_words
from webapp.settings_work import WorkSettings

ENV_FILE = ".env"
CORE_SECRETS = frozenset({"SECRET_KEY", "DATABASE_URL", "REDIS_URL", "SWITCHHOOK_ADMIN_PASSWORD", "SWITCHHOOK_ENCRYPTION_KEYS"})


class Settings(WorkSettings):
    """The core's settings; immutable once read."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    # -- where things are ------------------------------------------------------------------------------------------
    data_dir: Path = Field(
        Path("instance"),
        alias="SWITCHHOOK_DATA_DIR",
        description="Directory of everything that is kept: database, queue, generated secret key, uploads.",
    )
    database_url: str = Field(
        "",
        alias="DATABASE_URL",
        description="SQLAlchemy URL of the database; empty: SQLite in the data directory.",
    )
    redis_url: str = Field(
        "",
        alias="REDIS_URL",
        description="URL of Redis or Valkey; empty: `switchhook up` starts one of its own in the data directory.",
    )
    secret_key: SecretStr = Field(
        SecretStr(""),
        alias="SECRET_KEY",
        description="Signs sessions; empty: generated once and kept in the data directory.",
    )
    encryption_keys: SecretStr = Field(
        SecretStr(""),
        alias="SWITCHHOOK_ENCRYPTION_KEYS",
        description="Fernet keys that seal vendors' keys in the database, newest first, separated by commas; empty: one is "
        "generated and kept in the data directory.",
    )
    allow_outbound: str = Field(
        "",
        alias="SWITCHHOOK_ALLOW_OUTBOUND",
        description="Internal addresses that URLs typed into pages may lead to: those of vendors, unless named in the "
        "environment, and those of outgoing webhooks. Networks (10.0.0.0/8), addresses, hosts or host:port, separated by "
        "commas.",
    )
    plugins_dir: Path | None = Field(
        None,
        alias="SWITCHHOOK_PLUGINS_DIR",
        description="Folder of further plugins, one module or package each.",
    )

    # -- the web process -------------------------------------------------------------------------------------------
    host: str = Field("127.0.0.1", alias="SWITCHHOOK_HOST", description="Address the web server listens on.")
    port: int = Field(8000, alias="SWITCHHOOK_PORT", ge=1, le=65535, description="Port the web server listens on.")
    public_url: str = Field(
        "",
        alias="SWITCHHOOK_PUBLIC_URL",
        description="Address under which the world reaches this installation, such as https://bot.example.com: "
        "needed for signed webhooks behind a proxy, for receipts, and for secure cookies.",
    )
    trusted_proxies: int = Field(
        0,
        alias="SWITCHHOOK_TRUSTED_PROXIES",
        ge=0,
        le=10,
        description="Number of reverse proxies in front whose X-Forwarded-* headers are believed.",
    )
    web_processes: int = Field(
        1, alias="SWITCHHOOK_WEB_PROCESSES", ge=1, le=64, description="Web server processes; one per core is plenty."
    )
    web_threads: int = Field(
        128,
        alias="SWITCHHOOK_WEB_THREADS",
        ge=2,
        le=512,
        description="Threads per web process; every open stream takes one.",
    )

    # -- jobs ------------------------------------------------------------------------------------------------------
    worker_processes: int = Field(
        1, alias="SWITCHHOOK_WORKER_PROCESSES", ge=1, le=64, description="Worker processes that `switchhook up` runs."
    )
    worker_jobs: int = Field(
        128,
        alias="SWITCHHOOK_WORKER_JOBS",
        ge=1,
        le=512,
        description="Jobs that one worker process carries at once; most of them wait for a vendor.",
    )
    worker_grace_s: int = Field(
        25,
        alias="SWITCHHOOK_WORKER_GRACE_S",
        ge=0,
        le=600,
        description="Seconds that running jobs get to end after SIGTERM before they are handed back.",
    )
    lease_s: float = Field(
        30.0,
        alias="SWITCHHOOK_LEASE_S",
        ge=1,
        le=600,
        description="Seconds after the last sign of life of a process when its requests are taken over.",
    )
    sweep_s: int = Field(15, alias="SWITCHHOOK_SWEEP_S", ge=1, le=600, description="Seconds between two sweeps for lost work.")

    # -- people ----------------------------------------------------------------------------------------------------
    admin_email: str = Field(
        "admin@localhost.localdomain",
        alias="SWITCHHOOK_ADMIN_EMAIL",
        description="E-mail of the administrator made at the first start.",
    )
    admin_password: SecretStr = Field(
        SecretStr(""),
        alias="SWITCHHOOK_ADMIN_PASSWORD",
        description="Password of that administrator; empty: generated and printed once.",
    )
    sms_registration: Literal["open", "invite", "closed"] = Field(
        "open",
        alias="SWITCHHOOK_SMS_REGISTRATION",
        description="Who may text: open (anyone becomes a person on the default plan), invite (known numbers; others are "
        "told so once), closed (known numbers; others get no answer).",
    )
    default_plan: str = Field("free", alias="SWITCHHOOK_DEFAULT_PLAN", description="Plan of a new person, by its code.")
    time_zone: str = Field(
        "UTC",
        alias="SWITCHHOOK_TIME_ZONE",
        description="IANA time zone of the default organization, in which days and months begin; read when it is created.",
    )
    session_days: int = Field(14, alias="SWITCHHOOK_SESSION_DAYS", ge=1, le=365, description="Days that a sign-in lasts.")

    # -- requests --------------------------------------------------------------------------------------------------
    chat_model: str = Field(
        "",
        alias="SWITCHHOOK_CHAT_MODEL",
        description="Model that answers chat, as provider/model, or several in the order in which they are tried, separated by "
        "commas; empty: every provider that is ready, else the demo. Routing rules come before it.",
    )
    image_model: str = Field(
        "",
        alias="SWITCHHOOK_IMAGE_MODEL",
        description="The same for pictures.",
    )
    sort_model: str = Field(
        "",
        alias="SWITCHHOOK_SORT_MODEL",
        description="Cheap model that sorts requests where the keywords are unsure, as provider/model; `auto` takes the "
        "routing rule for the operation `categorize`, else chat's route; empty: none is asked.",
    )
    house_daily_usd: float = Field(
        1.0,
        alias="SWITCHHOOK_HOUSE_DAILY_USD",
        ge=0,
        le=1_000_000,
        description="Dollars a day that the house spends at most on calls of its own, such as sorting.",
    )
    system_prompt: str = Field(
        "You are a helpful assistant. Answer briefly and plainly.",
        alias="SWITCHHOOK_SYSTEM_PROMPT",
        description="Instruction that precedes every conversation.",
    )
    prompt_max_chars: int = Field(
        16_000,
        alias="SWITCHHOOK_PROMPT_MAX_CHARS",
        ge=100,
        le=1_000_000,
        description="Longest prompt in characters.",
    )
    request_timeout_s: float = Field(
        120.0,
        alias="SWITCHHOOK_REQUEST_TIMEOUT_S",
        ge=1,
        le=3600,
        description="Seconds that one request may take in a worker, the vendor's time included.",
    )
    silence_timeout_s: float = Field(
        45.0,
        alias="SWITCHHOOK_SILENCE_TIMEOUT_S",
        ge=0.1,
        le=600,
        description="Seconds without a byte from a vendor after which the call is given up.",
    )
    send_timeout_s: float = Field(
        25.0,
        alias="SWITCHHOOK_SEND_TIMEOUT_S",
        ge=1,
        le=300,
        description="Seconds that handing one message to a channel's vendor may take.",
    )
    image_timeout_s: float = Field(
        240.0,
        alias="SWITCHHOOK_IMAGE_TIMEOUT_S",
        ge=5,
        le=3600,
        description="Seconds that one request for a picture may take.",
    )
    conversation_idle_days: int = Field(
        7,
        alias="SWITCHHOOK_CONVERSATION_IDLE_DAYS",
        ge=1,
        le=3650,
        description="Days without a message after which a conversation is closed.",
    )
    ceiling_input_usd: float = Field(
        15.0,
        alias="SWITCHHOOK_CEILING_INPUT_USD",
        ge=0,
        description="Dollars per million input tokens that count for a model whose price is not known.",
    )
    ceiling_output_usd: float = Field(
        75.0,
        alias="SWITCHHOOK_CEILING_OUTPUT_USD",
        ge=0,
        description="Dollars per million output tokens that count for a model whose price is not known.",
    )

    ceiling_picture_usd: float = Field(
        0.5,
        alias="SWITCHHOOK_CEILING_PICTURE_USD",
        ge=0,
        description="Dollars that count for a picture whose price is not known.",
    )

    # -- the house -------------------------------------------------------------------------------------------------
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="SWITCHHOOK_LOG_LEVEL", description="How much is logged; message texts never are."
    )

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str) -> str:
        value = value.rstrip("/")
        if value:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("must be an http or https address without a query, such as https://bot.example.com")
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError("must be an IANA time zone such as Europe/Berlin") from exc
        return value

    @field_validator("admin_email")
    @classmethod
    def _admin_email(cls, value: str) -> str:
        name, at, domain = value.strip().lower().rpartition("@")
        if not (name and at and "." in domain.strip(".")) or " " in value.strip():
            raise ValueError("must be an e-mail address")
        return f"{name}@{domain}"

    @field_validator("chat_model", "image_model")
    @classmethod
    def _models(cls, value: str) -> str:
        named = [part.strip() for part in value.split(",") if part.strip()]
        if not all(_is_target(name) for name in named):
            raise ValueError("must be provider/model, such as openai/gpt-4.1-mini, or several of them separated by commas")
        return ",".join(named)

    @field_validator("sort_model")
    @classmethod
    def _sort_model(cls, value: str) -> str:
        if value and value != "auto" and not _is_target(value):
            raise ValueError("must be provider/model, such as openai/gpt-4.1-mini, or auto")
        return value

    # -- what follows from them ------------------------------------------------------------------------------------
    @property
    def effective_database_url(self) -> str:
        """The SQLAlchemy URL, with psycopg as the driver of PostgreSQL."""
        url = self.database_url or f"sqlite:///{self.data_dir.resolve() / 'switchhook.db'}"
        for prefix in ("postgres://", "postgresql://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        return url

    @property
    def queue_socket(self) -> Path:
        """The Unix socket of the embedded Redis: in the data directory, or in a short private path if that is too long."""
        path = self.data_dir.resolve() / "queue" / "queue.sock"
        if len(os.fsencode(path)) < 100:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"switchhook-{os.getuid()}-{digest}" / "queue.sock"

    @property
    def effective_redis_url(self) -> str:
        """The URL of Redis: the operator's, or the embedded one's."""
        return self.redis_url or f"unix://{self.queue_socket}"

    @property
    def secure(self) -> bool:
        """Whether people reach this installation by HTTPS."""
        return self.public_url.startswith("https://")

    def make_data_dir(self) -> None:
        """Make the data directory, closed to other users of the machine: what people wrote is in it. One that is there
        already keeps its mode. `SetupError` if it cannot be made."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise SetupError(
                f"The data directory {self.data_dir} cannot be used ({exc.strerror}): make it writable, or name another "
                "one in SWITCHHOOK_DATA_DIR."
            ) from exc

    def load_secret_key(self) -> str:
        """The key that signs sessions, made and stored (mode 0600) at the first call if none is set."""
        if given := self.secret_key.get_secret_value():
            return given
        path = self.data_dir / "secret_key"
        self.make_data_dir()
        try:
            # Written whole under another name and linked: of two processes that start together one wins, both read the same.
            temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            if not path.exists():
                temporary.touch(mode=0o600, exist_ok=False)
                temporary.write_text(secrets.token_hex(32))
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    pass
                finally:
                    temporary.unlink()
            return path.read_text().strip()
        except OSError as exc:
            raise SetupError(
                f"The data directory {self.data_dir} cannot be used ({exc.strerror}): make it writable, or name another "
                "one in SWITCHHOOK_DATA_DIR."
            ) from exc

    def for_plugins(self) -> Mapping[str, str]:
        """Environment variables by name (the environment before `.env`), without the core's secrets."""
        merged = {k: v for k, v in dotenv_values(ENV_FILE).items() if v} | {k: v for k, v in os.environ.items() if v}
        merged |= {"SWITCHHOOK_PUBLIC_URL": self.public_url}
        return MappingProxyType({k: v for k, v in merged.items() if k not in CORE_SECRETS})

    def urls_for_plugins(self) -> list[str]:
        """The values of those variables that are http and https addresses: the operator has named them."""
        return [
            value
            for name, value in self.for_plugins().items()
            if value.startswith(("http://", "https://"))
            and name != "SWITCHHOOK_PUBLIC_URL"
            and not name.lower().endswith("_proxy")
        ]


def read_settings(**overrides: object) -> Settings:
    """Read and check all settings. `SetupError` names every variable that is wrong, and how."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        faults = "; ".join(f"{fault['loc'][0]}: {in_words(fault)}" for fault in exc.errors(include_url=False))
        raise SetupError(f"Wrong setting: {faults}.") from exc


def _is_target(value: str) -> bool:
    provider, slash, model = value.partition("/")
    return bool(provider and slash and model)
