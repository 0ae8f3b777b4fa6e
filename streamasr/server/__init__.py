"""Sockets and HTTP: listening, access, connections, and the files of the web page."""
