"""Fleetcast: each vehicle's data to the phones that watch it, complete, in order, in near real time.

The map, from the vehicle to the phone, one module an arrow:

    packet  --ingest-->   a vehicle's packet, durable before the 202           (queue.put)
    queue   --consume-->  decode, merge, enrich; one atomic commit a batch     (queue.pull, live.commit)
    live    --edge-->     the update, to the replicas that listen              (edge.publish, pushpin)
    edge    --origin-->   snapshot, resume, next: what the edge asks us for    (live.latest, live.since)

`wiring` joins them for each role, `platform` runs them all on one machine, `commands` is the command line.
"""
