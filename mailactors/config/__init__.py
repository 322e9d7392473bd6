"""The configuration: one TOML file, composed of the rooms' own settings, parsed once, frozen."""

from mailactors.config.checks import check_files, unused_providers
from mailactors.config.load import load_config, merge, parse_toml, problem_lines, stray_variables
from mailactors.config.shown import as_toml, effective
from mailactors.config.tree import (
    Config,
    ConfigError,
    ProviderSettings,
    ServiceSettings,
    SimulatedProviderSettings,
    SmtpProviderSettings,
    nearest,
)

__all__ = [
    "Config",
    "ConfigError",
    "ProviderSettings",
    "ServiceSettings",
    "SimulatedProviderSettings",
    "SmtpProviderSettings",
    "as_toml",
    "check_files",
    "effective",
    "load_config",
    "merge",
    "nearest",
    "parse_toml",
    "problem_lines",
    "stray_variables",
    "unused_providers",
]
