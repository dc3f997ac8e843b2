"""A real Prometheus that scrapes one address, and the question whether the dashboard would show data."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import pytest
import yaml

from support import web
from support.parts import missing

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "fluvial.json"


def binary(name):
    """Path of `prometheus` or `promtool`; without it the test is skipped, or fails in CI."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (Debian package: prometheus)")
    return found


@pytest.fixture
def promtool():
    """Runs promtool with some input; returns the completed process."""
    path = binary("promtool")

    def run(*args, data=None):
        return subprocess.run([path, *args], input=data, capture_output=True, timeout=60, check=False)

    return run


class Prometheus:
    """Questions to a running server."""

    def __init__(self, url):
        self.url = url

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=web.SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def services(self):
        """What the dashboard's variable offers."""
        return self.ask("/api/v1/label/service/values", **{"match[]": "fluvial_service_info"})

    def series(self, expr, seconds=60):
        """Every series of an expression over the last minute, with its finite values only."""
        now = time.time()
        data = self.ask("/api/v1/query_range", query=expr, start=now - seconds, end=now, step=1)
        found = []
        for one in data["result"]:
            values = [float(value) for _, value in one["values"] if isfinite(float(value))]
            if values:
                found.append((one["metric"], values))
        return found


@contextmanager
def scraping(host, port):
    """A Prometheus with the stack's configuration, but scraping this address each second."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "fluvial"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"{host}:{port}"]}]
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
        free.close()
        (Path(place) / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (Path(place) / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={place}/prometheus.yml",
                    f"--storage.tsdb.path={place}/data",
                    f"--web.listen-address=127.0.0.1:{own}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{own}", Path(place) / "log")
            yield Prometheus(f"http://127.0.0.1:{own}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process, url, log):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Prometheus did not start: {log.read_text()[-2000:]}", pytrace=False)


def questions():
    """(where, query) of each panel and annotation of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']!r}, {target['refId']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']!r}", annotation["expr"]


def filled_in(expr, service):
    """The query as Grafana would send it, scraping each second."""
    expr = expr.replace("$service", service).replace("$__rate_interval", "4s")
    assert "$" not in expr, f"a variable that is not known here: {expr}"
    return expr


def assert_every_panel_has_data(metrics_address, seconds=40):
    """Scrape the address with a real Prometheus until every query of the dashboard returns a number.

    `metrics_address`: (host, port) of a running /metrics whose worker is learning, and whose stream has
    drifts to react to. Fails with the queries that stayed empty after `seconds`.
    """
    with scraping(*metrics_address) as prometheus:
        deadline = time.monotonic() + seconds
        empty = list(questions())
        while empty and time.monotonic() < deadline:
            time.sleep(1)
            services = prometheus.services()
            if services:
                empty = [(w, q) for w, q in empty if not prometheus.series(filled_in(q, services[0]))]
        assert not empty, "no data for " + "; ".join(f"{where}: {expr}" for where, expr in empty)
