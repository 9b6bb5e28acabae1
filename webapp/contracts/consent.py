"""What the words STOP, START and HELP mean: read before a text message is treated as anything else."""

from __future__ import annotations

from webapp.contracts.channels import Consent

_STOP = ("stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout")
_START = ("start", "unstop")
_HELP = ("help", "info")

_MEANINGS: dict[str, Consent] = {
    **dict.fromkeys(_STOP, Consent.STOP),
    **dict.fromkeys(_START, Consent.START),
    **dict.fromkeys(_HELP, Consent.HELP),
}
_LONGEST = max(map(len, _MEANINGS))

# People quote the word as they were told it ("STOP"), end it like a sentence, and their phones add invisible marks:
# zero-width spaces and joiners, direction marks and isolates, the byte order mark, the emoji variation selector.
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufe0f\ufeff"
_AROUND = " \t\r\n\v\f\u00a0\u3000.,;:!?…¡¿。！？'\"`´‘’‚“”„«»()[]<>*_~-–—" + _INVISIBLE
_INSIDE = str.maketrans("", "", " \t\r\n\v\f\u00a0\u3000-" + _INVISIBLE)


def consent_of(text: str, *, opted_out: bool) -> Consent | None:
    """What `text` says about receiving messages, or None if it is an ordinary message.

    The whole text has to be one of the words, in any case; blanks, quotes and punctuation around it, and blanks or
    hyphens inside ('STOP ALL', 'opt-out'), do not matter. YES is an answer people give in a chat: it means START only
    from somebody who has opted out. The words are those of Twilio's default handling.
    """
    word = text.strip(_AROUND)
    # Twice the length of the longest word is room for what is folded inside; nearly every message ends here.
    if len(word) > 2 * _LONGEST:
        return None
    word = word.translate(_INSIDE).casefold()
    if word == "yes":
        return Consent.START if opted_out else None
    return _MEANINGS.get(word)


def is_command(text: str, command: str) -> bool:
    """Whether `text` is one word of command (in small letters) and nothing else, as freely written as the others."""
    word = text.strip(_AROUND)
    return len(word) <= 2 * len(command) and word.translate(_INSIDE).casefold() == command
