"""Dictation: types recognised text into the window that has the focus.

    shortcut -> control -> push_to_talk ─┐ begin, end, abandon
    microphone -> daemon -> messages -> composer -> edits -> chain -> wtype, xdotool, clipboard ...

`push_to_talk` and `composer` are pure; `desktop` detects the programs that can type on this
desktop. Dictation is a client of the daemon: it uses `streamasr.client` and nothing of the daemon's
internals.
"""
