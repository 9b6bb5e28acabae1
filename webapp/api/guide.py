"""What the document of the API says before its first operation."""

from __future__ import annotations

ERRORS = {
    "unauthorized": "Nobody is signed in, and no valid token came along.",
    "not_allowed": "The token's scopes, or the person's role, do not open this.",
    "not_found": "There is no such thing, or it is somebody else's.",
    "bad_json": "The body cannot be read: it is not JSON, has a name twice, is nested more than 64 deep, or has too "
    "many values, names or items.",
    "bad_input": "A field is wrong; `field` and `errors` name it, `detail` says how to mend it.",
    "conflict": "The thing is in a state that does not allow it.",
    "limit_reached": "A limit is used up; `limit` says which, `resets_at` when it starts afresh.",
    "limits_unknown": "What may be spent is not known for the moment.",
    "too_many_requests": "Too many calls in an hour or a minute.",
    "idempotency_key_in_use": "The first call with this key still runs.",
    "idempotency_key_reused": "The key came with another call before.",
    "idempotency_not_kept": "The call was made, and its answer cannot be given again.",
    "server_overloaded": "Too many bodies are on their way here; come back in a few seconds.",
    "unavailable": "The database is away for a moment.",
    "internal": "Our fault; it is in the operator's log under `error_id`.",
}
"""Codes of problems, and what they mean."""

SECTIONS = (
    (
        "Who calls",
        "Send a token: `Authorization: Bearer TOKEN`. People make theirs on their page Settings, API tokens; operators "
        "with `switchhook token create`. The session of a browser opens everything its person may do; what changes "
        "something then needs the header `X-CSRFToken`.\n\n"
        "Each operation names its scopes; one of them is enough, and `admin` opens all. `chat` asks models and reads what "
        "was asked with it, `read` reads what is one's own, `write` makes and changes it, `sms` sends messages, `admin` "
        "acts as a manager of the organization or an administrator of the installation, for people who are. What belongs "
        "to somebody else does not exist for the caller: 404.",
    ),
    (
        "What is sent and answered",
        "JSON in UTF-8, with `Content-Type: application/json`. Members that are not known are refused, and nothing is "
        'converted: a number is `5` and not `"5"`. Times are ISO 8601 in UTC, ids are UUIDs, money is in whole '
        "micro-dollars (`…_microusd`), credits in whole milli-credits (`…_millicredits`). Every answer has "
        "`X-Request-Id`: the caller's own, if it is 1 to 64 of letters, digits, `.`, `_` and `-`; the operator's log has "
        "the same id.",
    ),
    (
        "Lists",
        "A list answers `items` and `next_cursor`: give that as `cursor` for the next page, until it is null. `limit` is "
        "20 unless said otherwise, at most 100. With `total=true` everything that fits is counted, too.",
    ),
    (
        "Errors",
        "Errors are problem details (RFC 9457, `application/problem+json`). `code` is stable and for programs, `detail` "
        "is for people and says what to do.",
    ),
    (
        "Repeating a call safely",
        "Send `Idempotency-Key`, 1 to 255 visible characters such as a UUID, with a call that makes something. The same "
        "call (person, token, organization, method, path, query, body) with the same key gets the first answer again, with "
        "`Idempotent-Replayed: true`, also if that was a refusal. What ended in 429, 5xx or before the operation began (a "
        "body that is wrong) is not kept: the same call may be tried again with the same key. While the first one runs, a "
        "repetition is answered 409 `idempotency_key_in_use`; another call with the key 422 `idempotency_key_reused`. "
        "Answers of more than 2 MB, and streams that were cut off, are not kept: 409 `idempotency_not_kept`. If a process "
        "dies in the middle, its key is free for the same call again after half a minute. Answers are kept for {hours} "
        "hours.",
    ),
    (
        "How often",
        "{signed_in} calls an hour for each person, {anonymous} an hour for each address without a valid sign-in. Every "
        "counted answer says how things stand: `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` (in seconds "
        "from then), and the same with `X-` before it (there the reset is a moment, in seconds since 1970). Beyond that: "
        "429 with `Retry-After`. What requests use of their limits is counted besides, whatever way they come.",
    ),
    (
        "Compatible endpoints",
        "Under `/v1` the formats of OpenAI and Anthropic are spoken: point their libraries at this address and give them "
        "a token with the scope `chat` or `admin` as the key.",
    ),
)
"""Title and text, in paragraphs, with code between backticks and values of the installation between braces."""
