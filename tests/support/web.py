"""A worker's port as a client sees it."""

import faulthandler
import urllib.error
import urllib.request

SECONDS = 30
"""Longer than any pause of a busy machine: how fast it answers is for the benchmarks to say."""


def get(address, path):
    """Status and body of a request; where no answer comes, what every thread of this process was doing."""
    host, port = address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except TimeoutError:
        faulthandler.dump_traceback(all_threads=True)
        raise
