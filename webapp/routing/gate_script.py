"""The gate's state in Redis: one Lua script per step, so that each is one round trip and nobody comes between.

Per provider there are five keys, with the provider in braces so that they share a slot of a cluster:

- `held`, a sorted set: the leases of calls under way, by the moment at which each is given up.
- `pace`, a hash: requests and tokens of the newest minute `m` (`r`, `t`) and of the one before (`pr`, `pt`).
- `circuits`, a hash: per target its generation, failures in a row, when it was opened, when it may be probed, when the
  probe is given up, when it was last touched, and the probe's lease (`-`: none). Nothing is kept for a healthy target.
- `pause`, a string: until when, and why.
- `rests`, a hash: the same per target that is paused by itself. Those that are over are swept out when another is added.

Keys expire, but nothing is decided by that: they are kept for a minute longer than their content matters.

Time is the server's, in milliseconds. A generation counts how often a circuit was opened. A call remembers the one in
which it began, so that what it says after the circuit has been opened, and perhaps closed again, is known to be late.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import redis

from webapp.routing.gate_values import (
    ASK_AGAIN_MS,
    CIRCUITS_KEPT,
    FORGET_MS,
    MINUTE_MS,
    CircuitView,
    Ended,
    Entered,
    Refused,
    RestView,
    View,
    Wish,
)

_COMMON = f"""
local MINUTE, FORGET, ASK_AGAIN, KEPT = {MINUTE_MS}, {FORGET_MS}, {ASK_AGAIN_MS}, {CIRCUITS_KEPT}
"""

_CLOCK = """
local function clock(given)
  if given ~= '0' then return tonumber(given) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
"""

_WINDOWS = """
-- The minute, how much of it is gone, and {requests, tokens} of it and of the one before.
local function windows(key, now)
  local w = redis.call('HMGET', key, 'm', 'r', 't', 'pr', 'pt')
  local minute, gone, m = math.floor(now / MINUTE), now % MINUTE, tonumber(w[1] or -9)
  -- The clock was set back across the border: the minute that had begun goes on.
  if m == minute + 1 then minute, gone = m, 0 end
  if m == minute then
    return minute, gone, {tonumber(w[2]), tonumber(w[3])}, {tonumber(w[4]), tonumber(w[5])}
  end
  if m == minute - 1 then return minute, gone, {0, 0}, {tonumber(w[2]), tonumber(w[3])} end
  return minute, gone, {0, 0}, {0, 0}
