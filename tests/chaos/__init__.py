"""Faults of all kinds at random moments on real workers, a real Kafka and a real Redis; then the truth.

    feed      the events, and the thread that writes them to Kafka
    world     broker, Redis, proxies and workers: what can be broken, and how it is made whole
    faults    what happens when, drawn from a seed
    watch     every score as a reader saw it while all this went on
    verify    a fold of its own over the topic, held against what the service left behind
    launch    a worker that notes in which order it read, or that is broken on purpose

`python -m chaos --help` says what can be asked for; `python -m chaos.soak --help` is the long quiet run.
"""
