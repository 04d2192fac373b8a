"""Axolotl's telemetry, on a machine that cannot send it: without a network it holds a finished run up for minutes.

Where the environment says that the machine is offline (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE), nothing is sent. Elsewhere
what is still waiting at the end of a run gets `GRACE` seconds. AXOLOTL_DO_NOT_TRACK=1 turns it off from the start.
"""

import atexit
import os
from threading import Thread
from typing import Any

GRACE = 5.0  # seconds
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_offline() -> bool:
    """Return whether the environment says that the machine has no network."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def turn_off(manager: Any) -> bool:
    """Turn Axolotl's telemetry off for this run and the processes it starts; return whether it was on."""
    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    was_on, manager.enabled = bool(manager.enabled), False
    return was_on


def settle(manager: Any, client: Any, grace: float = GRACE) -> bool:
    """Give the events still waiting `grace` seconds to be sent; return whether they were. No exit waits for the rest.

    `manager` is Axolotl's, `client` the module posthog, whose own clients wait at exit too.
    """
    if not manager.enabled:
        return True
    sending = Thread(target=client.shutdown, daemon=True)
    sending.start()
    sending.join(grace)
    atexit.unregister(manager.shutdown)
    if (default := getattr(client, "default_client", None)) is not None:
        atexit.unregister(default.join)
    return not sending.is_alive()