end
"""

_CIRCUIT = """
local function circuit(raw, now)
  local c = {gen = 0, failures = 0, opened = 0, shut = 0, probe_till = 0, touched = 0, probe = '-'}
  if not raw then return c end
  local g, f, o, s, p, t, l = string.match(raw, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
  if not g or math.max(tonumber(s), tonumber(t)) + FORGET < now then return c end
  return {gen = tonumber(g), failures = tonumber(f), opened = tonumber(o), shut = tonumber(s),
          probe_till = tonumber(p), touched = tonumber(t), probe = l}
end
"""

_SAVE = """
local function save(key, target, c, now)
  if redis.call('HLEN', key) >= KEPT and redis.call('HEXISTS', key, target) == 0 then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      if circuit(all[i + 1], now).touched == 0 then redis.call('HDEL', key, all[i]) end
    end
  end
  redis.call('HSET', key, target, string.format('%.0f %.0f %.0f %.0f %.0f %.0f %s',
    c.gen, c.failures, c.opened, c.shut, c.probe_till, now, c.probe))
  local keep = math.max(c.shut - now, 0) + FORGET
  if redis.call('PTTL', key) < keep then redis.call('PEXPIRE', key, keep) end
end
"""

_ENTER = (
    _COMMON
    + _CLOCK
    + _WINDOWS
    + _CIRCUIT
    + _SAVE
    + """
-- KEYS: held, pace, circuits, pause, rests
-- ARGV: moment, target, lease, hold, tokens, requests per minute, tokens per minute, concurrent (-1: no limit)
local now, target, lease, hold = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local tokens, most_requests, most_tokens, most_held =
  tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local pause = redis.call('GET', KEYS[4])
if pause then
  local till, why = string.match(pause, '^(%d+) (.*)$')
  if tonumber(till) > now then return {0, 'paused', tonumber(till) - now, why} end
end
local rest = redis.call('HGET', KEYS[5], target)
if rest then
  local till, why = string.match(rest, '^(%d+) (.*)$')
  if tonumber(till) > now then return {0, 'resting', tonumber(till) - now, why} end
end

local c, probe = circuit(redis.call('HGET', KEYS[3], target), now), false
if c.shut > 0 then
  if now < c.shut then return {0, 'open', c.shut - now, tostring(c.failures)} end
  if now < c.probe_till then
    return {0, 'probing', math.min(c.probe_till - now, ASK_AGAIN), tostring(c.failures)}
  end
  probe = true
end

local reason, wait = nil, 0
if most_held >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if redis.call('ZCARD', KEYS[1]) >= most_held then
    local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    reason, wait = 'concurrent', math.min(tonumber(first[2]) - now, ASK_AGAIN)
  end
end
local minute, gone, new, old = -1, 0, nil, nil
if most_requests >= 0 or most_tokens >= 0 then
  minute, gone, new, old = windows(KEYS[2], now)
  -- What is asked for fits when the window holds no more than `room`; what is above its limit alone needs it empty.
  local function check(i, amount, most, name)
    if most < 0 or amount == 0 then return end
    local room = math.max(most - amount, 0)
    if old[i] * (MINUTE - gone) + new[i] * MINUTE <= room * MINUTE then return end
    local needed
    if new[i] <= room then
      needed = MINUTE - gone - math.floor((room - new[i]) * MINUTE / old[i])
    else
      needed = MINUTE - gone + MINUTE - math.floor(room * MINUTE / new[i])
    end
    if needed > wait then reason, wait = name, needed end
  end
  check(1, 1, most_requests, 'requests')
  check(2, tokens, most_tokens, 'tokens')
end
if reason then return {0, reason, wait, ''} end

if most_held >= 0 then
  redis.call('ZADD', KEYS[1], now + hold, lease)
  if redis.call('PTTL', KEYS[1]) < hold + MINUTE then redis.call('PEXPIRE', KEYS[1], hold + MINUTE) end
end
if new then
  if most_requests >= 0 then new[1] = new[1] + 1 end
  if most_tokens >= 0 then new[2] = new[2] + tokens end
  redis.call('HSET', KEYS[2], 'm', minute, 'r', new[1], 't', new[2], 'pr', old[1], 'pt', old[2])
  redis.call('PEXPIRE', KEYS[2], 3 * MINUTE)
end
if probe then
  c.probe, c.probe_till = lease, now + hold
  save(KEYS[3], target, c, now)
end
return {
  1, c.gen, most_tokens >= 0 and minute or -1, most_held >= 0 and 1 or 0, probe and 1 or 0, c.failures > 0 and 1 or 0
}
"""
)

_LEAVE = (
    _COMMON
    + _CLOCK
    + _CIRCUIT
    + _SAVE
    + """
-- KEYS: held, pace, circuits
-- ARGV: moment, target, lease, generation, minute, held, probe, change of tokens, verdict, failures, open for
local target, lease, minute, tokens = ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[8])
local probe, verdict = ARGV[7] == '1', ARGV[9]
if ARGV[6] == '1' then redis.call('ZREM', KEYS[1], lease) end
if minute >= 0 and tokens ~= 0 then
  local m = tonumber(redis.call('HGET', KEYS[2], 'm') or -9)
  local field = m == minute and 't' or m == minute + 1 and 'pt'
  if field and redis.call('HINCRBY', KEYS[2], field, tokens) < 0 then redis.call('HSET', KEYS[2], field, 0) end
end
if verdict == 'neutral' and not probe then return '' end

