"""What happens when: every choice comes from the seed, and none from what has become of the run."""

import heapq
import itertools
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random

from chaos.world import YOUNG_SECONDS

WEIGHTS = {
    "kill": 40,  # SIGKILL of a worker, started again soon
    "kill-at": 20,  # SIGKILL at a step of its protocol with Redis: before it is done, or before it is known
    "kill-all": 4,
    "stop": 10,  # SIGSTOP of a worker and later SIGCONT: the lease is long gone
    "term": 6,  # SIGTERM and a new start: an orderly move
    "leave": 5,  # SIGTERM, and nobody comes for a while: the members change
    "redis-kill": 5,  # SIGKILL, started again on its append-only file
    "redis-stop": 4,  # SIGSTOP and SIGCONT: it answers nobody
    "redis-hole": 7,  # one worker's packets go nowhere
    "redis-lost": 10,  # a script ran and its answer never came
    "redis-reset": 4,
    "kafka-kill": 3,  # SIGKILL of the broker, started again on what it kept
    "kafka-term": 2,
    "kafka-hole": 5,
    "kafka-reset": 4,
}
SECONDS = {
    "kill": (0.0, 0.5),
    "kill-at": (0.0, 0.5),
    "kill-all": (0.0, 1.0),
    "stop": (0.5, 8.0),
    "term": (0.0, 0.5),
    "leave": (2.0, 6.0),
    "redis-kill": (0.2, 4.0),
    "redis-stop": (0.5, 4.0),
    "redis-hole": (0.5, 6.0),
    "kafka-kill": (0.2, 4.0),
    "kafka-term": (0.2, 4.0),
    "kafka-hole": (0.5, 8.0),
}
MARKERS = (b"EVALSHA", b"SET")
MOMENTS = {"save": b":journal\r\n", "upload": b"\r\nSET\r\n", "publish": b":published:"}
"""What a request to Redis has in it at each step: the flip of a checkpoint, its blob, scores (or a claim)."""
SHORT = 0.25
"""Share of faults that do not wait for progress: some must fall into a start, or into an outage."""
WAIT_SECONDS = 10.0
FENCED = "two live workers have one kafka.instance_id"
"""A static member that the group refused four times within five minutes; fewer times it joins anew."""


@dataclass(frozen=True)
class Fault:
    """One fault, fully decided."""

    kind: str
    slot: int
    seconds: float
    """How long it lasts, or how long until the new start."""
    after: int
    """Events to see scored before it strikes, so that most find the workers at work; 0: at once."""
    delay: float
    hash_seed: int
    marker: bytes
    times: int
    moment: str
    """Of `MOMENTS`."""
    answered: bool
    """After it was done, or before."""


def drawn(seed, workers, kinds=None):
    """Endless faults from a seed; `kinds` leaves out all others."""
    rng = Random(f"faults {seed} {workers}")
    names = [kind for kind in WEIGHTS if kinds is None or kind in kinds]
    weights = [WEIGHTS[kind] for kind in names]
    while True:
        kind = rng.choices(names, weights)[0]
        at_work = rng.random() >= SHORT
        low, high = SECONDS.get(kind, (0.0, 0.0))
        yield Fault(
            kind=kind,
            slot=rng.randrange(workers),
            seconds=rng.uniform(low, high),
            after=rng.randrange(1, 600) if at_work else 0,
            delay=rng.uniform(0.0, 0.05) if at_work else rng.uniform(0.2, 2.5),
            hash_seed=rng.randrange(1, 2**32),
            marker=rng.choice(MARKERS),
            times=rng.randrange(1, 4),
            moment=rng.choices(list(MOMENTS), (3, 1, 1))[0],
            answered=rng.random() < 0.5,
        )


