"""Other gateways, for a comparison in the same run: `make bench-peers` installs them and measures them beside ours.

Each is started in its cheapest configuration, on one thread where it can be told so, in front of the same node, and
passes answers on: no key store, no log, no check of anything. They are found in bench/peers/, or not at all.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import urllib.parse

from targets import HERE, BenchError, Target

HOME = HERE / "peers"


class Peer(Target):
    """A gateway of somebody else. `program`: what bench/peers.sh put there, from `HOME`."""

    program = "?"
    start_limit_s = 180.0

    def prepare(self) -> None:
        if not self.executable().exists():
            raise BenchError(f"{self.name} is not installed: run bench/peers.sh")
        for name, text in self.files().items():
            (self.folder / name).write_text(text)

    def executable(self) -> pathlib.Path:
        return HOME / self.program

    def files(self) -> dict[str, str]:
        """Name -> text of what it has to be configured with."""
        return {}


class LiteLLM(Peer):
    name, what = "litellm", "LiteLLM's proxy (Python): a master key, no database, no callbacks"
    program, ready_path = "litellm/bin/litellm", "/health/liveliness"
    _key = "sk-bench"

    def files(self) -> dict[str, str]:
        return {
            "litellm.yaml": (
                "model_list:\n"
                f"  - model_name: {self.node.model}\n"
                "    litellm_params:\n"
                f"      {{model: openai/{self.node.model}, api_base: '{self.node.url}/v1', api_key: sk-node}}\n"
                "litellm_settings: {telemetry: false, num_retries: 0, request_timeout: 600, set_verbose: false}\n"
                "router_settings: {num_retries: 0}\n"
                "general_settings: {disable_spend_logs: true}\n"
            )
        }

    def environment(self) -> dict[str, str]:
        return {
            "LITELLM_MASTER_KEY": self._key,  # without one it does not start
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "NO_DOCS": "True",
        }

    def command(self) -> list[str]:
        self.headers = [f"Authorization: Bearer {self._key}"]
        config = ["--config", str(self.folder / "litellm.yaml"), "--num_workers", "1"]
        return [str(self.executable()), *config, "--host", "127.0.0.1", "--port", str(self.port)]


#: The wheel carries the whole gateway; it chooses its port and says it in a file.
_TENSORZERO = """
import sys, time, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
open(sys.argv[2], "w").write(gateway.base_url)
while True:
    time.sleep(3600)
"""


class TensorZero(Peer):
    name, what = "tensorzero", "TensorZero's gateway (Rust), observability off"
    program, path = "tensorzero/bin/python", "/openai/v1/chat/completions"

    def files(self) -> dict[str, str]:
        self.model = f"tensorzero::model_name::{self.node.model}"
        return {
            "start_tensorzero.py": _TENSORZERO,
            "tensorzero.toml": (
                "gateway.observability.enabled = false\n"
                f"[models.{self.node.model}]\nrouting = ['node']\n"
                f"[models.{self.node.model}.providers.node]\ntype = 'openai'\nmodel_name = '{self.node.model}'\n"
                f"api_base = '{self.node.url}/v1/'\napi_key_location = 'none'\n"
            ),
        }

    def environment(self) -> dict[str, str]:
        return {"TOKIO_WORKER_THREADS": "1", "RUST_LOG": "error"}

    def command(self) -> list[str]:
        files = [str(self.folder / name) for name in ("start_tensorzero.py", "tensorzero.toml", "tensorzero.url")]
        return [str(self.executable()), *files]

    def is_ready(self) -> bool:
        said = self.folder / "tensorzero.url"
        port = urllib.parse.urlsplit(said.read_text()).port if said.exists() else None
        if port is None:
            return False
        self.port = port
        return super().is_ready()


class VllmRouter(Peer):
    name, what = "vllm-router", "vllm-router (Rust), round robin over one worker"
    program = "vllm-router/bin/vllm-router"

    def environment(self) -> dict[str, str]:
        return {"TOKIO_WORKER_THREADS": "1"}

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--prometheus-port", str(self.port + 1)]
        worker = ["--worker-urls", self.node.url, "--policy", "round_robin", "--log-level", "error"]
        return [str(self.executable()), *where, *worker]


class Portkey(Peer):
    name, what = "portkey", "Portkey's gateway (Node.js), headless"
    program, ready_path = "portkey/node_modules/@portkey-ai/gateway/build/start-server.js", "/"

    def environment(self) -> dict[str, str]:
        return {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}

    def command(self) -> list[str]:
        node = f"x-portkey-custom-host: {self.node.url}/v1"
        self.headers = ["x-portkey-provider: openai", node, "Authorization: Bearer sk-node"]
        return [shutil.which("node") or "node", str(self.executable()), f"--port={self.port}", "--headless"]


PEERS: dict[str, type[Peer]] = {kind.name: kind for kind in (LiteLLM, TensorZero, VllmRouter, Portkey)}

if __name__ == "__main__":
    sys.stdout.write("\n".join(f"{name}: {kind.what}" for name, kind in PEERS.items()) + "\n")
