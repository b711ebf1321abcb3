"""Settings and where each came from: flags > `EDGED_*` variables > TOML file > defaults."""

from edged.config.layers import Key, Origin, SourceKind
from edged.config.load import Flag, Loaded, load_settings
from edged.config.server import ServerSettings
from edged.config.settings import (
    EngineSettings,
    ModelSettings,
    SchedulerSettings,
    Settings,
    TierSettings,
    TiersSettings,
)

__all__ = [
    "EngineSettings",
    "Flag",
    "Key",
    "Loaded",
    "ModelSettings",
    "Origin",
    "SchedulerSettings",
    "ServerSettings",
    "Settings",
    "SourceKind",
    "TierSettings",
    "TiersSettings",
    "load_settings",
]
