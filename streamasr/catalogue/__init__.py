"""Models: those that can be downloaded, and those that are installed.

    known.py, known.toml   models by name, and where they are published
    hub.py                 the files of a repository
    download.py            one file: resumable and checked
        remote_file.py         the file at its address, through a connection.py
        partial_file.py        the part that was downloaded
        timeouts.py            limits for failures, silence and slowness
    fetch.py               all files of a model, into places.py; hashes.py compares later downloads
    pull.py                from a known name to an installed model
    install.py             from files on this machine to an installed model
    installed.py           the installed models
    moved.py               sources that were moved after their import
    listing.py             all models that a user can choose among
    find.py                from a name or a path to the directory of a model
    memory.py              memory that a decoder's context takes
    steps.py               reports of a long piece of work

Only `streamasr models pull` uses the network and loads what that needs.
"""
