"""Messages that somebody here sends by hand: checking them, and choosing the channel."""

from __future__ import annotations

import uuid

from webapp.contracts.channels import Channel
from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.extensions import writing_session
from webapp.registry import current_registry
from webapp.services import organizations, people
from webapp.services.organizations import Actor

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


def checked_mail(to: str, channel_name: str = "") -> tuple[str, Channel]:
    """(address, channel) of an e-mail that may be sent. `BadInput` names what is wrong: to or channel, and says what to do."""
    try:
        address = people.normal_email(to)
    except BadInput as exc:
        raise BadInput("to", "This is not an e-mail address: write it as name@example.com.") from exc
    return address, outgoing_mail(channel_name)


def outgoing_mail(name: str = "") -> Channel:
    """The e-mail channel with this name, or the first that is ready."""
    there = {c.name: c for c in current_registry().channels.values() if c.medium == "email"}
    if name and name not in there:
        raise BadInput("channel", f"There is no channel {name!r} for e-mail: {', '.join(there) or 'none'}.")
    gaps = {}
    for channel in [there[name]] if name else there.values():
        if not (gap := channel.missing()):
            return channel
        gaps[channel.name] = gap
    why = "; ".join(f"{gap} (channel {channel})" for channel, gap in gaps.items()) or "no plugin gives such a channel"
    raise BadInput("channel", f"No e-mail can be sent: {why}. Correct it in the environment or in .env.")


def note(actor: Actor, person_id: uuid.UUID, organization_id: uuid.UUID, delivery_id: uuid.UUID, channel: Channel) -> None:
    """Write down who sent somebody a message by hand."""
    with writing_session() as session:
        detail = {"delivery": str(delivery_id), "channel": channel.name}
        organizations.audit(session, actor, "message.send", f"person:{person_id}", organization_id, detail)
