"""Certificates of the tests' own, made by openssl: an authority, a stranger, a server's, an expired one."""

import shutil
import subprocess
from pathlib import Path

from support.parts import missing

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Certificates:
    """Paths of PEM files. `server` and `expired` are for 127.0.0.1 and localhost, with one key."""

    def __init__(self, directory):
        if shutil.which("openssl") is None:
            missing("no openssl here to make certificates with")
        self._home = Path(directory)
        self.ca = self._authority("ca")
        self.stranger = self._authority("stranger")
        """Of an authority that signed nothing."""
        self.key = self._home / "server.key"
        self.server = self._signed("server", days=2)
        self.expired = self._signed("expired", days=-1)

    def keystore(self, certificate):
        """Key and certificate in one file, as Kafka takes them."""
        path = certificate.with_suffix(".keystore.pem")
        path.write_text(self.key.read_text() + certificate.read_text())
        return path

    def _authority(self, name):
        path = self._home / f"{name}.pem"
        self._openssl(
            *("req", "-x509", *CURVE, "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", self._home / f"{name}.key", "-out", path),
        )
        return path

    def _signed(self, name, days):
        request, extensions = self._home / "server.csr", self._home / "server.ext"
        if not request.exists():
            self._openssl("req", *CURVE, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request)
            extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        path = self._home / f"{name}.pem"
        self._openssl(
            *("x509", "-req", "-in", request, "-days", days, "-extfile", extensions, "-out", path),
            *("-CA", self.ca, "-CAkey", self._home / "ca.key", "-CAcreateserial"),
        )
        return path

    def _openssl(self, *words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