class Storm:
    """Lets faults loose on a world and, when they are over, takes them back."""

    def __init__(self, world, watch, tell):
        self._world = world
        self._watch = watch
        self._tell = tell
        self._began = time.monotonic()
        self._due = []
        self._numbers = itertools.count()
        self._busy = {}
        """What is broken now, by what it is broken on."""
        self._leaving = {}
        self._armed = {}
        """By slot, the fault that its proxy waits to carry out."""
        self.counts = Counter()
        self.fenced = 0
        """Static members that faults kept from the group so often that it looked like a rival. Ending is
        safe, so it is counted and not called a fault."""
        self.odd = []
        """Workers that ended though nobody ended them, or otherwise than they should."""

    # ---- time --------------------------------------------------------------------------------

    def run(self, faults, seconds):
        """Let `faults` strike, one after the other, for so long."""
        until = time.monotonic() + seconds
        for fault in faults:
            seen, patience = self._watch.total, time.monotonic() + WAIT_SECONDS
            while fault.after and self._watch.total < seen + fault.after:
                if time.monotonic() > min(patience, until):
                    break
                self._turn(0.005)
            self._turn(fault.delay)
            if time.monotonic() > until:
                return
            self._strike(fault)

    def heal(self):
        """Take back everything that is broken, now, and start who is not there."""
        for slot in self._world.slots:
            slot.redis.disarm()
        while self._due or self._leaving:
            while self._due:
                self._undo()
            self._turn(0.05)
        self._world.broker.wait()
        for slot in self._world.slots:
            if slot.process is None:
                slot.start(1)

    def until(self, ready, seconds):
        """Let time pass until something is so, but no longer than this."""
        limit = time.monotonic() + seconds
        while not ready() and time.monotonic() < limit:
            self._turn(0.02)
        self._began = time.monotonic()

    def turn(self, seconds):
        """Let time pass; look after the workers."""
        self._turn(seconds)

    def end(self, slot):
        """End a worker in an orderly way, and hold it to that."""
        if slot.process is not None:
            self._tell_to_end(slot, lambda: None)
        while slot.number in self._leaving:
            self._turn(0.02)

    def _tell_to_end(self, slot, then):
        """SIGTERM; `then` is called when it has ended."""
        young = time.monotonic() - slot.began < YOUNG_SECONDS
        limit = time.monotonic() + self._world.settings.worker.grace_seconds + 10.0
        slot.wanted = False
        slot.send(signal.SIGTERM)
        self._leaving[slot.number] = (limit, young, then)

    def _turn(self, seconds):
        until = time.monotonic() + seconds
        while True:
            while self._due and self._due[0][0] <= time.monotonic():
                self._undo()
            self._supervise()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.02))

    def _later(self, name, seconds, undo):
        """Have `undo` done after so many seconds; until then nothing else happens to `name`."""
        self._busy[name] = True
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), name, undo))

    def _undo(self):
        _, _, name, undo = heapq.heappop(self._due)
        self._busy.pop(name, None)
        undo()

    def _supervise(self):
        """Start again whoever ended by itself, as an operator's supervisor would, and remember it."""
        for slot in self._world.slots:
            if slot.number in self._leaving:
                self._see_off(slot)
                continue
            lives, code = str(slot), slot.ended()
            if code is not None and slot.tripped:
                self._tripped(slot, lives)
            elif code is not None and slot.wanted:
                said = slot.said()
                fenced = code == 1 and FENCED in said.splitlines()[-1]
                self._say("ended", slot, f"by itself, with status {code}{', fenced by the group' * fenced}")
                if fenced:
                    self.fenced += 1
                else:
                    self.odd.append(f"{slot} ended by itself with status {code}: {said}")
                slot.start(slot.lives + 1)

    def _tripped(self, slot, lives):
        """It was killed at the moment that was waited for."""
        fault = self._armed[slot.number]
        self.counts["SIGKILL"] += 1
        when = "after" if fault.answered else "before"
        self._count(fault, lives, f"{when} a {fault.moment}, at {self._watch.total:,} scores")
        self._later(str(slot.number), fault.seconds, lambda: slot.start(fault.hash_seed))

    def _see_off(self, slot):
        """A worker that was told to end: whether it has, and how."""
        limit, young, then = self._leaving[slot.number]
        code = slot.ended()
        if code is None:
            if time.monotonic() < limit:
                return
            slot.kill()
            self.odd.append(f"{slot} did not end within its grace after SIGTERM: {slot.said()}")
        elif slot.tripped:
            self.counts["SIGKILL"] += 1
            self._count(self._armed[slot.number], slot, "while it was ending")
        elif code != 0 and not (young and code == -signal.SIGTERM):
            self.odd.append(f"{slot} ended with status {code} after SIGTERM: {slot.said()}")
        del self._leaving[slot.number]
        then()

    def _say(self, kind, what, detail=""):
        at = time.monotonic() - self._began
        self._tell(f"{at:7.1f} s  {kind:<12} {what!s:<20} {detail}".rstrip())

    # ---- faults ------------------------------------------------------------------------------

    def _strike(self, fault):
        slot = self._world.slots[fault.slot]
        family, _, what = fault.kind.partition("-")
        if family == "redis":
            self._strike_redis(fault, slot, what)
        elif family == "kafka":
            self._strike_kafka(fault, slot, what)
        elif fault.kind == "kill-all":
            victims = [s for s in self._world.slots if self._free(s)]
            for each in victims:
                self._kill(each, fault)
            if victims:
                self._count(fault, "all workers", f"{len(victims)} of them")
        elif self._free(slot):
            self._strike_worker(fault, slot)

    def _free(self, slot):
        return slot.running and str(slot.number) not in self._busy

    def _count(self, fault, what, detail=""):
        self.counts[fault.kind] += 1
        self._say(fault.kind, what, detail)

    def _kill(self, slot, fault):
        slot.kill()
        self.counts["SIGKILL"] += 1
        self._later(str(slot.number), fault.seconds, lambda: slot.start(fault.hash_seed + slot.number))

    def _strike_worker(self, fault, slot):
        name, seconds = str(slot.number), fault.seconds
        if fault.kind == "kill":
            self._count(fault, slot, f"at {self._watch.total:,} scores, back after {seconds:.1f} s")
            self._kill(slot, fault)
        elif fault.kind == "kill-at":
            if not slot.armed:
                self._armed[slot.number] = fault
                slot.arm(MOMENTS[fault.moment], answered=fault.answered)
        elif fault.kind == "stop":
            self._count(fault, slot, f"for {seconds:.1f} s")
            slot.send(signal.SIGSTOP)
            slot.stopped = True
            self._later(name, seconds, lambda: self._go_on(slot))
        else:
            self._count(fault, slot, f"back after {seconds:.1f} s")
            self._busy[name] = True
            again = partial(slot.start, fault.hash_seed)
            self._tell_to_end(slot, lambda: self._later(name, seconds, again))

    def _go_on(self, slot):
        slot.stopped = False
        slot.send(signal.SIGCONT)
        self._say("cont", slot)

    def _strike_redis(self, fault, slot, what):
        redis, seconds = self._world.redis, fault.seconds
        if what == "lost":
            self._count(fault, slot, f"{fault.times} answers to {fault.marker.decode()}")
            slot.redis.swallow(fault.marker, fault.times)
        elif what == "reset":
            self._count(fault, slot)
            slot.redis.reset()
        elif what == "hole":
            self._hole(fault, slot.redis, f"redis of {slot.number}", slot)
        elif "redis" not in self._busy:
            self._count(fault, "redis", f"for {seconds:.1f} s")
            if what == "kill":
                redis.kill()
                self._later("redis", seconds, self._redis_again)
            else:
                redis.pause()
                self._later("redis", seconds, redis.resume)

    def _redis_again(self):
        self._world.redis.start()
        self._say("redis-back", "redis")

    def _strike_kafka(self, fault, slot, what):
        broker = self._world.broker
        if what == "reset":
            self._count(fault, slot)
            slot.kafka.reset()
        elif what == "hole":
            self._hole(fault, slot.kafka, f"kafka of {slot.number}", slot)
        elif "kafka" not in self._busy:
            self._count(fault, "the broker", f"for {fault.seconds:.1f} s")
            broker.stop("9" if what == "kill" else "TERM")
            self._later("kafka", fault.seconds, self._broker_again)

    def _broker_again(self):
        self._world.broker.start()
        self._say("kafka-back", "the broker")

    def _hole(self, fault, proxy, name, slot):
        if name in self._busy:
            return
        self._count(fault, slot, f"for {fault.seconds:.1f} s")
        proxy.go_silent()
        self._later(name, fault.seconds, proxy.heal)
