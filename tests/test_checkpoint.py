"""The envelope: what goes in comes out, and nothing else does."""

import math
import struct

import msgspec
import pytest

from fluvial import checkpoint
from fluvial.checkpoint import Expectation, Header, SigningKey, compare, runtime, seal, unseal
from fluvial.config import Secret
from fluvial.errors import CheckpointRefused, CheckpointTooLarge, SettingsError

SECRET = "k" * 20 + "very-secret-0123456789"
KEY = SigningKey("2026-01", Secret(SECRET))
OLD = SigningKey("2025-06", Secret("o" * 40))
RIVER = runtime().river
EXPECT = Expectation("fraud", "all", "abcd", RIVER, max_bytes=10**9)
ANSWERS = [(0.25, 0.75), (1.0,), (), (math.pi, -0.0, math.inf)]


def header(payload, **changes):
    values = {
        "service": "fraud",
        "shard": "all",
        "epoch": 3,
        "sequence": 7,
        "offsets": {0: 100, 1: 90},
        "cluster": "cluster-1",
        "topic": "topic-1",
        "settings": "s",
        "schema": "abcd",
        "model": "m",
        "model_class": "river.linear_model.log_reg:LogisticRegression",
        "created_at": 1.5,
        "size": len(payload),
        "runtime": runtime(),
    }
    return Header(**values | changes)


def sealed(payload=b"the payload", key=KEY, answers=ANSWERS, **changes):
    return seal(payload, header(payload, **changes), answers, key, 10**9)


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
def test_what_is_sealed_comes_out(key):
    opened = unseal(sealed(key=key), EXPECT, [key] if key else [])
    assert opened.payload == b"the payload"
    assert opened.header == header(b"the payload")
    compare(opened.answers, ANSWERS, exact=True)
    assert struct.pack(">d", opened.answers[3][1]) == struct.pack(">d", -0.0)
    assert opened.portable
    assert opened.key == (key.id if key else "")


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
def test_every_cut_is_refused(key):
    blob = sealed(key=key)
    for end in range(len(blob)):
        with pytest.raises(CheckpointRefused):
            unseal(blob[:end], EXPECT, [key] if key else [])
    with pytest.raises(CheckpointRefused):
        unseal(blob + b"x", EXPECT, [key] if key else [])


def test_every_altered_byte_is_refused_in_every_region():
    blob = sealed()
    for at in range(len(blob)):
        for flip in (0x01, 0x80, 0xFF):
            with pytest.raises(CheckpointRefused):
                unseal(blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :], EXPECT, [KEY])


def test_nothing_is_parsed_before_the_signature_holds(monkeypatch):
    blob = bytearray(sealed())
    blob[-40] ^= 1

    def parsed(*args, **kwargs):
        raise AssertionError("parsed")

    monkeypatch.setattr(msgspec.json, "decode", parsed)
    monkeypatch.setattr(checkpoint, "_sections", parsed)
    with pytest.raises(CheckpointRefused, match="signature"):
        unseal(bytes(blob), EXPECT, [KEY])


def test_the_signature_is_what_refuses():
    """Without it an altered payload goes through: the key is not decoration."""
    blob = bytearray(sealed(key=None))
    blob[blob.index(b"the payload")] ^= 1
    assert unseal(bytes(blob), EXPECT, []).payload != b"the payload"


def test_an_unsigned_one_is_refused_when_a_key_is_configured():
    with pytest.raises(CheckpointRefused, match="not signed"):
        unseal(sealed(key=None), EXPECT, [KEY])


def test_a_stripped_signature_is_refused():
    blob = sealed()
    start = 10 + len(KEY.id)
    stripped = blob[:9] + b"\x00" + blob[start:-32]
    assert unseal(stripped, EXPECT, []).payload == b"the payload"
    with pytest.raises(CheckpointRefused, match="not signed"):
        unseal(stripped, EXPECT, [KEY])


def test_keys_rotate_and_a_foreign_one_is_named():
    assert unseal(sealed(key=OLD), EXPECT, [KEY, OLD]).key == OLD.id
    with pytest.raises(CheckpointRefused, match="signed with key '2025-06'"):
        unseal(sealed(key=OLD), EXPECT, [KEY])
    impostor = SigningKey(KEY.id, Secret("x" * 40))
    with pytest.raises(CheckpointRefused, match="signature does not hold"):
        unseal(sealed(key=impostor), EXPECT, [KEY, OLD])
    assert unseal(sealed(key=impostor), EXPECT, [KEY, impostor]).key == KEY.id


def test_keys_never_show():
    assert SECRET not in repr(KEY)
    assert SECRET not in str(msgspec.structs.asdict(KEY))
    for blob, keys in ((sealed(key=OLD), [KEY]), (sealed(key=None), [KEY]), (sealed()[:-1], [KEY])):
        with pytest.raises(CheckpointRefused) as caught:
            unseal(blob, EXPECT, keys)
        assert SECRET not in f"{caught.value!r}{caught.value}{caught.getrepr(showlocals=True)}"
    with pytest.raises(SettingsError, match="32 bytes") as short:
        SigningKey("a", Secret("tooshort"))
    assert "tooshort" not in str(short.value)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_key_ids_are_checked(name):
    with pytest.raises(SettingsError, match="key_id"):
        SigningKey(name, Secret(SECRET))


