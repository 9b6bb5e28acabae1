"""What the house spends on calls of its own, such as sorting: a daily bound, kept by the same counters as everybody's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.contracts.money import MICROUSD
from webapp.extensions import current_settings, now
from webapp.quota import holds
from webapp.quota.holds import Need, NoRoom
from webapp.quota.windows import bounds

SUBJECT = "house"
_LIVES = timedelta(minutes=15)
"""Longer than any call of the house: what is reserved longer belongs to a process that has died."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call of the house may spend."""

    hold_id: int
    need: Need


def bound_microusd() -> int:
    """What the operator lets the house spend in a day (UTC), in micro-dollars."""
    return round(current_settings().house_daily_usd * MICROUSD)


def reserve(connection: Connection, microusd: int, daily_microusd: int, at: datetime) -> Reservation | None:
    """Hold an amount of today's bound (UTC); None if there is no room. What a crash leaves held the sweep gives back."""
    limit = Limit(SUBJECT, "calls", Dimension.COST, Window.DAY, daily_microusd, "spending of the house")
    need = Need(limit, microusd, *bounds(Window.DAY, at, "UTC"), "UTC")
    try:
        return Reservation(holds.reserve(connection, need, at + _LIVES), need)
    except NoRoom:
        return None


def settle(connection: Connection, reserved: Reservation, microusd: int) -> None:
    """Turn what was reserved into what was spent, in the window of the reservation: also after midnight, and also if a vendor
    counted more than was reserved, so that the bound refuses the next call."""
    holds.release(connection, reserved.hold_id, reserved.need, microusd, now(), SUBJECT)
