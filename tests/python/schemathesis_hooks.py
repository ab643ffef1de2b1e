"""What a run is given to find its way, and what it may not do to the host.

The mock provider runs commands as processes of this very host, so whatever was generated, the
program that runs is `true`.
"""

import itertools
import json
import os
import re

import schemathesis

# What exists before the run. Random ids would meet nothing but 404; malformed ones are left, they
# are what a case is about.
KNOWN = {"id": os.environ["SANDBOX"], "exec_id": os.environ["EXEC"]}
WELL_FORMED = re.compile(r"(sb|ex)-[0-9a-f]{20}\Z")
# These end a sandbox, so they keep the ids of the sandboxes that the run itself made.
ENDING = {"destroySandbox", "extendSandbox"}
made = set()
addresses = itertools.cycle(range(0x10000))


def harmless(body):
    if not isinstance(body, dict):
        return
    if body.get("command") and isinstance(body["command"], str):
        body["command"] = "true"
    if isinstance(body.get("setup"), list):
        body["setup"] = ["true" if isinstance(line, str) else line for line in body["setup"]]


@schemathesis.hook
def before_call(context, case, kwargs):
    harmless(case.body)
    # Wrong keys are part of the run, and an address that shows many is not listened to any more.
    case.headers["X-Forwarded-For"] = f"2001:db8:{next(addresses):x}::1"
    if case.operation.definition.raw["operationId"] in ENDING:
        return
    parameters = case.path_parameters or {}
    for name, value in parameters.items():
        # A link may follow an id that a record does not have; without one it is another path.
        if value == "":
            parameters[name] = "none"
    for name in KNOWN.keys() & parameters.keys():
        value = str(parameters[name])
        if value not in made and WELL_FORMED.match(value):
            parameters[name] = KNOWN[name]


@schemathesis.hook
def after_call(context, case, response):
    # Commands that ended are forgotten after some more, so the newest one is followed. Its id is in
    # the only line of a reply and in the last one of a stream.
    operation = case.operation.definition.raw["operationId"]
    if operation == "execCommand" and response.status_code == 200:
        if case.path_parameters["id"] == KNOWN["id"]:
            KNOWN["exec_id"] = json.loads(response.text.strip().splitlines()[-1])["exec_id"]
    if response.status_code == 201 and "id" in response.text:
        made.add(response.json().get("id"))


@schemathesis.check
def the_key_is_known(context, response, case):
    # The routes of workers take credentials of workers only, and the run has none.
    is_for_workers = case.operation.path.startswith("/worker/")
    assert is_for_workers or response.status_code != 401, "the run goes on without a credential"
