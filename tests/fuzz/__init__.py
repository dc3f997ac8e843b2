"""A mutating fuzzer over the decoder and the whole worker: `make fuzz`, `python -m fuzz --help`.

Valid events are spoilt by rules that know JSON and the schema, and as bytes; so are keys, headers and
timestamps, under schemas that are made up as it goes. A refusal that was not seen before (its reason and
the shape of its message) makes a payload worth spoiling further. `corpus/` keeps one small payload for each.

What must hold, whatever comes:

- the decoder answers with an Event or BadEvent, and agrees with plain Python on which and with what numbers;
- the worker ends only when it is told to;
- each payload is learned, scored or dead-lettered exactly once, its letter holding what came;
- the model is, to the bit, one that never met what was refused; and so are the scores.
"""
