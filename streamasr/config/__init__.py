"""Settings: their definitions, and the file that they are read from.

    sections.py       the settings: a class for each table of the file, a field for each key
    notes.py          notes of a field besides its type: when a change takes effect
    listing.py        the settings one by one, derived from the sections
    changes.py        the changes that a reload applies
    file.py           the file: where it is looked for, how it is read, what overrides it
    tables.py         from the tables of a file to the sections, checked
    config_errors.py  messages about a wrong file
    document.py       the settings as a file with comments, and as tables
    endpoint.py       access to the daemon: the address and the token
    places.py         directories of the user

A new setting is a field of a section, with its default, its range, the time when it takes effect
and, below it, its manual. `streamasr config`, the tables in README.md, error messages and the
reload follow from that. Settings are read by every command, so nothing here loads numpy or a
native library.
"""
