"""The version: read by setup.py too, so this file imports nothing."""

VERSION = "0.1.0"
