"""What a Redis URL means, and that no error about one shows it."""

import pytest

from fluvial.adapters.redis_address import address
from fluvial.config import RedisSettings, Secret
from fluvial.errors import SettingsError


def read(url, **settings):
    return address(RedisSettings(url=Secret(url), **settings))


@pytest.mark.parametrize(
    ("url", "kind", "tls", "label", "db"),
    [
        ("redis://localhost", "server", False, "localhost:6379", 0),
        ("redis://cache:7000/3", "server", False, "cache:7000", 3),
        ("rediss://cache:7000?db=4", "server", True, "cache:7000", 4),
        ("redis://[::1]:7000/1", "server", False, "::1:7000", 1),
        ("unix:///run/redis.sock?db=2", "unix", False, "/run/redis.sock", 2),
        ("redis+cluster://a:1,b:2", "cluster", False, "a:1,b:2", 0),
        ("rediss+cluster://a", "cluster", True, "a:6379", 0),
        ("redis+sentinel://a,b:2/main", "sentinel", False, "a:26379,b:2/main", 0),
        ("rediss+sentinel://a:1/main/5", "sentinel", True, "a:1/main", 5),
    ],
)
def test_forms(url, kind, tls, label, db):
    found = read(url)
    assert (found.kind, found.tls, found.label, found.db) == (kind, tls, label, db)


def test_the_login_is_decoded_and_the_settings_go_over_it(tmp_path):
    found = read("redis://a%40b:p%3Aw%2F@h")
    assert (found.username, found.password) == ("a@b", "p:w/")
    found = read("redis://a:b@h", username="c", password=Secret("d"), ca_file="/ca.pem")
    assert (found.username, found.password, found.ca_file) == ("c", "d", "/ca.pem")
    (tmp_path / "password").write_text("from a file\n")
    assert read("redis://:b@h", password_file=str(tmp_path / "password")).password == "from a file"
    assert read("redis://h").password is None


def test_a_password_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"redis\.password_file: .*/nothing"):
        read("redis://h", password_file=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@h",
        "hunter2",
        "redis://:hunter2/x@h:6379",
        "redis://:x/hunter2@h:6379",
        "redis://:hunter2#x@h",
        "redis://:x@h:hunter2",
        "redis://:hunter2@[h",
        "redis://:hunter2\uff03@h",
        "redis://:hunter2@",
        "redis://:hunter2@h:70000",
        "redis://:hunter2@h/a",
        "redis://:hunter2@h/1/2",
        "redis+cluster://:hunter2@h/1",
        "redis+sentinel://:hunter2@h",
    ],
)
def test_a_bad_url_is_refused_without_showing_it(url):
    with pytest.raises(SettingsError, match=r"^redis\.url: ") as caught:
        read(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_password_is_in_no_repr():
    assert "hunter2" not in repr(read("redis://app:hunter2@h"))
