"""A service as an ASGI application: Litestar with the contract's conventions, behind an :class:`Edge`."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, Reference, SecurityScheme
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ControllerRouterHandler, Method
from litestar.types.internal_types import PathParameterDefinition

from ewallet import __version__
from ewallet.plumbing.http.addresses import NO_PROXIES, TrustedProxies
from ewallet.plumbing.http.bodies import PlainRequest, StrictBody
from ewallet.plumbing.http.contract import BASIC, BEARER, check_request
from ewallet.plumbing.http.operations import Check, operations
from ewallet.plumbing.http.problems import render_error
from ewallet.plumbing.json import encode
from ewallet.plumbing.tokens import Verifier

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

Service = TypeVar("Service")


@dataclass(frozen=True, slots=True)
class House(Generic[Service]):
    """A service that has been put together.

    ``service`` are its use cases, which other services in this process call directly; ``application`` is its HTTP side,
    and its databases and workers live as long as the application's lifespan.
    """

    name: str
    service: Service
    application: Litestar

    def lifespan(self, _gateway: Litestar) -> AbstractAsyncContextManager[None]:
        """The service's life as a part of another application's: the gateway's, where they share a process."""
        return self.application.lifespan()


OPENAPI_PATH = "/openapi"
"""Each service serves its own document at ``/openapi/openapi.json``; the gateway merges them."""


def service_application(
    *,
    name: str,
    routes: Sequence[ControllerRouterHandler],
    verifier: Verifier,
    internal_secret: str,
    lifespan: Sequence[Lifespan] = (),
    trusted_proxies: TrustedProxies = NO_PROXIES,
    ready: Check | None = None,
) -> Litestar:
    """Litestar, set up so that every service answers in the same way; with ``ready``, the operators' pages too."""
    return _Litestar(
        route_handlers=[*routes, *(operations(ready) if ready else ())],
        lifespan=list(lifespan),
        state=State({"verifier": verifier, "internal_secret": internal_secret, "trusted_proxies": trusted_proxies}),
        request_class=PlainRequest,
        dto=StrictBody,
        return_dto=None,
        before_request=check_request,
        exception_handlers={Exception: render_error},
        openapi_config=_openapi(name),
        logging_config=None,
        debug=False,
    )


class _Litestar(Litestar):
    """Litestar that loads what we use: for Pydantic's models, of which we have none, it would need 0.2 s and 6 MB."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def _openapi(name: str) -> OpenAPIConfig:
    schemes: dict[str, SecurityScheme | Reference] = {
        BEARER: SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
        BASIC: SecurityScheme(type="http", scheme="basic"),
    }
    return OpenAPIConfig(
        title=f"ewallet {name}",
        version=__version__,
        path=OPENAPI_PATH,
        render_plugins=[_Document()],
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
        components=Components(security_schemes=schemes),
    )


def openapi_document(application: Litestar) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a service."""
    return _as_in_contract(application.openapi_schema.to_schema())


class _Document(JsonRenderPlugin):
    """Litestar's page for the document, as :func:`openapi_document` gives it."""

    def render(
        self,
        request: Request[Any, Any, Any],  # noqa: ARG002  # Litestar's signature
        openapi_schema: dict[str, Any],
    ) -> bytes:
        return encode(_as_in_contract(openapi_schema))


def _operation_id(handler: HTTPRouteHandler, _method: Method, _path: list[str | PathParameterDefinition]) -> str:
    """``initiatePayment``: what a generated client will call the operation."""
    return _camel_case(handler.handler_name)


def _as_in_contract(document: dict[str, Any]) -> dict[str, Any]:
    """Litestar's document with the contract's spelling: ``/wallet/{customerId}``, and bounds that are whole numbers."""
    schemas = document["components"].get("schemas", {})
    paths = {
        _PATH_PARAMETER.sub(lambda found: _camel_case(found[0]), path): _operations(item, schemas)
        for path, item in document["paths"].items()
    }
    spelled: dict[str, Any] = _with_whole_numbers({**document, "paths": paths})
    return spelled


_PATH_PARAMETER = re.compile(r"{\w+}")


def _operations(item: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The operations of a path, their path parameters spelled as in the path, each summed up by its own first line."""
    return {method: _operation(operation, schemas) for method, operation in item.items()}


def _operation(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    spelled = dict(operation)
    if "parameters" in operation:
        spelled["parameters"] = [_spelled(parameter) for parameter in operation["parameters"]]
    if "description" in operation:
        spelled["summary"] = operation["description"].partition("\n\n")[0].rstrip(".")
    if "requestBody" in operation:
        spelled["requestBody"] = {**operation["requestBody"], "required": _needed(operation["requestBody"], schemas)}
    return spelled


def _needed(body: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether a body must be sent: one that need not say anything may be left out, which Litestar does not know."""
    references = [content["schema"].get("$ref", "") for content in body["content"].values()]
    return any(schemas.get(name.rpartition("/")[2], {"required": True}).get("required") for name in references)


def _spelled(parameter: dict[str, Any]) -> dict[str, Any]:
    return {**parameter, "name": _camel_case(parameter["name"])} if parameter["in"] == "path" else parameter


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _with_whole_numbers(value: Any) -> Any:
    """Litestar turns every bound into a float; ours are integers, and a reader should see ``1000``, not ``1000.0``."""
    match value:
        case dict():
            return {name: _with_whole_numbers(member) for name, member in value.items()}
        case list():
            return [_with_whole_numbers(member) for member in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
