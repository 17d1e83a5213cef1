"""Refusals by HAProxy itself, in the place of a replica that has no room.

In overload most requests are refused, and each refusal costs a replica time that it needs for images: it reads the head
and, because the connection stays open, the whole body too. So a full replica says with its 503 for how long it wants no
requests (``PAUSE_HEADER``). For so long HAProxy sends the same answer itself, and the connection stays open, too.

HAProxy sends a request to the replica that has the fewest, so the others have no more room than the one that refuses.
The time is a fraction of what the replica's queue takes (``Room.pause_s``), so the queue does not run empty.
"""

from __future__ import annotations

import json
import re

from imgcls_ray.serve.admission.request import PAUSE_HEADER, REFUSED_HEADER, REQUEST_ID_PATTERN, error_answer
from imgcls_ray.serve.errors import KSERVE_PATH, PADDLEX_PATHS, no_room

_ID = "the request's id"
_OF_ONE_REQUEST = (b"content-length", b"x-request-id")
# The script's: HAProxy's own `return` closes the connection of a caller whose body it has not read.
_SERVICE = "imgcls_refuse"
# How many requests of each application HAProxy refused, until a replica is told.
COUNTERS = "backend imgcls_refused\n    stick-table type string size 1k store gpc0\n"


def backend_lines(number: int) -> list[str]:
    """The rules of one application: its number tells its time and its counter from those of others."""
    until, pause, refused = f"proc.imgcls_until_{number}", PAUSE_HEADER.decode(), REFUSED_HEADER.decode()
    is_full = "{ var(txn.imgcls_full) -m bool }"
    return [
        f"http-request set-var(txn.imgcls_full) bool(true) if METH_POST {{ date(0,ms),sub({until}) lt 0 }}",
        f"http-request track-sc2 str({number}) table imgcls_refused if METH_POST",
        f"http-request sc-inc-gpc0(2) if {is_full}",
        f"http-request set-var(txn.imgcls_id) uuid() if {is_full}",
        # The whole of the first one, as replicas take it: without a number, one part would be checked and another sent.
        f"http-request set-var(txn.imgcls_id) req.fhdr(x-request-id,1) if {is_full} "
        f"{{ req.fhdr(x-request-id,1) -m reg ^{REQUEST_ID_PATTERN}$ }}",
        f"http-request use-service lua.{_SERVICE} if {is_full}",
        # Whatever a caller says that HAProxy has refused.
        f"http-request del-header {refused}",
        "http-request set-var(txn.imgcls_refused) sc2_clr_gpc0 if METH_POST",
        f"http-request set-header {refused} %[var(txn.imgcls_refused)] if {{ var(txn.imgcls_refused) -m int gt 0 }}",
        f"http-response set-var(txn.imgcls_pause) res.hdr_val({pause}) if {{ res.hdr({pause}) -m found }}",
        f"http-response set-var({until}) date(0,ms),add(txn.imgcls_pause) if {{ var(txn.imgcls_pause) -m found }}",
        f"http-response del-header {pause}",
    ]


def script() -> str:
    """What HAProxy runs for such a request, in Lua: the answer that ``ProxyAdmission`` gives, and the body unheeded."""
    headers = ", ".join(f"{{{_quoted(name)}, {_quoted(value)}}}" for name, value in _answer("/")[0])
    exact = ", ".join(f"[{_quoted(path)}] = {_lua_body(path)}" for path in PADDLEX_PATHS)
    return f"""\
local headers = {{{headers}}}
local exact = {{{exact}}}
local kserve = {_lua_body(KSERVE_PATH)}
local ours = {_lua_body("/")}
core.register_service("{_SERVICE}", "http", function(applet)
  local path = applet.path
  local is_kserve = path == "{KSERVE_PATH}" or string.sub(path, 1, {len(KSERVE_PATH) + 1}) == "{KSERVE_PATH}/"
  local parts = exact[path] or (is_kserve and kserve) or ours
  local id = applet:get_var("txn.imgcls_id")
  local body = parts[1] .. id .. parts[2]
  applet:set_status(503)
  for _, header in ipairs(headers) do applet:add_header(header[1], header[2]) end
  applet:add_header("content-length", tostring(#body))
  applet:add_header("x-request-id", id)
  applet:start_response()
  applet:send(body)
end)
"""


def _lua_body(path: str) -> str:
    """What stands before and behind the request's id in the answer to a request of this path."""
    before, after = _answer(path)[1].split(_ID)
    return f"{{{_quoted(before)}, {_quoted(after)}}}"


def _answer(path: str) -> tuple[list[tuple[str, str]], str]:
    """Headers and body; of the headers, those that are the same for every request."""
    headers, body = error_answer(no_room(), path, _ID)
    kept = [(name.decode(), value.decode()) for name, value in headers if name not in _OF_ONE_REQUEST]
    return kept, body.decode()


def _quoted(text: str) -> str:
    # JSON's escapes of quotation marks and backslashes are Lua's, too; printable ASCII needs no others.
    assert re.fullmatch(r"[ -~]*", text), text
    return json.dumps(text)
