"""Hostile checkpoints, all correctly signed: nothing runs, each is refused, in bounded memory and time."""

import importlib
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fluvial.checkpoint import seal, unseal
from fluvial.errors import CheckpointRefused
from fluvial.models import restore, unpickle
from fluvial.models.restore import MODULE as RESTORE
from test_checkpoint import EXPECT, KEY, header

MARK, STOP, EMPTY, TUPLE, REDUCE, BUILD, NEWOBJ, MEMO, NONE = (
    b"(",
    b".",
    b")",
    b"t",
    b"R",
    b"b",
    b"\x81",
    b"\x94",
    b"N",
)
DICT, LIST, SETITEM, POP = b"}", b"]", b"s", b"0"
LOGISTIC = ("river.linear_model.log_reg", "LogisticRegression")


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"J" + struct.pack("<i", value)


def name(module, qualified):
    return text(module) + text(qualified) + b"\x93"


def call(function, *args):
    return name(*function) + MARK + b"".join(args) + TUPLE + REDUCE


def instance(kind):
    return name(*kind) + EMPTY + NEWOBJ


def whole(body):
    return b"\x80\x05" + body + STOP


def restored(function, *args):
    return call((RESTORE, function), *args)


CANARY = "{canary}"
TOUCH = text(f"touch {CANARY}")
SOURCE = text(f"open('{CANARY}','w')")

# Each of these, given to Python's own `pickle.loads`, touches the canary.
CALLS = {
    "os.system": call(("os", "system"), TOUCH),
    "posix.system": call(("posix", "system"), TOUCH),
    "subprocess": call(("subprocess", "getoutput"), TOUCH),
    "eval": call(("builtins", "eval"), SOURCE),
    "exec": call(("builtins", "exec"), SOURCE),
    "open": call(("builtins", "open"), text(CANARY), text("w")),
    "io.open": call(("io", "open"), text(CANARY), text("w")),
    "codecs": call(("codecs", "open"), text(CANARY), text("w")),
    "path": call(("pathlib", "Path.touch"), call(("pathlib", "Path"), text(CANARY))),
    "dotted through River": call(("river.datasets.base", "os.system"), TOUCH),
    "dotted through a listed module": call(("river.compose.pipeline", "io.open"), text(CANARY), text("w")),
    "dotted through a listed class": call(
        ("river.linear_model.log_reg", "LogisticRegression.__init__.__globals__.__class__.__name__.upper"),
    )
    + POP
    + call(("os", "system"), TOUCH),
    "getattr": call(("builtins", "getattr"), name("os", "path"), text("os"))
    + POP
    + call(("builtins", "getattr"), call(("importlib", "import_module"), text("os")), text("system"))
    + MARK
    + TOUCH
    + TUPLE
    + REDUCE,
    "operator.attrgetter": call(("operator", "attrgetter"), text("system"))
    + MARK
    + call(("importlib", "import_module"), text("os"))
    + TUPLE
    + REDUCE
    + MARK
    + TOUCH
    + TUPLE
    + REDUCE,
    "operator.methodcaller": call(("operator", "methodcaller"), text("touch"))
    + MARK
    + call(("pathlib", "Path"), text(CANARY))
    + TUPLE
    + REDUCE,
    "__import__": call(("builtins", "__import__"), text("os"))
    + POP
    + call(("os", "system"), TOUCH),
    "partial": call(("functools", "partial"), name("os", "system"), TOUCH) + EMPTY + REDUCE,
    "reduce": call(
        ("functools", "reduce"), name("builtins", "open"), LIST + MARK + text(CANARY) + text("w") + b"e"
    ),
    "map and list": call(
        ("builtins", "list"), call(("builtins", "map"), name("os", "system"), LIST + TOUCH + b"a")
    ),
    "copyreg": call(("copyreg", "__newobj__"), name("builtins", "object"))
    + POP
    + call(("os", "system"), TOUCH),
    "copyreg extension": call(("copyreg", "add_extension"), text("os"), text("system"), number(250))
    + POP
    + b"\x82\xfa"
    + MARK
    + TOUCH
    + TUPLE
    + REDUCE,
    "inst": b"(" + TOUCH + b"ios\nsystem\n",
    "obj": MARK + name("os", "system") + TOUCH + b"o",
    "global": b"cos\nsystem\n" + MARK + TOUCH + TUPLE + REDUCE,
    "setstate gadget": instance(LOGISTIC)
    + DICT + text("__setstate__") + name("os", "system") + SETITEM + BUILD
    + TOUCH + BUILD,
    "default factory": call(("collections", "defaultdict"), name("os", "system"))
    + POP + call(("os", "system"), TOUCH),
    "numpy.load": call(("numpy", "save"), text(CANARY), number(1)) + POP
    + call(("numpy", "load"), text(CANARY + ".npy")) + POP + call(("os", "system"), TOUCH),
    "numpy.memmap": call(("numpy", "memmap"), text(CANARY), text("uint8"), text("w+"), number(0), number(8)),
    "code": call(
        ("types", "FunctionType"), call(("builtins", "compile"), SOURCE, text(""), text("exec")), DICT
    ) + EMPTY + REDUCE,
    "timeit": call(("timeit", "timeit"), SOURCE, text("pass"), name("time", "time"), number(1)),
    "through River's cache": call(("river.stream.cache", "os.system"), TOUCH),
}  # fmt: skip


