"""Screens: which widgets stand where, and what the keys of `tui.actions` do there."""
