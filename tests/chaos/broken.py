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
    """Resume where Kafka's commit was when the shard was opened, not where the state is."""

    def asking(right):
        def committed(self, seconds):
            self._was = right(self, seconds)
            return self._was

        return committed

    def elsewhere(right):
        def assign(self, offsets):
            was = {p: commit.offset for p, commit in getattr(self, "_was", {}).items()}
            self._was = {}
            right(self, {p: was.get(p, o) for p, o in offsets.items()})

        return assign

    KafkaSource.committed = asking(KafkaSource.committed)
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
    """Scope partition: let the client read on wherever it would, as it does unless it is told otherwise."""

    def on_assign(self, consumer, partitions):
        consumer.incremental_assign(partitions)
        self._assigned = [*self._assigned, *partitions]
        self._given += [p.partition for p in partitions]

    KafkaMember._on_assign, KafkaMember.take = on_assign, lambda self, offsets: self.resume()


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
