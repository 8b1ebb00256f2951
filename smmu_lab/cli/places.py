"""Where the devices are, and what that costs."""

from __future__ import annotations
