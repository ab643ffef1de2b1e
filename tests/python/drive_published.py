"""Drives every method of the published `stacyvm` 0.1.1 package against a running server.

Usage: drive_published.py BASE_URL sync|async [KEY]. The server must hold the image `alpine:latest`.
Prints one line per checked method; any surprise is a traceback and a non-zero exit.
"""

import asyncio
import inspect
import sys

import stacyvm
from stacyvm.models import Template
from stacyvm.providers import ProviderManager
from stacyvm.templates import TemplateManager


KEY = sys.argv[3] if len(sys.argv) > 3 else None


class Sync:
    """Calls methods of the synchronous client."""

    def __init__(self, url):
        self.client = stacyvm.Client(base_url=url, api_key=KEY, user_id="ann")

    def call(self, target, name, *args, **kwargs):
        return getattr(target, name)(*args, **kwargs)

    def stream(self, target, *args, **kwargs):
        return list(target.exec_stream(*args, **kwargs))


class Async:
    """Calls methods of the asynchronous client on one event loop."""

    def __init__(self, url):
        self.loop = asyncio.new_event_loop()
        self.client = stacyvm.AsyncClient(base_url=url, api_key=KEY, user_id="ann")

    def call(self, target, name, *args, **kwargs):
        result = getattr(target, name)(*args, **kwargs)
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def stream(self, target, *args, **kwargs):
        async def collect():
            return [chunk async for chunk in target.exec_stream(*args, **kwargs)]

        return self.loop.run_until_complete(collect())


def fails(kind, act):
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def checked(name):
    print(f"ok {name}")


def drive_client(way):
    client = way.client
    health = way.call(client, "health")
    assert health["status"] == "ok" and health["version"] and health["uptime"], health
    checked("health")

    providers = way.call(client, "providers")
    assert any(p["name"] == "native" and p["healthy"] and p["default"] for p in providers), providers
    checked("providers")

    assert way.call(client, "pool_status") == {"enabled": False}
    checked("pool_status")
    summary = way.call(client, "quota_summary")
    assert (summary.total, summary.with_max_sandboxes) == (0, 0), summary
    checked("quota_summary")

    decision = way.call(client, "admission", ttl="5m", owner_id="ann")
    assert decision.allowed and not decision.queueable and decision.max_ttl == "24h0m0s", decision
    decision = way.call(client, "admission", ttl="48h")
    assert not decision.allowed and decision.reason == "max_ttl", decision
    checked("admission")

    error = fails(stacyvm.SandboxNotFound, lambda: way.call(client, "get", "sb-nope"))
    assert "sandbox not found: sb-nope" in str(error), error
    error = fails(stacyvm.StacyVMError, lambda: way.call(client, "spawn", ttl="48h"))
    assert error.code == "RESOURCE_LIMIT", error.code
    error = fails(stacyvm.StacyVMError, lambda: way.call(client, "spawn", ttl="soon"))
    assert error.code == "BAD_REQUEST", error.code
    checked("errors")


def drive_sandbox(way):
    client = way.client
    # The method's own default image, and every optional parameter once.
    plain = way.call(client, "spawn")
    assert plain.image == "alpine:latest" and plain.state == "running", plain
    way.call(plain, "destroy")
    sandbox = way.call(
        client, "spawn", image="host", provider="native", memory_mb=256, vcpus=1, ttl="10m",
        owner_id="ann", metadata={"purpose": "test"},
    )
    assert sandbox.id.startswith("sb-") and sandbox.provider == "native"
    assert sandbox.get_preview_url(3000) == f"http://3000-{sandbox.id}.localhost"
    checked("spawn")

    try:
        again = way.call(client, "get", sandbox.id)
        assert again.id == sandbox.id
        row = next(r for r in way.call(client, "list") if r.id == sandbox.id)
        assert row.state == "running" and row.memory_mb == 256 and row.metadata == {"purpose": "test"}
        assert row.created_at and row.expires_at
        checked("get, list")
        drive_exec(way, sandbox)
        drive_files(way, sandbox)
        way.call(sandbox, "extend_ttl", "20m")
        way.call(sandbox, "refresh")
        assert sandbox.state == "running"
        checked("extend_ttl, refresh")
    finally:
        way.call(sandbox, "destroy")
    way.call(sandbox, "destroy")
    fails(stacyvm.SandboxNotFound, lambda: way.call(sandbox, "refresh"))
    checked("destroy")
    assert way.call(client, "prune") == 0
    checked("prune")


