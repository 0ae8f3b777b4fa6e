"""The daemon as a service: what systemd arranges for it, and how it is installed there.

Nothing here is needed where no service manager started the daemon, and nothing of it is done then.
"""
