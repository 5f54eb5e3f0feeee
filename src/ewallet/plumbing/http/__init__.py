"""The contract's conventions over HTTP, the same for every service.

``edge`` wraps an application (request id, bounds, log, metrics), ``contract`` declares endpoints and who may call them,
``bodies`` reads JSON strictly, ``problems`` renders refusals, ``application`` puts it together.
"""