def drive_exec(way, sandbox):
    result = way.call(sandbox, "exec", "echo hi; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "hi\n", "err\n"), result
    assert result.duration
    result = way.call(
        sandbox, "exec", "printf", args=["%s-%s", "a b", "$HOME"], mode="argv",
        env={"X": "1"}, workdir="/tmp", timeout="30s",
    )
    assert (result.exit_code, result.stdout) == (0, "a b-$HOME"), result
    result = way.call(sandbox, "exec", "echo", args=["it's", "$(id)"])
    assert result.stdout == "it's $(id)\n", result
    result = way.call(sandbox, "exec", "echo $X; pwd", env={"X": "y z"}, workdir="/tmp")
    assert result.stdout == "y z\n/tmp\n", result
    result = way.call(sandbox, "exec", "")
    assert result.exit_code == 0, result
    error = fails(stacyvm.StacyVMError, lambda: way.call(sandbox, "exec", "sleep 60", timeout="200ms"))
    assert error.code == "TIMEOUT" and "exec timeout" in str(error), (error.code, error)
    checked("exec")

    text = "line one\u0085\u2028 é\n"
    way.call(sandbox, "write_file", "/workspace/odd.txt", text)
    chunks = way.stream(sandbox, "cat /workspace/odd.txt; echo oops >&2")
    out = "".join(c.data for c in chunks if c.stream == "stdout")
    err = "".join(c.data for c in chunks if c.stream == "stderr")
    assert (out, err) == (text, "oops\n"), chunks
    assert chunks[-1].stream == "exit" and chunks[-1].data == "", chunks[-1]
    chunks = way.stream(sandbox, "printenv", args=["X"], mode="argv", env={"X": "v"}, workdir="/tmp")
    assert "".join(c.data for c in chunks) == "v\n", chunks
    checked("exec_stream")


def drive_files(way, sandbox):
    way.call(sandbox, "write_file", "/workspace/a/b.txt", "héllo", mode="0600")
    assert way.call(sandbox, "read_file", "/workspace/a/b.txt") == "héllo"
    checked("write_file, read_file")
    info = way.call(sandbox, "stat_file", "/workspace/a/b.txt")
    assert info["size"] == 6 and not info["is_dir"] and info["path"] == "/workspace/a/b.txt", info
    assert info["mode"] == "0600" and info["mod_time"].endswith("Z"), info
    way.call(sandbox, "chmod_file", "/workspace/a/b.txt", "0755")
    assert way.call(sandbox, "stat_file", "/workspace/a/b.txt")["mode"] == "0755"
    checked("stat_file, chmod_file")
    way.call(sandbox, "move_file", "/workspace/a/b.txt", "/workspace/c/d.txt")
    names = [f["path"] for f in way.call(sandbox, "list_files", "/workspace/c")]
    assert names == ["/workspace/c/d.txt"], names
    assert any(f["path"] == "/workspace" and f["is_dir"] for f in way.call(sandbox, "list_files"))
    checked("move_file, list_files")
    assert way.call(sandbox, "glob_files", "/workspace/**/*.txt") == [
        "/workspace/c/d.txt", "/workspace/odd.txt",
    ]
    assert way.call(sandbox, "glob_files", "/workspace/*.none") == []
    checked("glob_files")
    way.call(sandbox, "delete_file", "/workspace/c", recursive=True)
    way.call(sandbox, "delete_file", "/workspace/odd.txt")
    fails(stacyvm.SandboxNotFound, lambda: way.call(sandbox, "read_file", "/workspace/odd.txt"))
    checked("delete_file")


def drive_templates(url, way):
    # Templates and providers are synchronous in the published package.
    client = stacyvm.Client(base_url=url, api_key=KEY)
    name = f"t-{type(way).__name__.lower()}"
    saved = client.templates.save(
        Template(name=name, image="host", memory_mb=128, vcpus=1, ttl="7m", metadata={"k": "v"})
    )
    assert (saved.vcpus, saved.ttl, saved.memory_mb, saved.metadata) == (1, "7m0s", 128, {"k": "v"}), saved
    assert client.templates.get(name).image == "host"
    assert name in [t.name for t in client.templates.list()]
    sandbox = way.call(way.client, "spawn_template", name)
    row = next(r for r in way.call(way.client, "list") if r.id == sandbox.id)
    assert row.memory_mb == 128 and row.metadata.get("k") == "v", row
    way.call(sandbox, "destroy")
    client.templates.delete(name)
    fails(stacyvm.SandboxNotFound, lambda: client.templates.get(name))
    assert isinstance(client.templates, TemplateManager)
    checked("templates, spawn_template")
    manager = ProviderManager(client._http)
    assert manager.list() and manager.test()["native"] is True
    checked("ProviderManager")
    client.close()


def drive_scopes(url, way):
    # The context managers destroy the sandbox and close the client.
    if isinstance(way, Sync):
        with stacyvm.Client(base_url=url, api_key=KEY) as client:
            with client.spawn(image="host") as sandbox:
                inside = sandbox.id
            fails(stacyvm.SandboxNotFound, lambda: client.get(inside))
        way.client.close()
    else:
        async def scope():
            async with stacyvm.AsyncClient(base_url=url, api_key=KEY) as client:
                async with await client.spawn(image="host") as sandbox:
                    inside = sandbox.id
                try:
                    await client.get(inside)
                except stacyvm.SandboxNotFound:
                    return
                raise AssertionError("the sandbox outlived its scope")

        way.loop.run_until_complete(scope())
        way.loop.run_until_complete(way.client.close())
    checked("close, with")


def main():
    url, kind = sys.argv[1:3]
    way = {"sync": Sync, "async": Async}[kind](url)
    drive_client(way)
    drive_sandbox(way)
    drive_templates(url, way)
    drive_scopes(url, way)


main()
