"""What has to be done once before the processes start, in a process of its own.

It needs the whole application, with its hundred megabytes; `switchhook up` stays as long as everything, and does not.
Run as `python -m webapp.cli.prepare FD`, it writes one JSON object to that file descriptor:
`{"email": …, "password": …}` if it has made the first administrator, else `{}`; or `{"fault": …}`, with exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webapp.cli import leash
from webapp.contracts.errors import SetupError, SwitchhookError

if TYPE_CHECKING:
    from webapp.settings import Settings

REDIS_TIMEOUT_S = 3.0
_GRACE_S = 30.0


def main(result_fd: int) -> int:
    """Prepare, report, and return the exit code."""
    leash.hold(_GRACE_S)
    try:
        result, code = prepare(), 0
    except SwitchhookError as exc:
        result, code = {"fault": exc.message}, 2
    with os.fdopen(result_fd, "w") as out:
        json.dump(result, out)
    return code


def prepare() -> dict[str, str | None]:
    """Check Redis, migrate the database, make the first administrator. SetupError says what is in the way."""
    from webapp.settings import read_settings

    settings = read_settings()
    settings.load_secret_key()
    check_redis(settings)
    from webapp import create_app
    from webapp.services import setup

    with create_app(doors=False).app_context():
        first_run = setup.prepare()
    return asdict(first_run) if first_run else {}


def check_redis(settings: Settings) -> None:
    """SetupError if nobody answers at the URL of Redis. It may hold a password: the message names the place only."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        parts = urlsplit(settings.effective_redis_url)
        where = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        client = redis.Redis.from_url(
            settings.effective_redis_url,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as exc:
        raise SetupError("REDIS_URL is not a URL of Redis, such as redis://localhost:6379/0: correct it.") from exc
    try:
        with client:
            client.ping()
    except redis.AuthenticationError as exc:
        raise SetupError(f"Redis at {where} refuses the user or password in REDIS_URL: correct them.") from exc
    except redis.RedisError as exc:
        raise SetupError(
            f"Redis does not answer at {where} ({type(exc).__name__}): start it, correct REDIS_URL, or unset it to use "
            "the one that comes with Switchhook."
        ) from exc


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