local raw = redis.call('HGET', KEYS[3], target)
if not raw and verdict == 'good' then return '' end
local now = clock(ARGV[1])
local c = circuit(raw, now)
if c.gen ~= tonumber(ARGV[4]) or (probe and c.probe ~= lease) or (not probe and c.shut > 0) then return '' end
local change = ''
if verdict == 'bad' then
  c.failures = c.failures + 1
  if probe or c.failures >= tonumber(ARGV[10]) then
    c.gen, c.shut, c.opened = c.gen + 1, now + tonumber(ARGV[11]), probe and c.opened or now
    change = probe and 'reopened' or 'opened'
  end
elseif verdict == 'good' then
  if not probe and c.failures == 0 then return '' end
  c.failures, c.opened, c.shut = 0, 0, 0
  change = probe and 'closed' or ''
end
c.probe, c.probe_till = '-', 0
save(KEYS[3], target, c, now)
return change
"""
)

_PAUSE = (
    _COMMON
    + _CLOCK
    + """
-- KEYS: pause, rests
-- ARGV: moment, for how long, reason, target (empty: the whole provider)
local now, length, target = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local function till(value) return value and tonumber(string.match(value, '^%d+')) or 0 end
local value = string.format('%.0f %s', now + length, ARGV[3])
if target == '' then
  if till(redis.call('GET', KEYS[1])) < now + length then redis.call('SET', KEYS[1], value, 'PX', length + MINUTE) end
  return
end
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if till(all[i + 1]) <= now then redis.call('HDEL', KEYS[2], all[i]) end
end
if till(redis.call('HGET', KEYS[2], target)) < now + length then redis.call('HSET', KEYS[2], target, value) end
if redis.call('PTTL', KEYS[2]) < length + MINUTE then redis.call('PEXPIRE', KEYS[2], length + MINUTE) end
"""
)

_RESET = (
    _COMMON
    + _CLOCK
    + _CIRCUIT
    + _SAVE
    + """