@pytest.mark.parametrize(
    ("changes", "wanted", "told"),
    [
        ({"service": "other"}, {}, "service"),
        ({"shard": "p-3"}, {}, "shard"),
        ({"schema": "ffff"}, {}, "schema"),
        ({"sequence": 6}, {"sequence": 7}, "sequence"),
        ({"offsets": {0: 99}}, {"offsets": {0: 100}}, "offsets"),
        ({"cluster": "other"}, {"cluster": "cluster-1"}, "another Kafka"),
        ({"topic": "other"}, {"topic": "topic-1"}, "created again"),
        ({"size": 3}, {}, "another size"),
    ],
)
def test_another_place_in_the_world_is_refused(changes, wanted, told):
    expect = msgspec.structs.replace(EXPECT, **wanted)
    with pytest.raises(CheckpointRefused, match=told):
        unseal(sealed(**changes), expect, [KEY])


def test_another_river_is_refused_with_the_way_out():
    there = msgspec.structs.replace(runtime(), river="0.24.0")
    with pytest.raises(CheckpointRefused, match=r"install river==0\.24\.0.*replay"):
        unseal(sealed(runtime=there), EXPECT, [KEY])


@pytest.mark.parametrize("field", ["python", "numpy", "platform"])
def test_another_platform_is_accepted_and_said(field):
    there = msgspec.structs.replace(runtime(), **{field: "other"})
    assert not unseal(sealed(runtime=there), EXPECT, [KEY]).portable


def test_another_release_of_ours_changes_nothing():
    there = msgspec.structs.replace(runtime(), fluvial="9.9.9")
    assert unseal(sealed(runtime=there), EXPECT, [KEY]).portable


def test_an_unknown_topic_id_is_not_compared():
    expect = msgspec.structs.replace(EXPECT, topic="topic-1")
    assert unseal(sealed(topic=None), expect, [KEY])


def test_sizes_are_capped_on_both_ways():
    with pytest.raises(CheckpointTooLarge, match="last good one"):
        seal(b"x" * 1000, header(b"x" * 1000), [], KEY, 1000)
    with pytest.raises(CheckpointRefused, match="max_bytes"):
        unseal(sealed(), msgspec.structs.replace(EXPECT, max_bytes=50), [KEY])


def test_another_format_and_foreign_bytes_are_told_apart():
    blob = bytearray(sealed())
    blob[8] = 9
    with pytest.raises(CheckpointRefused, match="format 9"):
        unseal(bytes(blob), EXPECT, [KEY])
    with pytest.raises(CheckpointRefused, match="not a checkpoint"):
        unseal(b"\x80\x05N.", EXPECT, [KEY])


@pytest.mark.parametrize("lengths", [(2**63, 2**63, 2**63), (0, 0, 0), (2**20 + 1, 0, 0), (1, 2**64 - 1, 0)])
def test_lengths_that_lie_are_refused_unsigned(lengths):
    blob = sealed(key=None)
    with pytest.raises(CheckpointRefused):
        unseal(blob[:10] + struct.pack(">QQQ", *lengths) + blob[34:], EXPECT, [])


@pytest.mark.parametrize("told", [b"", b"\x00", struct.pack(">I", 2**32 - 1), struct.pack(">II", 1, 2**31)])
def test_answers_that_lie_are_refused(told, monkeypatch):
    monkeypatch.setattr(checkpoint, "_pack", lambda answers: told)
    with pytest.raises(CheckpointRefused, match="answers"):
        unseal(sealed(), EXPECT, [KEY])


@pytest.mark.parametrize(
    ("got", "exact", "near"),
    [
        (0.5, True, True),
        (math.nextafter(0.5, 1), False, True),
        (0.5 + 1e-12, False, True),
        (0.5 + 1e-6, False, False),
        (-0.5, False, False),
        (math.nan, False, False),
    ],
)
def test_answers_are_compared_bit_for_bit_or_nearly(got, exact, near):
    for mode, same in ((True, exact), (False, near)):
        if same:
            compare([(0.5,)], [(got,)], exact=mode)
        else:
            with pytest.raises(CheckpointRefused, match="probe 0"):
                compare([(0.5,)], [(got,)], exact=mode)


def test_odd_answers_compare():
    for odd in (math.nan, math.inf, -0.0):
        compare([(odd,)], [(odd,)], exact=True)
        compare([(odd,)], [(odd,)], exact=False)
    with pytest.raises(CheckpointRefused):
        compare([(0.0,)], [(-0.0,)], exact=True)
    for got in ([], [(0.5, 0.5)], [(0.5,), (0.5,)]):
        with pytest.raises(CheckpointRefused):
            compare([(0.5,)], got, exact=True)