def aimed(body, canary):
    """The attack with the canary's path in it; lengths of strings are written anew."""
    old, new = CANARY.encode(), str(canary).encode()
    out, at = b"", 0
    while (found := body.find(old, at)) >= 0:
        start = body.rfind(b"X", at, found)
        while struct.unpack("<I", body[start + 1 : start + 5])[0] + start + 5 < found + len(old):
            start = body.rfind(b"X", at, start)
        length = struct.unpack("<I", body[start + 1 : start + 5])[0]
        data = body[start + 5 : start + 5 + length].replace(old, new)
        out += body[at : start + 1] + struct.pack("<I", len(data)) + data
        at = start + 5 + length
    return whole(out + body[at:])


def deliver(payload, **options):
    """By the worker's way: sealed with the right key, unsealed, loaded."""
    sealed = seal(payload, header(payload), [], KEY, 10**9)
    return unpickle.loads(unseal(sealed, EXPECT, [KEY]).payload, **options)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize("attack", CALLS)
def test_nothing_runs(attack, canary):
    payload = aimed(CALLS[attack], canary)
    with pytest.raises(CheckpointRefused):
        deliver(payload)
    assert not canary.exists()
    with pytest.raises(CheckpointRefused):  # the second reading alone holds as well
        unpickle.loads(payload, own=True)
    assert not canary.exists()


@pytest.mark.parametrize("attack", CALLS)
def test_the_attacks_are_live(attack, canary):
    """In a process of its own, Python's unpickler does run each of them."""
    script = "import sys, pickle; pickle.loads(sys.stdin.buffer.read())"
    payload = aimed(CALLS[attack], canary)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], input=payload, capture_output=True, check=False
    )
    assert canary.exists()


def test_a_prefix_rule_would_let_one_through(monkeypatch):
    """What the exact list is for: with a rule by prefix the process id comes back through River."""

    def by_prefix(module, qualified, extra):
        assert module.startswith("river.")
        found = importlib.import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part)
        return found

    payload = whole(call(("river.datasets.base", "os.getpid")))
    with pytest.raises(CheckpointRefused, match=r"os\.getpid"):
        unpickle.loads(payload, own=True)
    monkeypatch.setattr(unpickle, "_resolve", by_prefix)
    assert unpickle.loads(payload, own=True) == os.getpid()


def kept(kind):
    """The attributes of a class, to see whether an attack rewrote it."""
    return dict(vars(getattr(importlib.import_module(kind[0]), kind[1])))


