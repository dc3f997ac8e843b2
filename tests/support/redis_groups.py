"""Several real redis-servers as one: a master and a replica under sentinels, and a cluster of six."""

import tempfile
import time
from pathlib import Path

from fluvial.adapters.embedded import Leash
from support.redis_server import BINARY, RedisServer, free_port

SECONDS = 30
QUICK = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def until(done, what):
    import redis

    end = time.monotonic() + SECONDS
    while True:
        try:
            if done():
                return
        except redis.exceptions.RedisError:
            pass
        assert time.monotonic() < end, f"{what} did not come about in {SECONDS} s"
        time.sleep(0.05)


def linked(replica):
    return replica.cli.info("replication").get("master_link_status") == "up"


def caught_up(master):
    """Everything that the master wrote is on its replica."""
    return master.cli.execute_command("WAIT", 1, 4_000) >= 1


def cut(master):
    """From now on nothing reaches the replica, which may still take over: its login is refused."""
    master.cli.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
    master.cli.execute_command("CLIENT", "KILL", "TYPE", "replica")
    until(lambda: master.cli.info("replication")["connected_slaves"] == 0, "the cut")


class SentinelGroup:
    """One master, one replica, three sentinels of which two must agree. `cli` follows the master."""

    MASTER = "main"

    def __init__(self):
        import redis.sentinel

        self.servers = [RedisServer(*QUICK).start()]
        self._sentinels = []
        replicaof = ("--replicaof", "127.0.0.1", str(self.servers[0].port))
        self.servers.append(RedisServer(*QUICK, *replicaof).start())
        until(lambda: linked(self.servers[1]), "replication")
        self.ports = [free_port() for _ in range(3)]
        for port in self.ports:
            self._sentinels.append(self._sentinel(port))
        hosts = [("127.0.0.1", port) for port in self.ports]
        self._asked = redis.sentinel.Sentinel(hosts, socket_timeout=2)
        self.cli = self._asked.master_for(self.MASTER, socket_timeout=5)
        until(self._agreed, "the sentinels' agreement")

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{self.MASTER}/0"

    def _sentinel(self, port):
        directory = Path(tempfile.mkdtemp(prefix="fluvial-sentinel-"))
        (directory / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {self.MASTER} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {self.MASTER} 2000\n"
            f"sentinel failover-timeout {self.MASTER} 4000\n"
        )
        return Leash([BINARY, str(directory / "sentinel.conf"), "--sentinel"], directory)

    def _agreed(self):
        states = [sentinel.sentinel_masters()[self.MASTER] for sentinel in self._asked.sentinels]
        return all(s["num-other-sentinels"] == 2 and s["num-slaves"] == 1 for s in states)

    def master_of(self, key):
        return self.servers[0]

    def wait_for_failover(self, lost):
        until(
            lambda: (
                self._asked.discover_master(self.MASTER)[1] != lost.port
                and self.servers[1].cli.info("replication")["role"] == "master"
            ),
            "the failover",
        )

    def on_every_server(self, *command):
        for server in self.servers:
            server.cli.execute_command(*command)

    def stop(self):
        self.cli.close()
        self._asked.close()
        for sentinel in self._sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()


class ClusterGroup:
    """Three masters and a replica of each. `cli` is a client of the cluster."""

    def __init__(self):
        from redis.cluster import ClusterNode, RedisCluster

        self.servers = []
        for _ in range(6):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            server = RedisServer(*QUICK, *options, "--cluster-port", str(free_port()))
            self.servers.append(server.start())
        self._form()
        nodes = [ClusterNode("127.0.0.1", server.port) for server in self.servers]
        self.cli = RedisCluster(startup_nodes=nodes, socket_timeout=5)

    def _form(self):
        first, masters = self.servers[0], self.servers[:3]
        for server in self.servers[1:]:
            bus = server.cli.config_get("cluster-port")["cluster-port"]
            first.cli.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
        for number, server in enumerate(masters):
            low, high = 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
            server.cli.execute_command("CLUSTER ADDSLOTSRANGE", low, high)
        until(lambda: all(self._info(s)["cluster_known_nodes"] == "6" for s in self.servers), "the meeting")
        for master, replica in zip(masters, self.servers[3:], strict=True):
            replica.cli.execute_command("CLUSTER REPLICATE", master.cli.execute_command("CLUSTER MYID"))
        until(lambda: all(linked(replica) for replica in self.servers[3:]), "replication")
        until(lambda: all(self._info(s)["cluster_state"] == "ok" for s in self.servers), "the cluster")
        # Who may be promoted is known everywhere only when every node has heard of every replica.
        until(lambda: all(self._replicas(s) == 3 for s in self.servers), "the roles")

    @staticmethod
    def _info(server):
        return server.cli.execute_command("CLUSTER INFO")

    @staticmethod
    def _replicas(server):
        nodes = server.cli.execute_command("CLUSTER NODES")
        return sum("slave" in node["flags"] for node in nodes.values())

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])
        return f"redis+cluster://{hosts}"

    def master_of(self, key):
        port = self.cli.get_node_from_key(key).port
        return next(server for server in self.servers if server.port == port)

    def wait_for_failover(self, lost):
        replica = self.servers[self.servers.index(lost) + 3]
        alive = [server for server in self.servers if server is not lost]
        until(lambda: replica.cli.info("replication")["role"] == "master", "the failover")
        until(lambda: all(self._info(s)["cluster_state"] == "ok" for s in alive), "the cluster")
        self.cli.nodes_manager.initialize()

    def on_every_server(self, *command):
        for server in self.servers:
            server.cli.execute_command(*command)

    def stop(self):
        self.cli.close()
        for server in self.servers:
            server.stop()
