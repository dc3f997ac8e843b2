"""The stack without a container engine: its files against their schemas, and against the code's own names."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fluvial.adapters.metric_catalogue import CATALOGUE, labels_of, values_of
from fluvial.config import RedisSettings, ScoreSettings, Secret, load
from fluvial.keys import Keys
from support.parts import missing
from support.prometheus_server import filled_in, questions

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "fluvial.json"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()

STACK = yaml.safe_load(COMPOSE.read_text())
SERVICES = STACK["services"]
LONG_RUNNING = sorted(set(SERVICES) - {"topics"})


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def settings():
    """As the container would load them."""
    return load(DEPLOY / "fluvial.toml", SERVICES["fluvial"]["environment"])


def mounts():
    """(service, source, target, mode) of every volume."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            yield name, source, target, mode[0] if mode else "rw"


def memory(text):
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


# --- the compose file -------------------------------------------------------------------------------


def test_compose_file_follows_the_compose_schema():
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_ports_are_published_on_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_images_are_pinned():
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert tag == "local" or re.match(r"v?\d+\.\d+\.\d+", tag), name
    assert SERVICES["topics"]["image"] == SERVICES["kafka"]["image"]
    assert SERVICES["generator"]["image"] == SERVICES["fluvial"]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_do_no_more_than_they_need(name):
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert memory(service["mem_limit"]) > 0
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service)
    # Kafka's image writes its own configuration when it starts.
    assert service.get("read_only") is (None if name in {"kafka", "topics"} else True)


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_long_running_services_come_back_and_tell_their_health(name):
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    if name == "generator":
        assert service["healthcheck"] == {"disable": True}, "the image's probe asks for the worker"
    elif name != "fluvial":  # its probe is in the image
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_services_start_in_order_and_wait_for_what_can_be_waited_for():
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            condition = wait["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
            elif condition == "service_completed_successfully":
                assert other == "topics"
    needed = SERVICES["fluvial"]["depends_on"]
    assert {name: wait["condition"] for name, wait in needed.items()} == {
        "kafka": "service_healthy",
        "redis": "service_healthy",
        "topics": "service_completed_successfully",
    }


def test_mounted_files_exist_and_cannot_be_written():
    named = set(STACK["volumes"])
    for name, source, _, mode in mounts():
        if source.startswith("."):
            assert (ROOT / source).exists(), f"{name}: {source}"
            assert mode == "ro", f"{name}: {source}"
        else:
            assert source in named, f"{name}: {source}"
            named.discard(source)
    assert not named, f"volumes that nobody mounts: {named}"


# --- Kafka and Redis --------------------------------------------------------------------------------


def test_kafka_has_every_setting_that_its_image_drops():
    own = SERVICES["kafka"]["environment"]
    listeners = {part.split("://")[0]: part.rpartition(":")[2] for part in own["KAFKA_LISTENERS"].split(",")}
    protocols = dict(part.split(":") for part in own["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    advertised = dict(part.split("://") for part in own["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert set(listeners) == set(protocols)
    assert set(advertised) == set(listeners) - {own["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert own["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert own["KAFKA_PROCESS_ROLES"] == "broker,controller"
    voter, _, address = own["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert voter == own["KAFKA_NODE_ID"]
    assert address == f"kafka:{listeners['CONTROLLER']}"
    assert advertised["INTERNAL"] == f"kafka:{listeners['INTERNAL']}"
    assert advertised["HOST"] == f"localhost:{listeners['HOST']}"
    assert f"127.0.0.1:{listeners['HOST']}:{listeners['HOST']}" in SERVICES["kafka"]["ports"]
    for topic in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert own[f"KAFKA_{topic}_REPLICATION_FACTOR"] == "1", "there is one broker"
    assert re.fullmatch(r"[\w-]{22}", own["CLUSTER_ID"]), "16 bytes in base64 without padding"
    assert ("kafka", "kafka-data", own["KAFKA_LOG_DIRS"], "rw") in set(mounts())


def test_topics_are_those_of_the_settings():
    script = (DEPLOY / "kafka" / "create-topics.sh").read_text()
    created = set(re.findall(r"--topic (\S+)", script))
    kafka = settings().kafka
    assert created == {kafka.topic, kafka.dead_letters}
    inside = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0].split("://")[1]
    assert SERVICES["topics"]["environment"]["BOOTSTRAP_SERVERS"] == inside
    assert kafka.bootstrap_servers == inside
    assert subprocess.run(["bash", "-n", DEPLOY / "kafka" / "create-topics.sh"], check=False).returncode == 0


def test_redis_keeps_what_it_acknowledged():
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    # Rewriting the append-only file forks: pages that change meanwhile exist twice.
    assert 2 * memory(options["--maxmemory"].removesuffix("b")) <= memory(SERVICES["redis"]["mem_limit"])
    assert ("redis", "redis-data", "/data", "rw") in set(mounts())


def kafka_properties(directory, ports):
    """As the image makes them from its variables, with other ports and this machine's address."""

    def here(value):
        for old, new in ports.items():
            value = re.sub(rf":{old}\b", f":{new}", value)
        return value.replace("kafka:", "127.0.0.1:")

    own = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): here(value)
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }
    own["log.dirs"] = directory / "data"
    return "".join(f"{name}={value}\n" for name, value in own.items())


@pytest.mark.kafka
@pytest.mark.slow
def test_a_real_kafka_starts_with_these_settings_and_the_topics_can_be_created_twice(tmp_path):
    from confluent_kafka.admin import AdminClient

    from fluvial.adapters.embedded import Leash, free_port
    from support import kafka_broker

    java = shutil.which("java")
    if java is None:
        missing("a real Kafka needs Java 17")
    base = [java, *kafka_broker.JAVA, "-cp", f"{kafka_broker.kafka_jars()}/*"]
    ports = {19092: free_port(), 9092: free_port(), 9093: free_port()}
    broker = tmp_path / "broker"
    broker.mkdir()
    config = tmp_path / "server.properties"
    config.write_text(kafka_properties(tmp_path, ports))
    identity = SERVICES["kafka"]["environment"]["CLUSTER_ID"]
    storage = [*base, "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(config)]
    subprocess.run(storage, check=True, capture_output=True, timeout=60)
    topics = shlex.join([*base, "org.apache.kafka.tools.TopicCommand"])
    script = (DEPLOY / "kafka" / "create-topics.sh").read_text()
    (tmp_path / "create.sh").write_text(script.replace("/opt/kafka/bin/kafka-topics.sh", topics))
    leash = Leash([*base, "kafka.Kafka", str(config)], broker)
    try:
        for port in (ports[19092], ports[9092]):
            kafka_broker.wait_for(f"127.0.0.1:{port}", 60)
        environment = {**os.environ, "BOOTSTRAP_SERVERS": f"127.0.0.1:{ports[19092]}"}
        for _ in range(2):
            command = ["bash", tmp_path / "create.sh"]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{ports[9092]}"})
        topics = admin.list_topics(timeout=10).topics.items()
        # Kafka makes its own when it likes (__consumer_offsets).
        found = {name: len(topic.partitions) for name, topic in topics if not name.startswith("__")}
        assert found == {"events": 3, "events.dead-letters": 1}
    finally:
        leash.stop()


@pytest.mark.redis
def test_a_real_redis_with_these_settings_is_fit_to_hold_checkpoints(redis_binary):
    from fluvial.adapters.redis import RedisStore
    from support.redis_server import RedisServer

    server = RedisServer(*SERVICES["redis"]["command"][1:])
    server.start()
    try:
        store = RedisStore(RedisSettings(url=Secret(server.url)), Keys("stack"), ScoreSettings())
        report = store.report()
        store.close()
        assert report.persistent
        assert report.eviction == "noeviction"
        assert server.cli.info("memory")["maxmemory"] == 512 * 1024 * 1024
    finally:
        server.stop()


# --- the service ------------------------------------------------------------------------------------


def test_settings_load_with_the_stacks_environment_and_reach_its_parts():
    found = settings()
    assert found.redis.url.reveal().startswith("redis://redis:6379")
    assert found.metrics.host == "0.0.0.0"
    assert f"127.0.0.1:{found.metrics.port}:{found.metrics.port}" in SERVICES["fluvial"]["ports"]


def test_settings_also_load_on_the_host():
    found = load(DEPLOY / "fluvial.toml", {})
    assert found.kafka.bootstrap_servers == "localhost:9092"
    assert found.metrics.host == "127.0.0.1"


def test_shutdown_may_take_as_long_as_the_settings_say():
    grace = int(SERVICES["fluvial"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings().worker.grace_seconds


def test_settings_file_is_mounted_where_the_command_looks():
    command = SERVICES["fluvial"]["command"]
    assert command[0] == "run"
    assert command[1] in {target for name, _, target, _ in mounts() if name == "fluvial"}
    assert json.dumps(command) in DOCKERFILE


def test_generator_is_called_as_it_wants_to_be_and_sends_what_the_service_expects():
    from fluvial.cli import generate
    from fluvial.streams import named

    parser = argparse.ArgumentParser(exit_on_error=False)
    generate.add_arguments(parser)
    called, *arguments = SERVICES["generator"]["command"]
    assert called == "generate"
    given = parser.parse_args(arguments)
    found = settings()
    assert given.forever
    assert given.topic == found.kafka.topic
    assert given.bootstrap_servers == found.kafka.bootstrap_servers
    assert found.schema == named(given.stream).schema()


# --- the image --------------------------------------------------------------------------------------


def test_image_runs_as_nobody_in_particular_and_has_no_build_tools():
    stages = [part for part in re.split(r"(?m)^FROM ", DOCKERFILE) if part.strip()]
    last = stages[-1]
    assert re.search(r"(?m)^USER [1-9]\d*:[1-9]\d*$", last), "a numeric user, as Kubernetes wants it"
    assert not re.search(r"\b(apt-get|pip|gcc)\b", last)
    assert "COPY --from=build" in last
    assert not re.search(r"(?m)^ADD |:latest", DOCKERFILE)


def test_image_is_made_from_what_is_let_into_its_context():
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", DOCKERFILE)
        for source in (part.removeprefix("./") for part in shlex.split(line)[:-1])
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_images_probe_asks_the_worker_on_its_default_port():
    from fluvial.adapters.prometheus import MetricsServer
    from support.fake_worker import FakeWorker

    probe = re.search(r"(?m)^ *CMD (\[\"python\".*\])$", DOCKERFILE).group(1)
    _, _, code = json.loads(probe)
    port = load(DEPLOY / "fluvial.toml", {}).metrics.port
    assert f"127.0.0.1:{port}/livez" in code
    assert f"EXPOSE {port}" in DOCKERFILE
    worker = FakeWorker()
    server = MetricsServer(worker.view, port=0)
    server.start()
    try:
        code = code.replace(str(port), str(server.address[1]))
        for alive in (True, False):
            worker.alive = alive
            ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
            assert (ran.returncode == 0) is alive
    finally:
        server.close()


# --- Prometheus and Grafana -------------------------------------------------------------------------


@pytest.mark.prometheus
def test_promtool_accepts_the_configuration(promtool):
    checked = promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert checked.returncode == 0, checked.stderr.decode()


def test_prometheus_scrapes_the_service_and_grafana_asks_prometheus():
    config = read("deploy/prometheus/prometheus.yml")
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets["fluvial"] == [f"fluvial:{settings().metrics.port}"]
    source = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_dashboard_is_provisioned_and_opened_as_home():
    folder = read("deploy/grafana/provisioning/dashboards/fluvial.yml")["providers"][0]["options"]["path"]
    grafana = {source: target for name, source, target, _ in mounts() if name == "grafana"}
    assert grafana["./deploy/grafana/dashboards"] == folder
    assert grafana["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"


def test_dashboard_is_what_its_script_writes():
    written = subprocess.run(
        [sys.executable, DEPLOY / "grafana" / "make_dashboard.py"], capture_output=True, text=True, check=True
    ).stdout
    assert DASHBOARD.read_text() == written, "run deploy/grafana/make_dashboard.py"


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_says_what_it_shows_in_which_unit(panel):
    source = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]["uid"]
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 20
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": source}
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


def test_panels_do_not_overlap_and_fill_the_width():
    taken = {}
    whole = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in whole}) == len(whole)
    for panel in whole:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    height = max(y for _, y in taken) + 1
    assert set(taken) == {(x, y) for x in range(24) for y in range(height)}


@pytest.mark.parametrize(("where", "expr"), list(questions()))
def test_query_uses_metrics_labels_and_values_that_exist(where, expr):
    expr = filled_in(expr, "fake")
    selectors = re.findall(r"\b(fluvial_\w+)\{([^}]*)\}", expr)
    assert selectors
    assert len(selectors) == len(re.findall(r"\bfluvial_\w+", expr)), "every metric is asked for by service"
    for name, inside in selectors:
        metric = CATALOGUE.get(name) or CATALOGUE[name.removesuffix("_bucket")]
        matchers = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', inside)
        assert matchers[0] == ("service", "=", "fake")
        for label, _, text in matchers:
            assert label in labels_of(metric), f"{name} has no label {label}"
            if fixed := values_of(metric, label):
                assert set(text.split("|")) <= set(fixed), f"{name}: {text}"


@pytest.mark.parametrize(
    ("series", "seconds"),
    [
        ({"all": "0x90"}, 0),
        ({"all": "0x30 1x60"}, 3_600),
        ({"all": "0x30 1x20 _x4 1x36"}, 3_600),  # a worker that starts anew finds it paused
        ({"all": "1x90"}, 86_400),
        ({"partition-0": "0x90", "partition-1": "0x60 1x30"}, 1_800),
    ],
    ids=["not paused", "an hour", "over a restart", "as long as anybody knows", "one of two"],
)
def test_the_dashboard_says_for_how_long_the_breaker_has_paused(promtool, tmp_path, series, seconds):
    (panel,) = [panel for panel in panels() if panel["title"] == "Paused by the flood breaker"]
    name = 'fluvial_flood_breaker_tripped{service="fake",instance="i",shard="%s"}'
    test = {
        "interval": "1m",
        "input_series": [{"series": name % shard, "values": values} for shard, values in series.items()],
        "promql_expr_test": [
            {
                "expr": filled_in(panel["targets"][0]["expr"], "fake"),
                "eval_time": "90m",
                "exp_samples": [{"labels": "{}", "value": seconds}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    checked = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("plane", "alert"),
    [("features", "FluvialDataDrift"), ("predictions", "FluvialPredictionDrift"), ("error", "")],
)
def test_a_drift_of_the_data_alerts_and_ends(promtool, tmp_path, plane, alert):
    rules = DEPLOY / "prometheus" / "rules" / "drift.yml"
    written = yaml.safe_load(rules.read_text())["groups"][0]["rules"]
    for rule in written:
        rule["annotations"] = {}
    bare = tmp_path / "drift.yml"
    bare.write_text(yaml.safe_dump({"groups": [{"name": "drift", "rules": written}]}))
    series = (
        f'fluvial_drift_signals_total{{service="fake",instance="i",shard="all",plane="{plane}",kind="drift"}}'
    )
    labels = {"severity": "info", "service": "fake", "shard": "all"}
    expected = {"29m": [], "32m": [{"exp_labels": labels}], "60m": []}
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": "0x30 1x60"}],
        "alert_rule_test": [
            {
                "eval_time": at,
                "alertname": rule["alert"],
                "exp_alerts": found if rule["alert"] == alert else [],
            }
            for at, found in expected.items()
            for rule in written
        ],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": [str(bare)], "evaluation_interval": "1m", "tests": [test]})
    )
    checked = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()


@pytest.mark.prometheus
def test_the_rules_are_sound_and_read_by_prometheus(promtool):
    checked = promtool("check", "rules", str(DEPLOY / "prometheus" / "rules" / "drift.yml"))
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()
    assert read("deploy/prometheus/prometheus.yml")["rule_files"] == ["rules/*.yml"]
    volumes = dict(
        v.rsplit(":ro", 1)[0].split(":", 1) for v in SERVICES["prometheus"]["volumes"] if v[0] == "."
    )
    assert volumes["./deploy/prometheus/rules"] == "/etc/prometheus/rules"


def test_dashboards_variable_offers_the_services():
    (variable,) = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert variable["name"] == "service"
    assert variable["query"]["query"] == "label_values(fluvial_service_info, service)"
    assert "service" in labels_of(CATALOGUE["fluvial_service_info"])
