"""Recordings of the wire protocol and of the storage, to be compared with after a change."""