-- KEYS: circuits, pause, rests
-- ARGV: moment
local now = clock(ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  -- A new generation: what calls from before still have to say is late.
  local c = circuit(all[i + 1], now)
  c.gen, c.failures, c.opened, c.shut, c.probe, c.probe_till = c.gen + 1, 0, 0, 0, '-', 0
  save(KEYS[1], all[i], c, now)
end
"""
)

_LOOK = (
    _COMMON
    + _CLOCK
    + _WINDOWS
    + _CIRCUIT
    + """
-- KEYS: held, pace, circuits, pause, rests
-- ARGV: moment
local now = clock(ARGV[1])
local _, gone, new, old = windows(KEYS[2], now)
local function sliding(i) return math.ceil((old[i] * (MINUTE - gone) + new[i] * MINUTE) / MINUTE) end
local till, why = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (.*)$')
if not till or tonumber(till) <= now then till, why = 0, '' end
local held = redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
local rests = {}
local each = redis.call('HGETALL', KEYS[5])
for i = 1, #each, 2 do
  local rest_till, rest_why = string.match(each[i + 1], '^(%d+) (.*)$')
  if tonumber(rest_till) > now then rests[#rests + 1] = {each[i], tonumber(rest_till), rest_why} end
end
local answer = {now, held, sliding(1), sliding(2), tonumber(till), why, rests}
local all = redis.call('HGETALL', KEYS[3])
for i = 1, #all, 2 do
  local c = circuit(all[i + 1], now)
  if c.shut > 0 and now >= c.shut and now < c.probe_till then
    answer[#answer + 1] = {all[i], 'probing', c.failures, c.opened, c.probe_till}
  elseif c.shut > 0 or c.failures > 0 then
    answer[#answer + 1] = {all[i], c.shut > 0 and 'open' or 'closed', c.failures, c.opened, c.shut}
  end
end
return answer
"""
)

_IS_OPEN = (
    _COMMON
    + _CLOCK
    + _CIRCUIT
    + """
-- KEYS: circuits
-- ARGV: moment, target
local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then return 0 end
local now = clock(ARGV[1])
local c = circuit(raw, now)
return c.shut > 0 and (now < c.shut or now < c.probe_till) and 1 or 0
"""
)


def _bytes(text: str) -> bytes:
    # A lone surrogate, which JSON can bring in, has no UTF-8.
    return text.encode("utf-8", "backslashreplace")


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@lru_cache(maxsize=256)
def _keys(provider: str) -> Sequence[bytes]:
    """The provider's five keys, in the order held, pace, circuits, pause, rests."""
    return [_bytes(f"switchhook:gate:{{{provider}}}:{name}") for name in ("held", "pace", "circuits", "pause", "rests")]


class SharedGate:
    """The state in Redis; see `Keeper`. Every method is one round trip and raises `redis.RedisError`."""

    def __init__(self, connection: redis.Redis) -> None:
        self._enter = connection.register_script(_ENTER)
        self._leave = connection.register_script(_LEAVE)
        self._pause = connection.register_script(_PAUSE)
        self._reset = connection.register_script(_RESET)
        self._look = connection.register_script(_LOOK)
        self._is_open = connection.register_script(_IS_OPEN)

    def enter(self, provider: str, wish: Wish, at_ms: int = 0) -> Entered | Refused:
        """Check everything, then take everything or nothing."""
        pace = wish.pace
        answer = cast(
            list[Any],
            self._enter(
                _keys(provider),
                (
                    at_ms,
                    _bytes(wish.target),
                    wish.lease,
                    wish.hold_ms,
                    wish.tokens,
                    -1 if pace.requests_per_minute is None else pace.requests_per_minute,
                    -1 if pace.tokens_per_minute is None else pace.tokens_per_minute,
                    -1 if pace.concurrent is None else pace.concurrent,
                ),
            ),
        )
        if answer[0]:
            return Entered(answer[1], answer[2], bool(answer[3]), bool(answer[4]), bool(answer[5]))
        return Refused(_text(answer[1]), answer[2], _text(answer[3]))

    def leave(self, provider: str, ended: Ended, at_ms: int = 0) -> str:
        """Give back the place, correct the tokens, count the verdict."""
        entered = ended.entered
        change = self._leave(
            _keys(provider)[:3],
            (
                at_ms,
                _bytes(ended.target),
                ended.lease,
                entered.generation,
                entered.minute,
                int(entered.held),
                int(entered.probe),
                ended.change,
                ended.verdict.value,
                ended.failures,
                ended.open_ms,
            ),
        )
        return _text(cast(bytes, change))

    def pause(self, provider: str, pause_ms: int, reason: str, at_ms: int = 0, *, target: str = "") -> None:
        """Let no call begin for so long, of the provider or only of a target; the later end wins over a pause that is there."""
        self._pause(_keys(provider)[3:], (at_ms, pause_ms, _bytes(reason), _bytes(target)))

    def reset(self, provider: str, at_ms: int = 0) -> None:
        """Close all circuits, end all pauses."""
        self._reset(_keys(provider)[2:], (at_ms,))

    def look(self, provider: str, at_ms: int = 0) -> View:
        """The provider as it is now."""
        answer = cast(list[Any], self._look(_keys(provider), (at_ms,)))
        circuits = tuple(CircuitView(_text(c[0]), _text(c[1]), c[2], c[3], c[4]) for c in answer[7:])
        rests = tuple(sorted(RestView(_text(rest[0]), rest[1], _text(rest[2])) for rest in answer[6]))
        now, in_flight, requests, tokens, paused_until = answer[:5]
        return View(now, in_flight, requests, tokens, paused_until, _text(answer[5]), tuple(sorted(circuits)), rests)

    def is_open(self, provider: str, target: str, at_ms: int = 0) -> bool:
        """Whether the circuit would keep a call from beginning now."""
        return bool(self._is_open(_keys(provider)[2:3], (at_ms, _bytes(target))))