# Listed names only, used in ways in which no checkpoint uses them.
MISUSE = {
    "state of a class": name(*LOGISTIC) + NONE + DICT + text("predict_one") + name("copy", "deepcopy")
    + SETITEM + b"\x86" + BUILD,
    "state of a function": name("copy", "deepcopy") + DICT + text("__wrapped__") + NONE + SETITEM + BUILD,
    "state of a restoring function": name(RESTORE, "array") + NONE + DICT + text("__defaults__") + NONE
    + SETITEM + b"\x86" + BUILD,
    "state of a restored value": restored("dtype", text("<f8")) + EMPTY + BUILD,
    "planted setstate": instance(LOGISTIC) + DICT + text("__setstate__") + name("copy", "deepcopy") + SETITEM
    + BUILD + text("x") + BUILD,
    "calls a listed class": call(LOGISTIC),
    "calls a listed function": call(("copy", "deepcopy"), instance(LOGISTIC)),
    "calls numpy": call(("numpy", "ones"), number(10)),
    "makes with arguments": name(*LOGISTIC) + number(3) + b"\x85" + NEWOBJ,
    "makes with keywords": name(*LOGISTIC) + EMPTY + DICT + b"\x92",
    "makes a foreign class": name("builtins", "str") + EMPTY + NEWOBJ,
    "makes a native at once": name("river._river_rust.stats", "RsRollingROCAUC") + EMPTY + NEWOBJ,
    "appends to an instance": instance(LOGISTIC) + number(1) + b"a",
    "items of an instance": instance(LOGISTIC) + number(1) + number(2) + SETITEM,
    "adds to a list": LIST + MARK + number(1) + b"\x90",
    "state of a deque": restored("deque", NONE) + DICT + BUILD,
    "method not listed": restored("method", instance(LOGISTIC), text("__init__")),
    "method of a class": restored("method", name(*LOGISTIC), text("mro")),
    "method chain": restored(
        "method", restored("method", instance(LOGISTIC), text("__class__")), text("mro")
    ),
    "method of text": restored("method", text("x"), text("format")),
    "dunder by slots": instance(LOGISTIC) + instance(LOGISTIC) + BUILD,
    "partial of a restoring function": restored(
        "partial", name(RESTORE, "method"), b"(X\x01\x00\x00\x00at", DICT
    ),
    "native that is not": restored("native", name(*LOGISTIC), EMPTY, NONE),
    "native of text": restored(
        "native", name("river._river_rust.stats", "RsQuantile"), b"(X\x01\x00\x00\x00at", NONE
    ),
    "native panics": restored(
        "native", name("river._river_rust.stats", "RsQuantile"), EMPTY, b"C\x03abc"
    ),
    "array of objects": restored("array", b"C\x08" + bytes(8), text("|O"), number(1) + b"\x85", text("C")),
    "array of records": restored("array", b"C\x08" + bytes(8), text("f8,f8"), number(1) + b"\x85", text("C")),
    "bit generator by name": restored(
        "generator", DICT + text("bit_generator") + text("test") + SETITEM
    ),
    "reads behind a generator's buffer": restored(
        "random_state", text("MT19937"), DICT + MARK + text("pos") + number(10**9) + b"u", number(0), NONE
    ),
    "reads behind a bit generator's buffer": restored(
        "generator",
        DICT + MARK + text("bit_generator") + text("Philox") + text("buffer_pos") + number(10**9) + b"u",
    ),
    "persistent id": text("x") + b"Q",
    "persistent text id": b"Px\n",
    "out of band": b"\x97",
    "read-only buffer": b"C\x01a\x98",
    "dup": number(1) + b"2" + b"\x86",
    "put": number(1) + b"p0\n",
    "text integer": b"I01\n",
    "text long": b"L5L\n",
    "text float": b"F1.0\n",
    "text string": b"S'a'\n",
    "old list": b"(l",
    "old dict": b"(d",
    "name out of a tuple": MARK + text("os") + TUPLE + text("system") + b"\x93",
    "list as a key": DICT + LIST + NONE + SETITEM,
    "a second pickle behind": number(1) + STOP + number(2),
    "nothing": b"",
    "two values": number(1) + number(2),
    "mark left": MARK + number(1),
    "memo that is not": b"h\x05",
    "pop too far": POP,
    "build of nothing": BUILD,
}  # fmt: skip


@pytest.mark.parametrize("attack", MISUSE)
def test_listed_names_do_only_what_a_checkpoint_needs(attack):
    before = kept(LOGISTIC)
    with pytest.raises(CheckpointRefused):
        deliver(whole(MISUSE[attack]))
    assert kept(LOGISTIC) == before


