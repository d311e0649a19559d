"""The command lines: flags to settings, settings to requests, errors to one line."""
