"""Which models there are, how they are fetched, and which of them are installed.

known -> hub, download -> a directory of files -> `streamasr.importing` -> installed

Only `streamasr models` reaches the network. What is installed is used without it.
"""
