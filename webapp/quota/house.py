"""What the house spends on calls of its own, such as sorting: a daily bound, kept by the same counters as everybody's."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.contracts.money import MICROUSD
from webapp.extensions import current_settings
from webapp.quota import holds
from webapp.quota.holds import Need, NoRoom
from webapp.quota.windows import bounds

SUBJECT = "house"


def bound_microusd() -> int:
    """What the operator lets the house spend in a day (UTC), in micro-dollars."""
    return round(current_settings().house_daily_usd * MICROUSD)


def reserve(connection: Connection, microusd: int, daily_microusd: int, at: datetime) -> Need | None:
    """Hold an amount of today's bound (UTC); None if there is no room. What a crash leaves held is free again tomorrow."""
    limit = Limit(SUBJECT, "calls", Dimension.COST, Window.DAY, daily_microusd, "spending of the house")
    need = Need(limit, microusd, *bounds(Window.DAY, at, "UTC"), "UTC")
    try:
        holds.raise_counters(connection, [need])
    except NoRoom:
        return None
    return need


def settle(connection: Connection, need: Need, microusd: int) -> None:
    """Turn what was reserved into what was spent, in the window of the reservation: also after midnight, and also if a vendor
    counted more than was reserved, so that the bound refuses the next call."""
    holds.lower_counter(connection, need, microusd)
