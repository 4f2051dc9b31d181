"""Run the reference node: serve a small model of our own, or front an OpenAI-compatible backend, and sign what passes.

examples:
  veriroute node --port 9001 --identity node.json
  veriroute node --port 9001 --identity node.json --backend http://127.0.0.1:11434/v1
  veriroute node --identity node.json --print-pin          # for the gateway's settings, before the node runs
  veriroute node --port 0 --json --dishonest tamper        # a node that lies, to see it caught
  veriroute node --identity node.json --prove zk    # a proof with each answer of its classifier; keys are made in zk/
  veriroute node --identity node.json --tee tdx --tee-root world   # TDX evidence under a test root, world/root.der

The pin that it prints is the digest of its keyset; put it into the gateway's settings (nodes.pin).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from .moderation.prover import Prover

HELP = "run the reference node: serve a model, or front a backend, and sign what passes"
_TEES = ("tdx", "snp", "nitro")
_MACHINE_MODES = ("debug", "unbound", "stale-tcb", "foreign-root")
_SAMPLING_MODES = ("sample-hot", "wrong-seed")
_MODERATION_MODES = ("other-text", "wrong-score")
_MODES = (
    "tamper",
    "swap-model",
    "wrong-key",
    "replay",
    "truncate",
    *_SAMPLING_MODES,
    *_MODERATION_MODES,
    *_MACHINE_MODES,
)
_PRECISIONS = ("fp32", "bf16", "int8", "int4", "int3")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=9001, help="port to listen on; 0 takes a free one (default: %(default)s)")
    add(
        "--identity", type=Path, metavar="FILE", help="signing keys; made when absent (default: new keys on each start)"
    )
    add("--model-name", action="append", default=[], metavar="NAME", help="a further name for the model; repeatable")
    add("--backend", metavar="URL", help="forward to this OpenAI-compatible base URL instead of serving the own model")
    add("--backend-key-env", metavar="NAME", help="environment variable that holds the backend's API key")
    add("--precision", choices=_PRECISIONS, help="compute the own model as a deployment of this kind (default: fp32)")
    add("--model-variant", choices=("other",), help="serve another model of ours under the same name, to see it caught")
    add("--prove", type=Path, metavar="DIR", help="prove each answer of /v1/moderations; keys in DIR, made when absent")
    add("--tls-cert", type=Path, metavar="PEM", help="serve TLS with this certificate; its key joins the keyset")
    add("--tls-key", type=Path, metavar="PEM", help="the certificate's private key")
    add("--tee", choices=_TEES, help="show synthetic evidence of such a machine, under a test root")
    add("--tee-root", type=Path, metavar="DIR", help="the machine's folder: its keys, root.der and collateral")
    add("--tee-gpu", action="store_true", help="add the evidence of one synthetic GPU, tied to the machine's")
    add("--dishonest", choices=_MODES, help="lie in this way, for demonstrations and tests")
    add("--dishonest-after", type=int, default=0, metavar="N", help="be honest for the first N answers, or reports")
    add("--print-pin", action="store_true", help="print the identity's pin and end; serve nothing")
    add("--json", action="store_true", help="print one JSON line when ready")
    add("--quiet", action="store_true", help="print nothing when ready")


def run(args: argparse.Namespace) -> int:
    # One request is many small matrix products: BLAS threads would only fight over the cores. Before NumPy is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    from . import identity as identities

    if not 0 <= args.port <= 65535:  # the resolver would take what is left of it modulo 65536
        raise ConfigError("--port must be 0 to 65535")
    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    if args.dishonest_after and not args.dishonest:
        raise ConfigError("--dishonest-after says when --dishonest begins; give both")
    if (args.tee is None) != (args.tee_root is None):
        raise ConfigError("--tee and --tee-root go together")
    if args.tee is None and (args.tee_gpu or args.dishonest in _MACHINE_MODES):
        raise ConfigError("--tee-gpu and lies about the machine are for --tee; give both")
    fronts = args.backend is not None  # the empty text too, which a variable that is not set leaves: it is refused
    if fronts and args.prove:
        raise ConfigError("--prove is for the own classifier, not for --backend")
    own_lies = (*_SAMPLING_MODES, *_MODERATION_MODES)
    if fronts and (args.precision or args.model_variant or args.dishonest in own_lies):
        lies = ", ".join(own_lies)
        raise ConfigError(
            f"--precision, --model-variant and --dishonest {lies} are for the own model, not for --backend"
        )
    if args.backend_key_env is not None and not fronts:
        raise ConfigError("--backend-key-env is for --backend; give both")
    if args.print_pin and not args.identity:
        raise ConfigError("--print-pin is for --identity; without a file the keys, and so the pin, are new each time")
    identity = identities.load_or_create(args.identity) if args.identity else identities.ephemeral()
    spki = identities.certificate_spki(args.tls_cert) if args.tls_cert else None
    if args.print_pin:
        pin = identities.pin(identities.keyset(identity, spki))
        sys.stdout.write((json.dumps({"pin": pin}) if args.json else pin) + "\n")
        return 0
    from .dishonest import Mischief
    from .moderation.prover import Prover
    from .node import Node
    from .server import serve

    mischief = Mischief(args.dishonest, args.dishonest_after) if args.dishonest else None
    about_machine = args.dishonest in _MACHINE_MODES
    attester = None
    if args.tee is not None:
        from .machine import open_machine

        attester = open_machine(
            args.tee, args.tee_root, time.time(), gpu=args.tee_gpu, mischief=mischief if about_machine else None
        )
    prover = Prover(args.prove, lambda text: _say_progress(args, text)) if args.prove else None
    node = Node(
        identity,
        _source(args, prover),
        spki=spki,
        mischief=None if about_machine else mischief,
        fronts_backend=fronts,
        attester=attester,
    )
    listener = _listen(args.host, args.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if args.tls_cert else 'http'}://{shown}:{port}"
    tls = (str(args.tls_cert), str(args.tls_key)) if args.tls_cert else None
    root_sha256 = attester.root_sha256 if attester else None
    return serve(node, listener, tls, lambda: _say_ready(args, url, node.pin, root_sha256, prover))


def _source(args: argparse.Namespace, prover: Prover | None):  # type: ignore[no-untyped-def]
    names = tuple(args.model_name)
    if args.backend is not None:
        from .backend import BackendSource

        return BackendSource(args.backend, args.backend_key_env, names)
    try:
        from .lm.engine import Engine
        from .lm.model import Weights
        from .lm.precision import at_precision, other_model
        from .source import LocalSource
    except ImportError as error:
        raise ConfigError(f"the node's own model needs NumPy ({error}); install veriroute[node]") from None
    weights = Weights.open()
    if args.model_variant:
        weights = other_model(weights)
    return LocalSource(Engine(at_precision(weights, args.precision or "fp32")), names, prover)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(
            f"cannot listen on {host}:{port} ({why}); --host and --port say where, and --port 0 takes a free one"
        ) from None


def _say_progress(args: argparse.Namespace, text: str) -> None:
    if not (args.json or args.quiet):
        sys.stderr.write(f"making {text}\n")
        sys.stderr.flush()


def _say_ready(args: argparse.Namespace, url: str, pin: str, root_sha256: str | None, prover: Prover | None) -> None:
    root = args.tee_root / "root.der" if root_sha256 else None
    if args.json:
        tee = {"tee": args.tee, "root": str(root), "root_sha256": root_sha256} if root else {}
        zk = {"circuit": prover.circuit, "circuit_folder": str(prover.pinned)} if prover else {}
        line = json.dumps({"event": "ready", "url": url, "pin": pin, **tee, **zk})
    elif args.quiet:
        return
    else:
        kept = (
            f"identity in {args.identity}" if args.identity else "new keys, gone when it stops (--identity keeps them)"
        )
        lies = " and ".join(filter(None, (args.dishonest, args.model_variant and "another model under the same name")))
        lie = f"\nwarning    this node is dishonest on purpose: {lies}" if lies else ""
        tee = f"\ntest root  {root} ({args.tee}: made up, for tests; no hardware is behind it)" if root else ""
        zk = (
            f"\ncircuit    {prover.circuit}\n           {prover.pinned} (an SRS of its own: for tests)"
            if prover
            else ""
        )
        line = f"node       {url}\npin        {pin}\nkeys       {kept}{tee}{zk}{lie}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


command = SimpleNamespace(HELP=HELP, configure=configure, run=run, __doc__=__doc__)
