"""Messages that somebody here sends by hand: checking them, and choosing the channel."""

from __future__ import annotations

from webapp.contracts.channels import Channel
from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.registry import current_registry
from webapp.services import people

SIMULATOR = "simulator"


def checked(to: str, body: str, channel_name: str = "") -> tuple[str, str, Channel]:
    """(address, text, channel) of a message that may be sent. `BadInput` names what is wrong: to, body or channel."""
    try:
        address = people.normal_phone(to)
    except BadInput as exc:
        raise BadInput("to", exc.message) from exc
    text = clean(body).strip()
    if not text:
        raise BadInput("body", "Write the message.")
    channel = outgoing(channel_name)
    if len(text) > channel.max_chars:
        raise BadInput("body", f"This is {len(text):,} characters; a message has at most {channel.max_chars:,}.")
    return address, text, channel


def outgoing(name: str = "") -> Channel:
    """The SMS channel with this name, or the first that is ready; real ones before the simulator."""
    ready = {c.name: c for c in current_registry().channels.values() if c.medium == "sms" and not c.missing()}
    if name:
        if name not in ready:
            raise BadInput("channel", f"There is no channel {name!r} that is ready: {', '.join(ready) or 'none'}.")
        return ready[name]
    for channel in sorted(ready.values(), key=lambda c: c.name == SIMULATOR):
        return channel
    raise BadInput("channel", "No SMS channel is ready: run `switchhook doctor`.")
