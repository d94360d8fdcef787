"""Benchmarks: one file a question, each a `run(bench) -> Answer`. `make bench` and `make bench-full` ask them.

    steps      each step against the same work in one bare script
    load       the floor load on this one machine, and the highest rate that holds
    latency    from acknowledged to seen, against Pushpin fed directly, nchan and sse-starlette
    stages     polling; streams held by the backend; Pushpin by HTTP POST; Pushpin by ZeroMQ: the same work
    interest   what a vehicle costs that nobody watches
    growth     cost as packets, phones, vehicles and edges grow
    storms     ten thousand phones lose their edge at once
    streams    memory of idle streams, to 200,000
    doors      MQTT against HTTP: packets, connections held, memory of a connection
    calm       what a calm stream saves on a phone's connection

What they share: `question.py` (what a question gets and answers), `world.py` (a platform, its processes' CPU time, memory and
metrics), `cars.py`, `senders.py` and `phones.py` (load, in processes of
their own), `preload.py`, `machine.py`, `stats.py`, `report.py`.
"""
