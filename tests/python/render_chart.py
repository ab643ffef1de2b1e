"""Renders deploy/helm/stacyvm with Helm's own library and judges what comes out.

render_chart.py CHART OUT: writes the settings of servers and workers to OUT/server.yaml and
OUT/worker.yaml, ends with an error for the first thing that is wrong.
"""

import copy
import pathlib
import sys

import helm_python as helm
import kubernetes_validate
import yaml

KUBERNETES = ["1.30", "1.34"]
# Of the Prometheus operator, whose schema is not Kubernetes's.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}

LEAST = {
    "secrets": {
        "database": {"name": "db"},
        "workerSigningKey": {"name": "signing"},
        "serverTls": {"name": "tls"},
    }
}


def merged(base, more):
    whole = copy.deepcopy(base)
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            whole[key] = merged(whole[key], value)
        else:
            whole[key] = value
    return whole


CASES = {
    "least": LEAST,
    "everything": merged(
        LEAST,
        {
            "secrets": {"adminKey": {"name": "admin"}, "serverFiles": {"name": "files"}},
            "imagePullSecrets": [{"name": "pull"}],
            "rpcTls": {"clientNames": ["control.example.org"]},
            "server": {
                "replicas": 3,
                "allowedHosts": ["stacyvm.example.org"],
                "trustedProxies": ["10.0.0.0/8"],
                "config": {"defaults": {"max_sandboxes": 7}},
                "podAnnotations": {"a": "b"},
                "service": {"annotations": {"c": "d"}},
                "nodeSelector": {"e": "f"},
                "tolerations": [{"key": "g", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
            },
            "workers": {
                "controlPlaneUrl": "https://stacyvm.example.org",
                "config": {"worker": {"max_sandboxes": 9}},
                "tolerations": [{"operator": "Exists"}],
            },
            "networkPolicy": {"serverFrom": [{"namespaceSelector": {}}]},
            "monitoring": {
                "serviceMonitor": {"enabled": True, "keySecret": {"name": "viewer"}},
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
            },
        },
    ),
    "plain": {
        "secrets": {"database": {"name": "db"}, "workerSigningKey": {"name": "signing"}},
        "rpcTls": {"enabled": False},
    },
    "servers only": merged(
        LEAST, {"workers": {"enabled": False}, "networkPolicy": {"enabled": True}}
    ),
    "open": merged(
        LEAST,
        {
            "networkPolicy": {"enabled": False},
            "server": {"podDisruptionBudget": {"enabled": False}},
        },
    ),
}

REFUSED = {
    "nothing": ({}, "secrets.database.name"),
    "no certificate": (merged(LEAST, {"secrets": {"serverTls": {"name": ""}}}), "serverTls"),
    "a key that is none": (merged(LEAST, {"server": {"replica": 2}}), "replica"),
    "a name without the id": (merged(LEAST, {"rpcTls": {"serverName": "w"}}), "serverName"),
    "no monitoring key": (
        merged(LEAST, {"monitoring": {"serviceMonitor": {"enabled": True}}}),
        "keySecret",
    ),
}


def documents(rendered):
    """The objects of every template but the notes, by kind and component."""
    found = {}
    for path, text in rendered.items():
        if path.endswith("NOTES.txt") or path.endswith(".tpl"):
            continue
        for document in yaml.safe_load_all(text):
            if document is None:
                continue
            labels = document["metadata"]["labels"]
            key = document["kind"], labels["app.kubernetes.io/component"]
            assert key not in found, f"{key} is rendered twice"
            found[key] = document
    return found


def pod(found, kind, component):
    return found[kind, component]["spec"]["template"]


def selects(selector, template):
    wanted = selector["matchLabels"]
    return wanted.items() <= template["metadata"]["labels"].items()


def judge(case, values, found):
    for (kind, _), document in found.items():
        if kind in FOREIGN:
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)

    server = pod(found, "Deployment", "server")
    has_workers = values.get("workers", {}).get("enabled", True)
    templates = [server]
    if has_workers:
        templates.append(pod(found, "DaemonSet", "worker"))
    for template in templates:
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False
        volumes = {volume["name"] for volume in spec["volumes"]}
        (container,) = spec["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == volumes, f"{case}: {mounted ^ volumes} is mounted or there, not both"
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for way in container.get(probe, {}).values():
                if isinstance(way, dict):
                    assert way["port"] in ports

    (container,) = server["spec"]["containers"]
    assert "privileged" not in container["securityContext"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["readinessProbe"]["httpGet"]["path"] == "/api/v1/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/api/v1/live"
    service = found["Service", "server"]["spec"]
    assert service["selector"].items() <= server["metadata"]["labels"].items()
    if ("PodDisruptionBudget", "server") in found:
        assert selects(found["PodDisruptionBudget", "server"]["spec"]["selector"], server)

    if has_workers:
        worker = templates[1]
        (container,) = worker["spec"]["containers"]
        assert container["securityContext"]["privileged"] is True
        assert "livenessProbe" not in container, "it would end every sandbox of a node"
        assert found["DaemonSet", "worker"]["spec"]["updateStrategy"]["type"] == "OnDelete"
        policy = found.get(("NetworkPolicy", "worker"))
        if policy is not None:
            assert selects(policy["spec"]["podSelector"], worker)
            assert not selects(policy["spec"]["podSelector"], server)
            (rule,) = policy["spec"]["ingress"]
            (peer,) = rule["from"]
            assert selects(peer["podSelector"], server)
            assert not selects(peer["podSelector"], worker)
            assert [port["port"] for port in rule["ports"]] == ["rpc"]


def main(chart_dir, out):
    for case, values in CASES.items():
        linted = helm.lint(chart_dir, values, strict=True, namespace="sandboxes")
        wrong = [
            message
            for message in linted.get("messages", [])
            # An icon is recommended, not needed.
            if "icon" not in str(message)
        ]
        assert not wrong, f"{case}: {wrong}"
        with helm.Chart.load(chart_dir) as chart:
            rendered = chart.render(values, name="box", namespace="sandboxes")
        found = documents(rendered)
        judge(case, values, found)
        print(f"{case}: {len(found)} objects")
        if case == "everything":
            alerts = yaml.safe_load(pathlib.Path(chart_dir, "files/alerts.yml").read_text())
            assert found["PrometheusRule", "server"]["spec"] == alerts
            for who in ("server", "worker"):
                text = found["ConfigMap", who]["data"]["stacyvm.yaml"]
                pathlib.Path(out, f"{who}.yaml").write_text(text)
            assert "max_sandboxes: 7" in pathlib.Path(out, "server.yaml").read_text()
            assert "max_sandboxes: 9" in pathlib.Path(out, "worker.yaml").read_text()
    for case, (values, told) in REFUSED.items():
        try:
            with helm.Chart.load(chart_dir) as chart:
                chart.validate_schema(values)
                chart.render(values, name="box", namespace="sandboxes")
        except helm.HelmError as error:
            assert told in str(error), f"{case}: {error}"
        else:
            raise AssertionError(f"{case} was rendered")


main(*sys.argv[1:])