@pytest.mark.parametrize("position", [625, 10**9, -1])
def test_no_generator_reads_behind_its_buffer(position):
    """Numpy takes any position; the next draw would read foreign memory."""
    state = {"key": np.zeros(624, dtype=np.uint32), "pos": 624}
    made = restore.random_state("MT19937", state, 0, 0.0)
    assert made.get_state(legacy=False)["state"]["pos"] == 624
    with pytest.raises(ValueError, match="position"):
        restore.random_state("MT19937", state | {"pos": position}, 0, 0.0)
    whole_state = np.random.Generator(np.random.Philox(1)).bit_generator.state
    with pytest.raises(ValueError, match="position"):
        restore.generator(whole_state | {"buffer_pos": position})


def test_a_name_list_alone_would_let_a_class_be_rewritten():
    """What the first reading is for: the second one alone rewrites `predict_one` for the whole process."""
    before = kept(LOGISTIC)
    try:
        unpickle.loads(whole(MISUSE["state of a class"]), own=True)
        assert kept(LOGISTIC) != before
    finally:
        delattr(getattr(importlib.import_module(LOGISTIC[0]), LOGISTIC[1]), "predict_one")
    assert kept(LOGISTIC) == before


def test_a_gadget_that_ends_the_process_is_refused(monkeypatch):
    def leave():
        raise SystemExit(3)

    monkeypatch.setattr("fluvial.models.restore.counter", leave)
    with pytest.raises(CheckpointRefused, match="SystemExit"):
        deliver(whole(restored("counter")))


def test_the_operators_interrupt_is_not_swallowed(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("fluvial.models.restore.counter", interrupt)
    with pytest.raises(KeyboardInterrupt):
        deliver(whole(restored("counter")))


def nest(levels):
    """t = (t, t), again and again: small here, and 2**levels long when hashed."""
    body = EMPTY + MEMO
    for index in range(levels):
        body += b"h" + bytes([index]) + b"h" + bytes([index]) + b"\x86" + MEMO
    return body


def repeated(part, count, container=LIST):
    return container + MARK + part * count + b"e"


MEGA = b"\x8e" + struct.pack("<Q", 1_000_000) + bytes(1_000_000)
BOMBS = {
    "bytearray": call(("builtins", "bytearray"), b"\x8a\x06" + (10**12).to_bytes(6, "little")),
    "range list": call(("builtins", "list"), call(("builtins", "range"), number(2**31 - 1))),
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**40) + b"x",
    "bytearray that is not there": b"\x96" + struct.pack("<Q", 2**40) + b"x",
    "text that is not there": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
    "long that is not there": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
    "negative long": b"\x8b" + struct.pack("<i", -5) + b"x",
    "frame that is not there": b"\x95" + struct.pack("<Q", 2**62),
    "memo index": number(1) + b"r" + struct.pack("<I", 2**32 - 1),
    "text memo index": number(1) + b"p99999999999\n",
    "protocol": b"\x80\xff",
    "hash of nested tuples": DICT + nest(80) + NONE + SETITEM,
    "set of nested tuples": b"\x8f" + MARK + nest(80) + b"\x90",
    "frozen set of nested tuples": MARK + nest(80) + b"\x91",
    "hash of a deep tuple": DICT + EMPTY + b"\x85" * 1_000_000 + NONE + SETITEM,
    "colliding integers": DICT
    + MARK
    + b"".join(b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + NONE for k in range(1, 20_000))
    + b"u",
    "many sets": repeated(b"\x8f", 1_000_000),
    "many lists": repeated(b"]", 1_000_000),
    "many tuples": repeated(b")\x85", 1_000_000),
    "many deques": name(RESTORE, "deque") + MEMO + POP + NONE + b"\x85" + MEMO + POP
    + repeated(b"h\x00h\x01R", 1_000_000),
    "many generators": name(RESTORE, "random") + MEMO + POP + MARK + number(3) + b"\x8e"
    + struct.pack("<Q", 2500) + bytes(2499) + b"\x01" + NONE + TUPLE + MEMO + POP
    + repeated(b"h\x00h\x01R", 500_000),
    "one array many times": name(RESTORE, "array") + MEMO + POP + MARK + MEGA + text("|u1")
    + number(1_000_000) + b"\x85" + text("C") + TUPLE + MEMO + POP + repeated(b"h\x00h\x01R", 100_000),
    "array larger than its bytes": restored(
        "array", b"C\x08" + bytes(8), text("<f8"), number(2**31 - 1) + number(2**31 - 1) + b"\x86", text("C")
    ),
    "wide text array": restored("array", b"C\x00", text("<U2000000000"), number(1) + b"\x85", text("C")),
    "wide scalar": restored("scalar", b"C\x00", text("|S2000000000")),
    "native window": restored(
        "native", name("river._river_rust.stats", "RsRollingROCAUC"),
        number(1) + b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x86", NONE,
    ),
}  # fmt: skip

