"""Widgets. What they draw comes through `tui.text`, or is ours."""
