#!/bin/bash
# Creates the stack's topics and ends; a topic that is there already is left as it is.
set -euo pipefail

create() {
  /opt/kafka/bin/kafka-topics.sh --bootstrap-server "$BOOTSTRAP_SERVERS" --create --if-not-exists \
    --replication-factor 1 "$@"
}

# A gigabyte a partition holds some hours of the generator's events.
create --topic events --partitions 3 --config retention.ms=86400000 --config retention.bytes=1073741824
create --topic events.dead-letters --partitions 1 --config retention.ms=604800000 \
  --config retention.bytes=1073741824 --config max.message.bytes=2097152
