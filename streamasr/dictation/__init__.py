"""Dictation: what is recognised is typed into the window that has the focus.

    shortcut -> control -> push_to_talk ─┐ begin, end, abandon
    microphone -> daemon -> messages -> composer -> edits -> chain -> wtype, xdotool, clipboard ...

`push_to_talk` and `composer` are pure; `desktop` finds out what can type here. A program of the
daemon's users as any other: it knows `streamasr.client` and nothing of the daemon's inside.
"""
