"""Which models there are, how they are fetched, and which of them are installed.

    known.py, known.toml   models by name, and where they are published
    hub.py                 the files of a repository
    download.py            one file: resumable, checked; in its service
        remote_file.py         where it comes from, by way of a connection.py
        partial_file.py        what has come of it
        timeouts.py            how long it is waited for
    fetch.py               all files of a model, into places.py; hashes.py: as the first time
    installed.py           the models that were made of such files, or of a user's own
    find.py                from a name or a path to one of them

Only `streamasr models pull` reaches the network, and loads what can. What is installed is used
without it.
"""
