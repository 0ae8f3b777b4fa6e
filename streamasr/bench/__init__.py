"""Measurements of speed: `streamasr bench`.

`recording`, `delays` and `figures` are pure: from messages with their times to numbers.
`daemon` and `telemetry` look at a running daemon from outside; `latency`, `throughput` and `soak`
talk to it as any client does. `update`, `file` and part of `throughput` drive an engine of their
own. `report` and `plot` show the results.
"""
