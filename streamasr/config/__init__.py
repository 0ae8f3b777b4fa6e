"""What can be set, and how it is read.

    sections.py     the settings: a class for each table of the file, a field for each key
    notes.py        what a field says of itself besides its type: when a change of it holds
    listing.py      the settings one by one, as the sections state them
    changes.py      what a reload takes over
    file.py         the file: where it is looked for, how it is read, what goes before it
    tables.py       from the tables of a file to the sections, checked
    complaints.py   what is said about a file that cannot be taken
    door.py         who may connect: the address and the token
    places.py       directories of the user's
    recognition.py  what the engine is given of the settings
    workers.py      what it hands on to the children, whole
    cores.py        how many threads each stage gets

A new setting is a field of a section, with its default, its range, when it holds and, below it, its
manual; `streamasr config`, the table in the README, the errors and the reload follow from that.
"""