BEARABLE = {"many tuples", "many lists"}
"""Denser than any model and within the bound all the same."""

_CHILD = """
import importlib, resource, sys
sys.path[:0] = {path!r}
attacks = importlib.import_module("test_attacks")
from fluvial.models import restore, unpickle
restore.reducers()
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
payload = attacks.whole(attacks.BOMBS[{bomb!r}])
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {room}, now + {room}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
try:
    unpickle.loads(payload)
except unpickle.CheckpointRefused as error:
    print("refused", "MemoryError" in str(error), str(error)[:200])
else:
    print("loaded")
"""
ROOM = 600_000_000
SECONDS = 30


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_and_time_are_bounded(bomb):
    here = [str(Path(__file__).parent), *sys.path]
    script = _CHILD.format(path=here, bomb=bomb, room=ROOM, seconds=SECONDS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    wanted = "loaded" if bomb in BEARABLE else "refused False"
    assert done.stdout.startswith(wanted), (done.returncode, done.stdout, done.stderr[-800:])


_FUZZ = """
import random, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
sys.stderr = open("/dev/null", "w")
from fluvial.models import restore
restore.natives()
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {room}, now + {room}))
rng = random.Random(1)
args = {{"RsEWMean": (.5,), "RsEWVar": (.5,), "RsIQR": (.25, .75), "RsKurtosis": (False,), "RsSkew": (False,),
        "RsQuantile": (.5,), "RsRollingIQR": (.25, .75, 10), "RsRollingQuantile": (.5, 10),
        "RsRollingPRAUC": (1, 10), "RsRollingROCAUC": (1, 10), "AdaptiveWindowing": (.002, 32, 5, 5, 10)}}
tried = refused = 0
for kind in sorted(restore.natives(), key=str):
    made = kind(*args.get(kind.__name__, ()))
    _, _, state = made.__reduce_ex__(5)[:3]
    for turn in range(300):
        bad = bytearray(state)
        for _ in range(rng.randrange(1, 9)):
            bad[rng.randrange(len(bad))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        if turn % 3 == 0:
            at = rng.randrange(len(bad))
            bad[at:at + 8] = bytes([0xFF] * 7 + [0x7F])
        if turn % 7 == 0:
            del bad[rng.randrange(len(bad)):]
        tried += 1
        try:
            restore.native(kind, tuple(args.get(kind.__name__, ())), bytes(bad))
        except BaseException:
            refused += 1
print("lived", tried, refused)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own size from /proc")
def test_no_state_of_a_native_object_ends_the_process():
    script = _FUZZ.format(room=ROOM, seconds=SECONDS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("lived"), (done.returncode, done.stdout, done.stderr[-800:])
    tried, refused = map(int, done.stdout.split()[1:])
    assert tried > 3_000
    assert refused > 100


def test_the_size_is_capped_before_anything_is_read():
    with pytest.raises(CheckpointRefused, match=r"max_bytes"):
        unpickle.loads(b"\x80\x05" + bytes(1000), limit=100)


def test_a_truncated_or_altered_pickle_never_ends_in_anything_else():
    """Every cut, and a flipped byte at every place: refused or loaded, never another error."""
    from river import linear_model, preprocessing

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for i in range(20):
        model.learn_one({"a": float(i), "b": 1.0}, i % 2 == 0)
    blob = unpickle.dumps(model)
    for end in range(len(blob)):
        with pytest.raises(CheckpointRefused):
            unpickle.loads(blob[:end])
    refused = 0
    for at in range(len(blob)):
        for flip in (0x01, 0x20, 0xFF):
            try:
                unpickle.loads(blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :])
            except CheckpointRefused:
                refused += 1
    assert refused > len(blob) / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4_000_000
