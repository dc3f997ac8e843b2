"""Builds broken on purpose, for one worker process: what the verdict must call bad.

Each function breaks the package in this process, before the worker is made.
"""

import hashlib

from confluent_kafka import TopicPartition

from fluvial.adapters import redis
from fluvial.adapters.kafka import KafkaMember, KafkaSource
from fluvial.adapters.redis import Script
from fluvial.learner import Learner
from fluvial.shard import Shard


def resume_from_kafka():
    """Resume where Kafka's committed offset is, not where the state is."""

    def elsewhere(right):
        def assign(self, offsets):
            committed = self.committed(10.0) if offsets else {}
            right(self, {p: committed[p].offset if p in committed else o for p, o in offsets.items()})

        return assign

    KafkaSource.assign, KafkaMember.take = elsewhere(KafkaSource.assign), elsewhere(KafkaMember.take)


def commit_first():
    """Commit to Kafka before the state is saved, and resume from there."""
    resume_from_kafka()
    made, right, sources = KafkaSource.__init__, Shard.save, []

    def remembered(self, *args):
        made(self, *args)
        sources.append(self)

    def save(self, store, *rest):
        where = [TopicPartition(self.settings.kafka.topic, p, o) for p, o in self.offsets.items()]
        sources[-1]._consumer.commit(offsets=where, asynchronous=False)
        right(self, store, *rest)

    KafkaSource.__init__, Shard.save = remembered, save


def no_seek():
    """Assign the partitions and let the client decide where to read on."""

    def anywhere(right):
        def assign(self, offsets):
            right(self, offsets)
            if self._assigned:
                self._consumer.assign([TopicPartition(self.topic, t.partition) for t in self._assigned])

        return assign

    KafkaSource.assign, KafkaMember.take = anywhere(KafkaSource.assign), anywhere(KafkaMember.take)


def no_fence():
    """Write whoever asks: nobody compares epoch, token or sequence."""
    right = Script.__init__

    def made(self, name):
        right(self, name)
        text = self.sources[0]
        text = text.replace("local owner = head[1] == ARGV[1] and head[2] == ARGV[2]", "local owner = true")
        text = text.replace("if not owner or wanted ~= stored + 1 then", "if false then")
        text = text.replace("if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then", "if false then")
        self.sources = (text, text.partition("\n")[2])
        self.digests = tuple(hashlib.sha1(source.encode()).hexdigest() for source in self.sources)

    Script.__init__ = made
    redis._StoredHead.settled = lambda self, claim, sequence, digest: False


def no_detectors():
    """Save the model and forget the detectors."""
    right = Learner.state
    Learner.state = lambda self: {**right(self), "monitor": None}


def learn_first():
    """Learn an event before its score is made."""
    right = Learner.step

    def step(self, event):
        self._learn(event, event.y) if event.y is not None else None
        return right(self, event)

    Learner.step = step


BUILDS = {
    "resume-from-kafka": resume_from_kafka,
    "commit-first": commit_first,
    "no-seek": no_seek,
    "no-fence": no_fence,
    "no-detectors": no_detectors,
    "learn-first": learn_first,
}
