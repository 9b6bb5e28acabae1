"""httpx's client without what most calls do not need, and with what calls have in common worked out once."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Any, cast

import httpx

from webapp.routing.http_request import PROBE, NoCookies, PreparedRequest, Template
from webapp.routing.wire import CONNECT_S

if TYPE_CHECKING:
    from httpx._client import UseClientDefault
    from httpx._types import (
        AuthTypes,
        CookieTypes,
        HeaderTypes,
        QueryParamTypes,
        RequestContent,
        RequestData,
        RequestExtensions,
        RequestFiles,
        TimeoutTypes,
    )

_MOST_TEMPLATES = 256
_to_json = json_format.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode  # as httpx does it


class PooledClient(httpx.Client):
    """A client that does what most calls need and no more: what httpx does for headers, cookies, redirects, sign-in and event
    hooks costs more than the call. Where a call asks for any of it, httpx does it."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._jar = NoCookies()
        super().__init__(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            headers={"Accept-Encoding": "identity", "User-Agent": "Switchhook"},
            cookies=self._jar,
        )
        self._own_cookies, self._own_params = self._cookies, self._params
        # By method, address and headers, and only in memory: headers hold keys.
        self._templates: dict[object, Template] = {}
        self._templates_headers = self._headers.raw

    def build_request(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        content: RequestContent | None = None,
        data: RequestData | None = None,
        files: RequestFiles | None = None,
        json: Any | None = None,
        params: QueryParamTypes | None = None,
        headers: HeaderTypes | None = None,
        cookies: CookieTypes | None = None,
        timeout: TimeoutTypes | UseClientDefault = httpx.USE_CLIENT_DEFAULT,
        extensions: RequestExtensions | None = None,
    ) -> httpx.Request:
        """Requests with a body of bytes or JSON are made from what one like them had in common; all others httpx makes."""
        if data is None and files is None and params is None and cookies is None:
            is_json = content is None and json is not None
            body = _to_json(json).encode() if is_json else content
            if type(body) is bytes and body and (template := self._template(method, url, headers, is_json=is_json)):
                own = {} if extensions is None else dict(extensions)
                if "timeout" not in own:
                    default = timeout is httpx.USE_CLIENT_DEFAULT
                    times = self._timeout if default else httpx.Timeout(cast("TimeoutTypes", timeout))
                    own["timeout"] = times.as_dict()
                return PreparedRequest(template, body, own)
        return super().build_request(
            method,
            url,
            content=content,
            data=data,
            files=files,
            json=json,
            params=params,
            headers=headers,
            cookies=cookies,
            timeout=timeout,
            extensions=extensions,
        )

    def _template(self, method: str, url: httpx.URL | str, headers: HeaderTypes | None, *, is_json: bool) -> Template | None:
        """What requests to `url` with these headers have in common; None where they may differ in more than the body."""
        if type(url) is not str or (headers is not None and type(headers) is not dict):
            return None
        if self._cookies is not self._own_cookies or self._jar.filled or self._params is not self._own_params:
            return None
        shared = self._headers.raw
        if shared != self._templates_headers:
            self._templates, self._templates_headers = {}, shared
        key = (method, url, is_json, tuple(headers.items()) if headers else ())
        templates = self._templates
        try:
            found = templates.get(key)
        except TypeError:  # a header's value that is not text: httpx says so
            return None
        if found is None and (found := self._new_template(method, url, headers, is_json=is_json)):
            if len(templates) >= _MOST_TEMPLATES:
                templates.clear()
            templates[key] = found
        return found

    def _new_template(self, method: str, url: str, headers: HeaderTypes | None, *, is_json: bool) -> Template | None:
        if not url.startswith(("http://", "https://")):
            return None  # below the client's address, if it has one
        body: dict[str, Any] = {"json": json_format.loads(PROBE)} if is_json else {"content": PROBE}
        probe = super().build_request(method, url, headers=headers, **body)
        set_names = [name.lower() for name, _ in (*self._headers.raw, *httpx.Headers(headers).raw)]
        return Template.of(probe, set_names)

    def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: AuthTypes | UseClientDefault | None = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: bool | UseClientDefault = httpx.USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        """As httpx's, without what nobody asked for."""
        asked = auth is not httpx.USE_CLIENT_DEFAULT or follow_redirects is not httpx.USE_CLIENT_DEFAULT
        # No template is made of an address with a user in it.
        if asked or ((type(request) is not PreparedRequest or not request.untouched) and request.url.userinfo):
            return super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        if self.is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        response = self._transport.handle_request(request)
        response.request = request
        if not stream:
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        return response
