"""The daemon as a service of systemd: what systemd arranges for it, and its installation.

A daemon that was not started by a service manager does nothing of this, and needs nothing of it.
"""
