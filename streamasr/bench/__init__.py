"""How fast it is, measured: `streamasr bench`.

`recording`, `delays` and `figures` are pure: from what was said and heard, and when, to numbers.
`daemon` and `telemetry` look at a running daemon from outside; `latency`, `throughput` and `soak`
talk to it as any client does. `update`, `file` and part of `throughput` drive an engine of their
own. `report` and `plot` show what came of it.
"""
